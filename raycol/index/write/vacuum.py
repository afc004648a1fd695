"""Vacuuming: old versions are given up, and what no version needs any more is removed.

A name in the index begins with the version that its writer started from. Once a later version is there, that writer
can only fail, since the number it would commit is taken; so what it left is safe to remove, and what writers that
started from the current version are still writing is left alone. No clocks, no locks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from raycol.errors import InputError, writing
from raycol.index.format.manifest import (
    BUILDS,
    CODEBOOKS,
    DELETES,
    PARTITIONS,
    Manifest,
    manifest_name,
    read_manifest,
    versions,
)
from raycol.index.search.counts import check_count
from raycol.storage import Store

_BASE = re.compile(r"(\d{8})-")


@dataclass(frozen=True)
class Vacuumed:
    """What was removed: versions, and folders or files by their names."""

    versions: tuple[int, ...]
    removed: tuple[str, ...]


def vacuum(store: Store, keep: int, *, abandoned: bool = False) -> Vacuumed:
    """Keep the newest `keep` versions, and only what they need.

    Args:
        store: the index.
        keep: how many versions, 1 at least: the current one always stays.
        abandoned: remove also what unfinished writers that started from the current version left. Only where no writer
            is at work: its commit would name folders that are gone.

    Raises:
        InputError: `keep` below 1, no index there, or one that cannot be written.
        IndexCorruptError: a version to be kept cannot be read, so that what it needs is not known.
    """
    keep = check_count("keep", keep)
    read_manifest(store)
    store.check_writable()
    return _vacuum(store, keep, abandoned=abandoned)


def sweep(store: Store) -> Vacuumed:
    """Give up no version; remove what earlier writers left."""
    return _vacuum(store, None, abandoned=False)


def _vacuum(store: Store, keep: int | None, *, abandoned: bool) -> Vacuumed:
    """Keep the newest `keep` versions, or all that there are by the time they are read."""
    have, kept = _read(store, keep)
    retired = tuple(have[: len(have) - len(kept)])
    needed = {folder for manifest in kept for folder in manifest.folders}
    current = kept[-1].version

    def left_over(names: Iterable[str]) -> list[str]:
        found = [(name, _BASE.match(name.rpartition("/")[2])) for name in names if name not in needed]
        return [name for name, base in found if base and (int(base[1]) < current or abandoned)]

    removed = []
    with writing(store):
        # What earlier writers have on its way goes before manifests do: a number that is free again must not be given
        # to a writer that checked it while it was free before (see `LocalStore.create`).
        for name in left_over(store.names("")):
            store.remove(name)
            removed.append(name)
        # Folders go after manifests: no version that can be opened ever lacks a file.
        for version in retired:
            store.retire(manifest_name(version))
        for name in left_over(_folders(store)):
            store.remove(name)
            removed.append(name)
    return Vacuumed(retired, tuple(removed))


def _read(store: Store, keep: int | None) -> tuple[list[int], list[Manifest]]:
    """The versions there are, and the manifests of the newest `keep` or of all, while other vacuums may be at work."""
    while True:
        have = versions(store)
        try:
            return have, [read_manifest(store, version) for version in have[-(keep or len(have)) :]] or [
                read_manifest(store)
            ]
        except InputError:
            if versions(store) == have:
                raise


def _folders(store: Store) -> list[str]:
    """The folders that may be left over, by the names that writers give them.

    Builds' journals come last: while one is there, the command that died goes on with the tidying.
    """
    parents = (CODEBOOKS, PARTITIONS, DELETES, BUILDS)
    return [f"{parent}/{name}" for parent in parents for name in store.names(parent)]
