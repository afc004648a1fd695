"""The store of a job's unfinished work: `.NAME-unfinished`, beside its result NAME."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from raycol.core.uris import base_name, join_uri, parent_uri, without_options
from raycol.errors import InputError
from raycol.storage import Store, open_store
from raycol.storage.store import absolute


@contextmanager
def unfinished_store(out: str, is_complete: Callable[[Collection[str]], bool]) -> Iterator[Store]:
    """Yield the store of the unfinished jobs that write `out`, locked where it is local.

    Args:
        out: path or URI of the result.
        is_complete: whether a folder of an object store with these files is a complete result; a command that died
            before its last upload leaves some.

    Raises:
        InputError: `out` already exists or cannot be written, or another command is running.
    """
    target = open_store(out)
    name = Path(target.uri).name if target.is_local else urlsplit(without_options(out)).path.rstrip("/")[1:]
    if not name:
        raise InputError(f"{out}: expected a folder in the bucket, such as {out.rstrip('/')}/NAME")
    if os.path.lexists(target.uri) if target.is_local else is_complete(target.names("")):
        raise InputError(f"{out}: already exists; choose another folder, or remove it")
    store = open_store(join_uri(parent_uri(absolute(target.uri)), f".{base_name(target.uri)}-unfinished"))
    with store.lock("running"):
        if store.is_local:
            store.remove_unfinished()
        yield store
