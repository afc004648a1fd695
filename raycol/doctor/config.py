"""Settings of `raycol doctor`, and a check of the cluster's address."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, Location
from raycol.errors import InputError

_CONNECT_TIMEOUT_S = 10.0
# Ray resolves these itself, without waiting.
_RESOLVED_BY_RAY = ("auto", "local")


class DoctorConfig(Config):
    """Settings of `raycol doctor`."""

    address: str | None = None
    """Cluster to check: its dashboard (http://HEAD:8265) or, on one of its machines, auto or HOST:6379. Default:
    RAY_ADDRESS, else this machine."""

    shared: tuple[Location, ...] = ()
    """A folder or URI that every node must read and write."""

    plan: Path | None = None
    """YAML file of a build (raycol index build) to check workers, memory and disk for. Reads its corpus and model."""

    wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120
    """Seconds to wait for the nodes to answer."""


def check_reachable(address: str) -> None:
    """Raise `InputError` if a cluster's address is malformed, or if nothing listens there.

    Ray itself would retry for minutes before it gives up.
    """
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
