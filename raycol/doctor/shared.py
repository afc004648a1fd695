"""Whether places are shared: the one who asks writes a note, every node reads it and writes its own, all are read.

A folder of the same name on every node's own disk looks shared to each of them; that its note is the right one, and
that the others' notes can be read, tells.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress

import xxhash

from raycol.doctor.facts import Room, SharedFacts
from raycol.errors import RaycolError
from raycol.storage import Store, open_store

_LIMIT = 1 << 10


def put_note(place: str, token: str) -> str:
    """Write the first note; return what went wrong, if anything."""
    try:
        store = _open(place)
        store.write(_name(token, "asking"), token.encode())
    except (OSError, RaycolError) as error:
        return f"cannot be written from where this runs ({_reason(error)})"
    return ""


def try_place(place: str, token: str, node: str) -> SharedFacts:
    """On a node: read the first note and write one of its own."""
    try:
        store = _open(place)
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=_reason(error))
    room = _room(store)
    try:
        found = store.read(_name(token, "asking"), _LIMIT)
    except FileNotFoundError:
        return SharedFacts(problem="a folder of that name, but not the shared one: what others write is not in it")
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=f"cannot be read ({_reason(error)})", room=room)
    if found != token.encode():
        return SharedFacts(problem="what others write arrives changed", room=room)
    try:
        store.write(_name(token, node), node.encode())
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=f"cannot be written ({_reason(error)})", room=room)
    return SharedFacts(room=room)


def read_notes(place: str, token: str, nodes: Iterable[str]) -> dict[str, str]:
    """Read the nodes' notes; for each that is not as it should be, what is wrong."""
    wrong = {}
    for node in nodes:
        try:
            found = _open(place).read(_name(token, node), _LIMIT)
            if found != node.encode():
                wrong[node] = "what it writes arrives changed"
        except (OSError, RaycolError) as error:
            wrong[node] = f"what it writes cannot be read elsewhere ({_reason(error)})"
    return wrong


def remove_notes(place: str, token: str) -> None:
    """Leave nothing behind."""
    with suppress(OSError, RaycolError):
        _open(place).remove(_folder(token))


def _open(place: str) -> Store:
    """The place as a store. Nothing is made where there is nothing: a missing mount must not look like a folder."""
    if "://" not in place and not os.path.isdir(place):
        raise RaycolError("a file, expected a folder" if os.path.exists(place) else "no such folder")
    return open_store(place)


def _folder(token: str) -> str:
    return f"raycol-doctor-{xxhash.xxh3_64_hexdigest(token.encode())}"


def _name(token: str, node: str) -> str:
    return f"{_folder(token)}/{xxhash.xxh3_64_hexdigest(node.encode())}"


def _room(store: Store) -> Room | None:
    if not store.is_local:
        return None
    found = shutil.disk_usage(store.uri)
    return Room(total=found.total, free=found.free)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
