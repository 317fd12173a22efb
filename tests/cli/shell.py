"""Runs boli as a user does: as a process, with pipes or at a terminal of a given size."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

PATIENCE = 120.0  # seconds; a slow machine may be compiling kernels
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
_LISTENING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.executable, [sys.executable, '-m', 'boli', *sys.argv[1:]])"
)
# Becomes the leader of the terminal, so that Ctrl-C reaches it as a signal.
_AT_TERMINAL = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);" + _LISTENING
_SETTINGS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "BOLI_DEBUG", "PYTHONUNBUFFERED")


Settings = Mapping[str, str]


def environment(changes: Settings | None = None) -> dict[str, str]:
    """This process's environment without what changes how boli writes, and with `changes`."""
    kept = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    return {**kept, "TERM": "xterm-256color", **(changes or {})}


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        return json.loads(self.out, parse_constant=_no_constant)


Here = Callable[..., Ended]


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def boli(*arguments: str | bytes, stdin: bytes = b"", settings: Settings | None = None) -> Ended:
    """Runs boli with pipes to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "boli", *arguments],
        input=stdin,
        capture_output=True,
        env=environment(settings),
        timeout=PATIENCE,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(*arguments: str, settings: Settings | None = None) -> subprocess.Popen[bytes]:
    """Starts boli with pipes; it hears Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-c", _LISTENING, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(settings),
    )


def interrupt(process: subprocess.Popen[bytes]) -> Ended:
    """Sends the signal of Ctrl-C and waits for the end."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, out.decode(), err.decode())


class Terminal:
    """boli at a terminal of its own, with somebody who types.

    Attributes:
        raw: All that was written to the screen, escape sequences included.
    """

    def __init__(self, *arguments: str, columns: int = 80, settings: Settings | None = None) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (50, columns))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AT_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(settings),
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""
        self._bytes = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What was written, without escape sequences and carriage returns."""
        return _ESCAPE.sub("", self.raw).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Types; a line needs its line feed."""
        os.write(self._master, text.encode())

    def until(self, text: str, count: int = 1) -> None:
        """Waits until `text` is on the screen `count` times."""
        deadline = time.monotonic() + PATIENCE
        while self.text.count(text) < count:
            assert time.monotonic() < deadline, f"{text!r} did not come; on the screen: {self.text}"
            assert self._read(), f"{text!r} did not come before the end; on the screen: {self.text}"

    def end(self) -> int:
        """Waits for the end and returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read():
            assert time.monotonic() < deadline, f"it does not end; on the screen: {self.text}"
        return self._process.wait(timeout=PATIENCE)

    def interrupt(self) -> int:
        """Types Ctrl-C and waits for the end; types it again, as one does, if nothing happens.

        Python blocks when a signal comes in the moment between its last look and the system call.
        """
        deadline = time.monotonic() + PATIENCE
        typed = 0.0
        while True:
            if time.monotonic() - typed > 2.0:
                self.type("\x03")
                typed = time.monotonic()
            if not self._read():
                return self._process.wait(timeout=PATIENCE)
            assert time.monotonic() < deadline, f"it does not end; on the screen: {self.text}"

    def _read(self) -> bool:
        """Reads what is there; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self._bytes += data
        self.raw = self._bytes.decode(errors="replace")
        return bool(data)


def lines_wider_than(text: str, columns: int) -> list[str]:
    """The lines that do not fit; a Chinese character takes two columns."""
    from rich.cells import cell_len

    return [line for line in text.splitlines() if cell_len(line) > columns]
