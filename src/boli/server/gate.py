"""The gate in front of every route: it names a request, lets it in or not, and writes it down.

Whatever escapes from a route ends here, as an error in the right form, and never reaches another request.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boli.server import messages, ollama
from boli.server.auth import Hosts, Keyring, unauthorized, wrong_host
from boli.server.context import new_id
from boli.server.errors import ApiError, as_api_error

log = logging.getLogger("boli.server.access")

_GIVEN_ID = re.compile(rb"[!-~]{1,128}")
_QUIET = {"/health", "/ready", "/metrics", "/stats"}  # asked every few seconds by machines

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-API-Key, X-Request-Id",
    "Access-Control-Max-Age": "600",
}


class Gate:
    """ASGI middleware.

    Args:
        app: What is behind.
        keyring: Who may come in.
        hosts: By which names.
        open_paths: What is open without a key; exact paths.
        origins: Of pages that may use the server from a browser.
        on_status: Told the status of each response; 0 if there was none.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        hosts: Hosts,
        open_paths: Collection[str],
        origins: Collection[str],
        on_status: Callable[[int], None],
    ) -> None:
        self._on_status = on_status
        self._app = app
        self._keyring = keyring
        self._hosts = hosts
        self._open = frozenset(open_paths)
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # there is nothing of that kind here
            return
        start = time.perf_counter()
        passage = _Passage(scope, send, self._cors(scope))
        try:
            response = self._answer(scope)
            if response is not None:
                await response(scope, receive, passage.send)
            else:
                await self._app(scope, receive, passage.send)
        except ClientDisconnect:
            pass  # it left before it had said everything, and nobody waits for a reply
        except Exception as error:  # one request's trouble
            known = as_api_error(error)
            if known.status >= 500:
                log.exception("failed", extra={"fields": {"id": passage.own_id}})
            if passage.status:  # the connection is cut: the client must not take what it got for the whole
                raise
            await told(known, scope)(scope, receive, passage.send)
        finally:
            self._on_status(passage.status)
            path = scope["path"]
            level = logging.DEBUG if path in _QUIET and passage.status < 400 else logging.INFO
            if log.isEnabledFor(level):
                caller = scope.get("boli.caller")
                log.log(level, "http", extra={"fields": {
                    "id": passage.own_id,
                    "method": scope["method"],
                    "path": path,
                    "status": passage.status,
                    "seconds": round(time.perf_counter() - start, 4),
                    "key": "-" if caller is None else caller.label,
                }})  # fmt: skip

    def _answer(self, scope: Scope) -> Response | None:
        """What the gate itself replies; None lets the request in."""
        if not self._hosts.admits(scope):
            return told(wrong_host(), scope)
        headers = dict(scope["headers"])
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            # A browser asks, without a key, whether a page may use the server.
            allowed = headers.get(b"origin") in self._origins
            return Response(status_code=204 if allowed else 403, headers=_PREFLIGHT if allowed else None)
        caller = self._keyring.caller(scope)
        if caller is not None:
            scope["boli.caller"] = caller
            return None
        if scope["path"] in self._open and scope["method"] in ("GET", "HEAD"):
            return None
        return told(unauthorized(), scope)

    def _cors(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Headers for a page whose origin is allowed, exactly; none otherwise."""
        if not self._origins:
            return []
        given = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if given is None or given not in self._origins:
            return [(b"vary", b"Origin")]
        return [(b"access-control-allow-origin", given), (b"vary", b"Origin")]


def told(error: ApiError, scope: Scope) -> Response:
    """An error in the form of the API that a path belongs to."""
    path: str = scope["path"]
    if path.startswith("/v1/messages"):
        return JSONResponse(
            messages.error_body(error, scope["boli.request_id"]), error.status, headers=error.headers
        )
    if path.startswith("/api/"):
        return JSONResponse(ollama.error_body(error), error.status, headers=error.headers)
    return error.response()


class _Passage:
    """One request on its way through: what it is called, and what became of it."""

    def __init__(self, scope: Scope, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self.own_id = scope["boli.request_id"] = new_id("req")
        self.status = 0
        self._send = send
        # The client's own identifier comes back to it, and is used for nothing else.
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        shown = given if _GIVEN_ID.fullmatch(given) else self.own_id.encode()
        self._headers = [(b"x-request-id", shown), (b"x-content-type-options", b"nosniff"), *headers]

    async def send(self, message: Message) -> None:
        """Passes a message on; the first one gets the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        await self._send(message)
