"""Two ways to run the command line: in this process, which is quick, and the real model for the rest."""

from __future__ import annotations

import io
import sys

import pytest

from boli.cli.app import run
from boli.sources import resolve
from cli.shell import Ended, Here


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs a command line in this process: `here("generate", "x", stdin=b"…", COLUMNS="40")`.

    For what does not depend on the process; starting one costs a hundred times as much.
    """
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "BOLI_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run_here(*arguments: str, stdin: bytes = b"", **settings: str) -> Ended:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            for name, value in settings.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = run(arguments)
        return Ended(code, *capsys.readouterr())

    return run_here


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The name of the default model, once it is on this machine."""
    return resolve("smollm2").name
