"""Renders chat templates in a child process that can be killed.

Jinja's sandbox keeps a template from running code; it does not keep it from running for ever, or from asking
for a terabyte, and a thread cannot be stopped. So templates are rendered by a small worker
(`template_worker.py`), started once, in a tenth of a second, and kept. It is started by exec, never by a fork
of this process and its threads. It ends when this process ends, because its input does.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boli.errors import TemplateError
from boli.text import template_worker

START_SECONDS = 20.0
"""How long a worker may take to start, on a machine that is busy or reads from a slow disk."""
RENDER_SECONDS = 2.0
MAX_REQUEST_BYTES = 4 << 20
_MAX_REPLY_BYTES = 6 * 2 * template_worker.MAX_RESULT_CHARACTERS
_PIPE_CHUNK = 1 << 16
_REMEDY = "use a model with a sound chat template, or give the model a finished prompt instead of messages"
_REASONS = {
    "raised": ("the chat template refuses these messages", "change the messages as the template asks"),
    "failed": ("the chat template does not work with these messages", _REMEDY),
    "syntax": ("the chat template is not valid Jinja", _REMEDY),
    "security": ("the chat template tried what its sandbox forbids", "do not trust this model file"),
    "length": ("the chat template writes too much", _REMEDY),
    "memory": ("the chat template takes too much memory", _REMEDY),
}


class Sandbox:
    """A worker process and the way to it. Threads may share one; they take turns.

    Args:
        render_seconds: Wall-clock time that one request may take.
    """

    def __init__(self, render_seconds: float = RENDER_SECONDS) -> None:
        self._render_seconds = render_seconds
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._ready = False

    def start(self) -> None:
        """Start the worker if it is not running, without waiting for it."""
        with self._lock:
            self._ensure_worker()

    def render(self, template: str, renders: Sequence[Mapping[str, object]]) -> list[str | None]:
        """Render a template once for each set of variables.

        Args:
            template: Jinja source.
            renders: The variables of each render: plain data (what JSON can hold).

        Returns:
            The texts. None stands for a render after the first that failed; if the first fails, that is
            raised.

        Raises:
            TemplateError: The template is wrong, refuses the variables, or takes too much time or memory; or
                the variables are too large or no plain data.
        """
        try:
            request = json.dumps({"template": template, "renders": renders}).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(
                "messages, tools and template variables must be plain data",
                cause=str(error),
                remedy="use only dicts, lists, strings, numbers, booleans and None",
            ) from error
        if len(request) > MAX_REQUEST_BYTES:
            raise TemplateError(
                "the conversation is too large for a chat template",
                cause=f"{len(request):,} bytes with the template; {MAX_REQUEST_BYTES:,} are allowed",
                remedy="shorten the messages",
            )
        with self._lock:
            self._ensure_worker()
            reply = self._ask(request)
            if reply.get("error") == "memory":
                self._stop()  # it is on its way out, and must not be asked again
        if "error" in reply:
            what, remedy = _REASONS.get(reply["error"], _REASONS["failed"])
            raise TemplateError(what, cause=_printable(reply["message"]), remedy=remedy)
        texts: list[str | None] = reply["texts"]
        return texts

    def close(self) -> None:
        """End the worker."""
        with self._lock:
            self._stop()

    def _ensure_worker(self) -> None:
        if self._owner != os.getpid():
            # After a fork the pipes belong to the parent as well: two would read each other's answers.
            self._worker, self._owner = None, os.getpid()
        if self._worker is not None and self._worker.poll() is None:
            return
        self._stop()
        self._ready = False
        try:
            self._worker = subprocess.Popen(  # noqa: S603 (our own file, no shell)
                [sys.executable, "-I", "-S", template_worker.__file__, *_package_folders()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                # Its own session: Ctrl-C in the terminal is for us, not for it.
                start_new_session=True,
                env={"TZ": os.environ["TZ"]} if "TZ" in os.environ else {},
            )
        except OSError as error:
            raise TemplateError(
                "the process that renders chat templates did not start", cause=str(error)
            ) from error
        for stream in (self._worker.stdin, self._worker.stdout):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)

    def _ask(self, request: bytes) -> dict[str, Any]:
        try:
            if not self._ready:
                self._receive(time.monotonic() + START_SECONDS)
                self._ready = True
            deadline = time.monotonic() + self._render_seconds
            self._send(struct.pack(">I", len(request)) + request, deadline)
            return self._receive(deadline)
        except BaseException:
            # Whatever happened, Ctrl-C included: a worker with half a question or answer is of no more use.
            self._stop()
            raise

    def _send(self, data: bytes, deadline: float) -> None:
        if self._worker is None or self._worker.stdin is None:
            raise self._died()
        pipe = self._worker.stdin.fileno()
        sent = 0
        while sent < len(data):
            self._wait(pipe, select.POLLOUT, deadline)
            try:
                sent += os.write(pipe, data[sent : sent + _PIPE_CHUNK])
            except BlockingIOError:
                continue  # less room than a chunk needs; wait again
            except BrokenPipeError:
                raise self._died() from None

    def _receive(self, deadline: float) -> dict[str, Any]:
        length = struct.unpack(">I", self._read(4, deadline))[0]
        if length > _MAX_REPLY_BYTES:
            raise self._died()
        reply: dict[str, Any] = json.loads(self._read(length, deadline))
        return reply

    def _read(self, count: int, deadline: float) -> bytes:
        if self._worker is None or self._worker.stdout is None:
            raise self._died()
        pipe = self._worker.stdout.fileno()
        data = bytearray()
        while len(data) < count:
            self._wait(pipe, select.POLLIN, deadline)
            chunk = os.read(pipe, min(count - len(data), _PIPE_CHUNK))
            if not chunk:
                raise self._died()
            data += chunk
        return bytes(data)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        while not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if time.monotonic() >= deadline:
                raise self._too_slow()

    def _too_slow(self) -> TemplateError:
        if not self._ready:
            return TemplateError(
                "the process that renders chat templates did not start",
                cause=f"it took more than {START_SECONDS:g} seconds",
            )
        return TemplateError(
            "the chat template takes too long",
            cause=f"a render may take {min(self._render_seconds, template_worker.SECONDS):g} seconds",
            remedy=_REMEDY,
        )

    def _died(self) -> TemplateError:
        worker = self._worker
        code = 0
        if worker is not None:
            worker.kill()  # changes nothing for one that has ended, and ends one that only closed its pipe
            code = worker.wait()
        if code == -signal.SIGALRM:
            return self._too_slow()
        how = f"signal {signal.strsignal(-code) or -code}" if code < 0 else f"exit code {code}"
        return TemplateError(
            "the process that renders chat templates ended"
            if self._ready
            else "the template process cannot start",
            cause=how,
            remedy=_REMEDY
            if self._ready
            else "check that jinja2 is installed and that this Python is complete",
        )

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        worker.kill()
        worker.wait()
        for stream in (worker.stdin, worker.stdout):
            if stream is not None:
                stream.close()


def _package_folders() -> list[str]:
    """Where jinja2 and what it needs are installed: all that the worker sees besides the standard library."""
    folders = []
    for package in ("jinja2", "markupsafe"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.append(str(Path(spec.origin).parent.parent))
    return sorted(set(folders))


def _printable(message: str) -> str:
    """A template's own words, without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in message)


_shared = Sandbox()
atexit.register(_shared.close)


def shared_sandbox() -> Sandbox:
    """The one worker of this process; it is started at the first use."""
    return _shared
