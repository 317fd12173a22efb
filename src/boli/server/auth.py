"""Who may ask: hosts, keys, and what is open to everybody.

Everything is closed unless it is named here; what is asked for is `scope["path"]` as the server parsed it,
never a URL put together from headers.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Collection, Sequence

from starlette.types import Scope

from boli.server.context import ANYBODY, Caller
from boli.server.errors import ApiError

#: Open without a key. A page's own files are added when they exist; they hold nothing of a user.
OPEN_PATHS = frozenset({"/health"})

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_LOCAL_NAMES = (".localhost", ".local", ".internal")


class Keyring:
    """The keys that requests may carry; compared in constant time, as digests of bytes.

    Args:
        keys: None means that nobody needs one.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        secret = secrets.token_bytes(32)
        self._known = [
            (digest, Caller(f"key{number}", hmac.digest(secret, digest, "sha256")))
            for number, digest in enumerate((_digest(key.encode()) for key in keys), 1)
        ]

    def __bool__(self) -> bool:
        return bool(self._known)

    def caller(self, scope: Scope) -> Caller | None:
        """Who asks; None if they may not. All keys are looked at, whichever is right."""
        if not self._known:
            return ANYBODY
        digest = _digest(_given(scope))
        found = None
        for known, caller in self._known:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def _given(scope: Scope) -> bytes:
    """The key of a request: `Authorization: Bearer …`, or `x-api-key` as Anthropic's clients send it."""
    given = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, rest = value.partition(b" ")
            if kind.lower() == b"bearer":
                given = rest.strip()
        elif name == b"x-api-key" and not given:
            given = value.strip()
    return given


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Hosts:
    """Names by which the server may be addressed, so that no page of another site can come by DNS.

    Args:
        allowed: Names besides those of this machine.
        everywhere: Whether any name will do, as where every request needs a key that no page has.
    """

    def __init__(self, allowed: Collection[str], *, everywhere: bool) -> None:
        self._allowed = {name.lower().rstrip(".") for name in (*allowed, "localhost", socket.gethostname())}
        self._everywhere = everywhere

    def admits(self, scope: Scope) -> bool:
        """Whether the Host header names this server; exactly one must be there."""
        values = [value for name, value in scope["headers"] if name == b"host"]
        if len(values) != 1:
            return not values and scope.get("http_version") == "1.0"
        return self._everywhere or self.knows(values[0].decode("latin-1"))

    def knows(self, host: str) -> bool:
        """Whether `name`, `name:port` or an address with or without a port is of this machine or allowed."""
        name, port = host.strip().lower(), ""
        if name.startswith("["):
            name, _, port = name[1:].partition("]")
            port = port.removeprefix(":")
        elif name.count(":") == 1:
            name, _, port = name.partition(":")
        if port and not (port.isascii() and port.isdecimal()):
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            name = name.rstrip(".")
            return _NAME.fullmatch(name) is not None and (
                name in self._allowed or name.endswith(_LOCAL_NAMES)
            )
        # A page cannot make a browser send an address as the name of its own site.
        return address.is_loopback or address.is_private or name in self._allowed


def unauthorized() -> ApiError:
    """No key, or a wrong one: nothing says which."""
    return ApiError(
        401,
        "a valid API key is needed: send it as 'Authorization: Bearer KEY'",
        "authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def wrong_host() -> ApiError:
    """The request was sent to a name that is not this server's."""
    return ApiError(
        403,
        "this server is not called by the name in the Host header; allow it with --allowed-hosts",
        "permission_error",
        code="host_not_allowed",
    )
