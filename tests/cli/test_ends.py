"""How commands end: readers that go away, full disks, closed streams, surprises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boli.cli.report import explain, report
from boli.errors import CorruptFile
from cli.shell import PATIENCE, Here, Terminal, boli, environment


def pipe_without_reader() -> int:
    """The writing end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("command", ["--help", "generate --help", "doctor", "doctor --json", "--version"])
def test_a_reader_that_goes_away_ends_it_quietly(command: str) -> None:
    writer = pipe_without_reader()
    done = subprocess.run(
        [sys.executable, "-m", "boli", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_nobody_reads_errors_either() -> None:
    writer = pipe_without_reader()
    done = subprocess.run(
        [sys.executable, "-m", "boli", "generat"],
        stderr=writer,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "boli", "doctor"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_closed_streams_do_no_harm() -> None:
    command = f'exec "{sys.executable}" -m boli doctor <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", command], env=environment(), timeout=PATIENCE, check=False)
    assert done.returncode == 0


def test_a_surprise_is_one_clear_line_and_a_way_to_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BOLI_DEBUG", raising=False)
    assert report(ZeroDivisionError("division by zero"), json_output=False) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: boli failed in a way that nobody expected\n")
    assert "ZeroDivisionError: division by zero" in err
    assert "BOLI_DEBUG=1" in err
    monkeypatch.setenv("BOLI_DEBUG", "1")
    with pytest.raises(ZeroDivisionError) as caught:
        print(1 // 0)
    assert report(caught.value, json_output=False) == 1
    assert "Traceback" in capsys.readouterr().err


def test_every_kind_of_error_is_explained() -> None:
    assert explain(MemoryError()).code == "out_of_memory"
    refused = explain(PermissionError(13, "Permission denied", "/some/file"))
    assert "/some/file" in refused.message
    assert refused.cause == "Permission denied"
    known = CorruptFile("bad")
    assert explain(known) is known


def test_an_error_cannot_steer_the_terminal(here: Here) -> None:
    ended = here("generate", "x", "--model", "no\x1b[2Jsuch\x07model")
    assert ended.code != 0
    assert "\x1b" not in ended.err
    assert "\x07" not in ended.err


@pytest.mark.parametrize("columns", ["40", "80"])
def test_errors_are_folded_at_words(here: Here, columns: str) -> None:
    err = here("generate", "x", "--top-k", "3", COLUMNS=columns).err
    assert all(len(line) <= int(columns) for line in err.splitlines())
    assert "0, the default, the" in " ".join(err.split())


def test_debugging_shows_the_traceback_of_a_known_error() -> None:
    ended = boli("generate", "", settings={"BOLI_DEBUG": "1"})
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert "error: the text is empty" in ended.err


def test_text_from_the_keyboard_ends_with_ctrl_d() -> None:
    with Terminal("tokenize", "-", "--model", "./no-such-model") as terminal:
        terminal.until("Ctrl-D ends it")
        terminal.type("我爱北京\n\x04")
        assert terminal.end() == 1
        assert "no-such-model" in terminal.text


def test_ctrl_c_while_reading_the_keyboard_leaves_with_130() -> None:
    with Terminal("generate", "-") as terminal:
        terminal.until("Ctrl-D ends it")
        terminal.type("half a")
        assert terminal.interrupt() == 130
        assert "Traceback" not in terminal.text
