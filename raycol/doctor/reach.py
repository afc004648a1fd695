"""Whether a cluster answers at all: Ray itself would wait for minutes until it says that none does."""

from __future__ import annotations

import socket

from raycol.errors import InputError

_PATIENCE_S = 10.0
# Addresses that Ray looks up for itself, at once.
_LOOKED_UP = ("auto", "local")


def check_answers(address: str) -> None:
    """Raise `InputError` where nothing listens at a cluster's address, or it is none."""
    if address in _LOOKED_UP:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise InputError(
            f"{address!r} is no address of a cluster; expected its dashboard (http://HEAD:8265), HOST:6379, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise InputError(
            f"{address}: nothing answers there ({error.strerror or error}); is the cluster up, and the address "
            "that of its head (HOST:6379)?"
        ) from None
