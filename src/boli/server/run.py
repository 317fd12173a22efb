"""Runs a server until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from boli.server.app import create_app
from boli.server.protocol import bounded
from boli.server.settings import Settings
from boli.server.sockets import bind

if TYPE_CHECKING:
    from boli.engine.llm import LLM
    from boli.server.service import Service

__all__ = ["Server", "bind", "loop_factory", "serve"]

KEEP_ALIVE_SECONDS = 30  # of a connection between two requests; longer than clients keep one themselves
_GRACE_SECONDS = 5  # for responses to be sent when their requests have been ended


class Server(uvicorn.Server):
    """uvicorn, which leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: uvicorn would raise them again at the end, and the exit code would be wrong."""
        yield


async def serve(
    llm: LLM, settings: Settings, bound: socket.socket, *, ready: Callable[[Server], None] | None = None
) -> bool:
    """Serves until SIGTERM or Ctrl-C, then lets running requests end.

    Args:
        llm: The model; it stays the caller's to close.
        settings: How the server is set up.
        bound: Where to listen; closed at the end.
        ready: Called when requests are taken.

    Returns:
        Whether all was brought to an end; False if a second signal cut it short.
    """
    app = create_app(llm, settings)
    config = uvicorn.Config(
        app,
        http=bounded(settings.max_connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.shutdown_timeout) + _GRACE_SECONDS,
    )
    server = Server(config)
    _on_signals(server, app.state.context.service, settings.shutdown_timeout)
    running = asyncio.create_task(server.serve([bound]))
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    if server.started and ready is not None:
        ready(server)
    await running
    return not server.force_exit


def _on_signals(server: Server, service: Service, timeout: float) -> None:
    """The first signal drains the server, the second ends it at once."""
    draining: list[asyncio.Task[int]] = []

    def end() -> None:
        if draining:
            server.force_exit = True
            return
        draining.append(asyncio.create_task(service.drain(timeout)))
        server.should_exit = True

    loop = asyncio.get_running_loop()
    with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):  # not in the main thread
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, end)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Uvloop's where it is installed."""
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop  # noqa: PLC0415  # not on Windows

            return uvloop.new_event_loop
    return asyncio.new_event_loop
