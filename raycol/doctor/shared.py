"""Whether storage is shared: the driver writes a marker file, every node reads it and writes its own, all are read.

Existence is not enough: every node's own disk may have a folder of that name. Each node must see the driver's marker,
and the driver must see each node's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress

import xxhash

from raycol.doctor.facts import SharedFacts, Usage
from raycol.errors import RaycolError
from raycol.storage import Store, open_store

_MAX_MARKER_BYTES = 1 << 10
_DRIVER = "driver"


def write_marker(uri: str, token: str) -> str:
    """Write the driver's marker; return the problem, or an empty string."""
    try:
        store = _open(uri)
        store.write(_name(token, _DRIVER), token.encode())
    except (OSError, RaycolError) as error:
        return f"cannot be written from the driver ({_reason(error)})"
    return ""


def check_from_node(uri: str, token: str, node: str) -> SharedFacts:
    """On a node: read the driver's marker and write the node's own."""
    try:
        store = _open(uri)
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=_reason(error))
    usage = _usage(store)
    try:
        content = store.read(_name(token, _DRIVER), _MAX_MARKER_BYTES)
    except FileNotFoundError:
        return SharedFacts(problem="not shared: the folder exists, but not the file that the driver wrote to it")
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=f"cannot be read ({_reason(error)})", usage=usage)
    if content != token.encode():
        return SharedFacts(problem="the driver's file reads back changed", usage=usage)
    try:
        store.write(_name(token, node), node.encode())
    except (OSError, RaycolError) as error:
        return SharedFacts(problem=f"cannot be written ({_reason(error)})", usage=usage)
    return SharedFacts(usage=usage)


def read_markers(uri: str, token: str, nodes: Iterable[str]) -> dict[str, str]:
    """On the driver: read the nodes' markers. Return the problem of each that is missing or wrong, by node."""
    problems = {}
    for node in nodes:
        try:
            content = _open(uri).read(_name(token, node), _MAX_MARKER_BYTES)
            if content != node.encode():
                problems[node] = "its file reads back changed on the driver"
        except (OSError, RaycolError) as error:
            problems[node] = f"its file cannot be read on the driver ({_reason(error)})"
    return problems


def remove_markers(uri: str, token: str) -> None:
    """Remove all markers of this run."""
    with suppress(OSError, RaycolError):
        _open(uri).remove(_folder(token))


def _open(uri: str) -> Store:
    """Open a store. A missing folder is an error and is not created: it may be a missing mount."""
    if "://" not in uri and not os.path.isdir(uri):
        raise RaycolError("a file, expected a folder" if os.path.exists(uri) else "no such folder")
    return open_store(uri)


def _folder(token: str) -> str:
    return f"raycol-doctor-{xxhash.xxh3_64_hexdigest(token.encode())}"


def _name(token: str, node: str) -> str:
    return f"{_folder(token)}/{xxhash.xxh3_64_hexdigest(node.encode())}"


def _usage(store: Store) -> Usage | None:
    if not store.is_local:
        return None
    usage = shutil.disk_usage(store.uri)
    return Usage(total=usage.total, free=usage.free)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
