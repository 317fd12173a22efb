"""Where a server listens."""

from __future__ import annotations

import ipaddress
import socket

from boli.errors import UsageError


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address; nobody is listened to yet.

    Raises:
        UsageError: The address is taken, or not of this machine.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(info[0], info[1])
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(info[4])
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}",
            cause=error.strerror or str(error),
            remedy="end what listens there, or choose another --port (0 takes a free one)",
        ) from error
    return bound


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
