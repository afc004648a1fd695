"""Which version an endpoint serves: the one that an administrator chose last, kept beside the index.

So a choice outlives gateways, shards and the whole endpoint, and all gateways of an endpoint learn of it.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycol.errors import IndexCorruptError, RaycolError
from raycol.index.format.manifest import SERVED, versions
from raycol.storage import Store

_MAX_BYTES = 1024


class Pin(BaseModel):
    """A choice: the version, whether it was chosen for being the newest, and when, in nanoseconds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: int = Field(ge=1, lt=10**8)
    newest: bool
    at: int = Field(ge=1)


def read_pin(store: Store) -> Pin | None:
    """What was chosen last; None where nothing was.

    Raises:
        IndexCorruptError: the file is not what raycol writes.
    """
    try:
        content = store.read(SERVED, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):  # a file in place of the folder is for the manifest to tell of
        return None
    try:
        return Pin.model_validate_json(content)
    except ValidationError:
        raise IndexCorruptError(
            f"{store.location(SERVED)}: not the record of a version to serve; remove it to serve the newest"
        ) from None


def write_pin(store: Store, version: int, *, newest: bool) -> Pin:
    """Record which version is to be served; where it is the newest, an endpoint starts with what that is then."""
    pin = Pin(version=version, newest=newest, at=time.time_ns())
    store.write(SERVED, pin.model_dump_json().encode())
    return pin


def starting_version(store: Store, wanted: int | None) -> tuple[int | None, int]:
    """The version that an endpoint starts with, None for the newest, and the time of the choice that it has seen.

    Raises:
        IndexCorruptError: what was chosen cannot be read.
    """
    pin = read_pin(store)
    if pin is None:
        return wanted, 0
    chosen = None if pin.newest or pin.version not in versions(store) else pin.version
    return wanted or chosen, pin.at


def current_version(store: Store, started: int, seen: int) -> int:
    """The version that a part of an endpoint opens when it starts again: one that was chosen since, if it is there."""
    try:
        pin = read_pin(store)
    except RaycolError:
        return started
    return pin.version if pin is not None and pin.at != seen and pin.version in versions(store) else started
