"""Server-sent events: a stream of frames, with a comment where nothing comes for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
]


def frame(document: Any, event: str | None = None) -> bytes:
    """One event that carries a JSON document."""
    data = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {data}\n\n".encode()


class EventStream(Response):
    """A response that sends frames as they come.

    Args:
        frames: The body; it is closed when the client goes.
        cancel: Called when the client has gone.
        media_type: Of the body, if it is not a stream of events.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        cancel: Callable[[], None],
        *,
        media_type: str | None = None,
    ) -> None:
        super().__init__()
        self._frames = frames
        self._cancel = cancel
        self._start = list(_HEADERS)
        if media_type is not None:
            self._start[0] = (b"content-type", media_type.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        async with _watching(receive, self._cancel):
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self._start})
                async for body in self._frames:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except BaseException:
                self._cancel()
                raise


@asynccontextmanager
async def _watching(receive: Receive, gone: Callable[[], None]) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def until_gone(request: Request, gone: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `gone` if the client of a plain response goes away meanwhile; its body must have been read."""
    async with _watching(request.receive, gone):
        yield
