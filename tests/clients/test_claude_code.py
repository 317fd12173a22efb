"""Claude Code itself, if it is on this machine, with boli behind it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clients.actor import acting, finished, reader_of

CLAUDE = shutil.which("claude")
pytestmark = pytest.mark.skipif(CLAUDE is None, reason="Claude Code is not on this machine")


def run(home: Path, url: str, *arguments: str, status: int = 0) -> str:
    assert CLAUDE is not None
    variables = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": "toy",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "toy",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    done = finished([CLAUDE, *arguments], home, variables)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_it_reads_a_file_and_tells(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    note = home / "note.txt"
    note.write_text("the password is 玻璃-7\n")
    with acting(tmp_path, reader_of(note, "Read", "file_path")) as (server, actor):
        told = run(home, server.url, "-p", "What is the password?", "--allowedTools", "Read")
        assert told.strip() == "It says 玻璃-7."
        assert len(actor.prompts) == 2
        assert actor.prompts[1].startswith(actor.prompts[0].rpartition("<|im_start|>assistant")[0])


def test_it_knows_that_its_prompt_is_too_long(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with acting(tmp_path, str, context=8192) as (server, actor):
        assert run(home, server.url, "-p", "What is glass?", status=1).startswith("Prompt is too long")
        assert not actor.prompts
