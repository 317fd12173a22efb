"""Continue's program `cn`, if it is on this machine, with boli behind it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clients.actor import acting, finished, reader_of

CN = shutil.which("cn")
pytestmark = pytest.mark.skipif(CN is None, reason="Continue is not on this machine")

CONFIG = """
name: Local
version: 0.0.1
schema: v1
models:
  - name: boli
    provider: {provider}
    model: toy
    apiBase: {base}
    apiKey: none
    roles: [chat, edit]
"""


@pytest.mark.parametrize(("provider", "path"), [("openai", "/v1"), ("ollama", "")])
def test_it_reads_a_file_and_tells(provider: str, path: str, tmp_path: Path) -> None:
    assert CN is not None
    home = tmp_path / "home"
    home.mkdir()
    note = home / "note.txt"
    note.write_text("the password is 玻璃-7\n")
    with acting(tmp_path, reader_of(note, "Read", "filepath")) as (server, actor):
        config = home / "config.yaml"
        config.write_text(CONFIG.format(provider=provider, base=server.url + path))
        silent = {"CONTINUE_METRICS_ENABLED": "0", "CONTINUE_CLI_AUTO_UPDATED": "true"}
        done = finished([CN, "--config", str(config), "-p", "What is the password?"], home, silent)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip().endswith("It says 玻璃-7.")
        assert len(actor.prompts) == 2
