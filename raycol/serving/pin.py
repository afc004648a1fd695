"""Which version an endpoint serves: the one that an administrator chose last, kept beside the index.

So a choice outlives gateways, shards and the whole endpoint, and all gateways of an endpoint learn of it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycol.errors import IndexCorruptError, RaycolError
from raycol.index.manifest import SERVED, versions
from raycol.index.storage import Store, open_store

_MAX_BYTES = 1024


class _Pin(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, lt=10**8)


def read_pin(store: Store) -> int | None:
    """The version that was chosen; None where none was, or where the newest is to be served.

    Raises:
        IndexCorruptError: the file is not what raycol writes.
    """
    if SERVED not in store.names(""):
        return None
    content = store.read(SERVED, _MAX_BYTES)
    try:
        return _Pin.model_validate_json(content).version
    except ValidationError:
        raise IndexCorruptError(
            f"{store.place(SERVED)}: not the record of a version to serve; remove it to serve the newest"
        ) from None


def write_pin(store: Store, version: int | None) -> None:
    """Record which version is to be served; None for the newest at each start."""
    if version is None:
        store.remove(SERVED)
    else:
        store.write(SERVED, _Pin(version=version).model_dump_json().encode())


def chosen_version(index: str, otherwise: int) -> int:
    """The version that was chosen last, if it is still there and can be read."""
    store = open_store(index)
    try:
        pinned = read_pin(store)
    except RaycolError:
        return otherwise
    return pinned if pinned in versions(store) else otherwise
