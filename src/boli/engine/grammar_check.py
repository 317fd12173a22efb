"""Tries a grammar out in a child process that can be killed.

The compiler counts its work and gives up in time, as far as is known: of the hostile schemas and expressions
in the tests none takes it a second. But it is compiled code that strangers feed, and a thread cannot be
stopped; so what is new goes to a small worker first (`grammar_worker.py`), which is started once and kept.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from boli.engine import grammar_worker
from boli.errors import GrammarError, MissingExtra, install

START_SECONDS = 20.0
"""How long a worker may take to start, on a machine that is busy or reads from a slow disk."""
COMPILE_SECONDS = 5.0


class Checker:
    """A worker process and the way to it. Threads may share one; they take turns.

    Args:
        seconds: Wall-clock time that one grammar may take.
    """

    def __init__(self, seconds: float = COMPILE_SECONDS) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None

    def check(self, grammar: str, limits: Mapping[str, int | bool]) -> None:
        """Compiles a grammar over there.

        Raises:
            GrammarError: It is wrong, or takes too much time or memory.
        """
        self._answer({"grammar": grammar, "limits": limits})

    def converted(self, gbnf: str) -> str:
        """Converts a grammar of llama.cpp to Lark over there.

        Raises:
            GrammarError: It is wrong, or takes too much time or memory.
        """
        return str(self._answer({"gbnf": gbnf})["lark"])

    def _answer(self, question: Mapping[str, object]) -> dict[str, object]:
        request = json.dumps(question).encode() + b"\n"
        with self._lock:
            try:
                answer = self._ask(request)
            except TimeoutError:
                self._stop()
                raise GrammarError(
                    "the schema or grammar takes too long to compile",
                    cause=f"it may take {self._seconds:g} seconds",
                    remedy="make it simpler",
                ) from None
            except (OSError, EOFError) as error:
                self._stop()
                raise GrammarError(
                    "the schema or grammar made its compiler fail",
                    cause=str(error) or "it ended",
                    remedy="make it simpler",
                ) from error
            except BaseException:  # Ctrl-C: with half an answer it is of no more use
                self._stop()
                raise
        if answer["error"] is not None:
            raise refused(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Ends the worker."""
        with self._lock:
            self._stop()

    def _ask(self, request: bytes) -> dict[str, object]:
        worker = self._worker
        if worker is None or worker.poll() is not None:
            self._stop()
            worker = self._worker = subprocess.Popen(  # noqa: S603 (our own file, no shell)
                [sys.executable, "-I", "-S", grammar_worker.__file__, _package_folder()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Its own session: Ctrl-C in the terminal is for us, not for it.
                start_new_session=True,
                env={},
            )
            _receive(worker, START_SECONDS)
        assert worker.stdin is not None
        worker.stdin.write(request)
        worker.stdin.flush()
        return _receive(worker, self._seconds)

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # what it did not read is not wanted
                    stream.close()


def refused(why: str) -> GrammarError:
    """What the compiler says against a grammar, as an error."""
    words = " ".join("".join(c if c.isprintable() else " " for c in why).split())
    return GrammarError("the schema or grammar cannot be used", cause=words[:300])


def _receive(worker: subprocess.Popen[bytes], seconds: float) -> dict[str, object]:
    """A line of the worker, which is short and written at once."""
    assert worker.stdout is not None
    poll = select.poll()
    poll.register(worker.stdout.fileno(), select.POLLIN)
    end = time.monotonic() + seconds
    while not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        if time.monotonic() >= end:
            raise TimeoutError
    line = worker.stdout.readline()
    if not line:
        raise EOFError
    answer: dict[str, object] = json.loads(line)
    return answer


def _package_folder() -> str:
    spec = importlib.util.find_spec("llguidance")
    if spec is None or spec.origin is None:
        raise MissingExtra("JSON schemas and grammars need llguidance", remedy=install("serve"))
    return str(Path(spec.origin).parent.parent)


_shared = Checker()
atexit.register(_shared.close)


def shared_checker() -> Checker:
    """The one worker of this process; it is started at the first use."""
    return _shared
