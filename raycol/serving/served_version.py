"""The version that endpoints of an index serve, recorded in the index (`served.json`).

The record outlives gateways, shards and endpoints, and every gateway of an endpoint polls it.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycol.errors import IndexCorruptError, RaycolError
from raycol.index.format.manifest import SERVED, versions
from raycol.storage import Store

_MAX_BYTES = 1024


class ServedVersion(BaseModel):
    """The record: the version, whether "newest" was requested, and when, in nanoseconds since the epoch."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: int = Field(ge=1, lt=10**8)
    newest: bool
    at: int = Field(ge=1)


def read_served_version(store: Store) -> ServedVersion | None:
    """The record, or None if no version was recorded.

    Raises:
        IndexCorruptError: the file is not a valid record.
    """
    try:
        content = store.read(SERVED, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):  # `read_manifest` reports a file in place of the folder
        return None
    try:
        return ServedVersion.model_validate_json(content)
    except ValidationError:
        raise IndexCorruptError(
            f"{store.location(SERVED)}: not a record of the served version; delete it to serve the newest"
        ) from None


def write_served_version(store: Store, version: int, *, newest: bool) -> ServedVersion:
    """Record the version to serve. With `newest`, an endpoint that starts later serves the newest version then."""
    record = ServedVersion(version=version, newest=newest, at=time.time_ns())
    store.write(SERVED, record.model_dump_json().encode())
    return record


def starting_version(store: Store, requested: int | None) -> tuple[int | None, int]:
    """The version that an endpoint starts with, None for the newest, and the time of the record, 0 without one.

    Raises:
        IndexCorruptError: the record is invalid.
    """
    record = read_served_version(store)
    if record is None:
        return requested, 0
    recorded = None if record.newest or record.version not in versions(store) else record.version
    return requested or recorded, record.at


def current_version(store: Store, deployed: int, recorded_at: int) -> int:
    """The version that a restarted replica opens: the recorded one if the record is new and the version exists.

    Args:
        store: of the index.
        deployed: the version at deployment.
        recorded_at: time of the record at deployment.
    """
    try:
        record = read_served_version(store)
    except RaycolError:
        return deployed
    if record is None or record.at == recorded_at or record.version not in versions(store):
        return deployed
    return record.version
