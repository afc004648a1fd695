"""Fail fast if no cluster listens at an address: Ray itself retries for minutes before it gives up."""

from __future__ import annotations

import socket

from raycol.errors import InputError

_CONNECT_TIMEOUT_S = 10.0
# Ray resolves these itself, without waiting.
_RESOLVED_BY_RAY = ("auto", "local")


def check_reachable(address: str) -> None:
    """Raise `InputError` if a cluster's address is malformed, or if nothing listens there."""
    if address in _RESOLVED_BY_RAY:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise InputError(
            f"{address!r} is not the address of a cluster; expected its dashboard (http://HEAD:8265), HOST:6379, or "
            "auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"{address}: nothing listens there ({error.strerror or error}); is the cluster up, and is this the "
            "address of its head (HOST:6379)?"
        ) from None
