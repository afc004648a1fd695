"""Vacuum: retire old versions and delete the files that no remaining version needs.

Names in the index start with the base version of their writer. Once a later version is committed, that writer can only
fail, because its version number is taken, so its files are safe to delete. Files of writers on the current version
stay: they may still be running. This needs neither clocks nor locks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from raycol.core.validation import check_positive_int
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
from raycol.storage.store import Store

_BASE = re.compile(r"(\d{8})-")


@dataclass(frozen=True)
class VacuumResult:
    """Retired versions, and the names of deleted folders and files."""

    versions: tuple[int, ...]
    removed: tuple[str, ...]


def vacuum(store: Store, keep: int, *, abandoned: bool = False) -> VacuumResult:
    """Retire all but the newest `keep` versions and delete the files that these do not need.

    Args:
        store: the index.
        keep: versions to keep; at least 1, so that the current one stays.
        abandoned: also delete files of unfinished writers on the current version. Only safe while no writer is
            running: it would commit a manifest with missing folders.

    Raises:
        InputError: `keep` below 1, no index in the store, or a store that is not writable.
        IndexCorruptError: the manifest of a version to keep is unreadable, so the files that it needs are unknown.
    """
    keep = check_positive_int("keep", keep)
    read_manifest(store)
    store.check_writable()
    return _vacuum(store, keep, abandoned=abandoned)


def sweep(store: Store) -> VacuumResult:
    """Delete the files of earlier, unfinished writers; retire no version."""
    return _vacuum(store, None, abandoned=False)


def _vacuum(store: Store, keep: int | None, *, abandoned: bool) -> VacuumResult:
    """Keep the newest `keep` versions; None keeps all that exist when the manifests are read."""
    existing, kept = _read(store, keep)
    retired = tuple(existing[: len(existing) - len(kept)])
    needed = {folder for manifest in kept for folder in manifest.folders}
    current = kept[-1].version

    def orphans(names: Iterable[str]) -> list[str]:
        unneeded = [(name, _BASE.match(name.rpartition("/")[2])) for name in names if name not in needed]
        return [name for name, base in unneeded if base and (int(base[1]) < current or abandoned)]

    removed = []
    with writing(store):
        # Staged files of earlier writers go before manifests: a writer that found a version number free must not
        # commit it after that version was made and retired (see `LocalStore.create`).
        for name in orphans(store.names("")):
            store.remove(name)
            removed.append(name)
        # Folders go after manifests, so that a version that can be opened has all its files.
        for version in retired:
            store.retire(manifest_name(version))
        for name in orphans(_folders(store)):
            store.remove(name)
            removed.append(name)
    return VacuumResult(retired, tuple(removed))


def _read(store: Store, keep: int | None) -> tuple[list[int], list[Manifest]]:
    """Return all versions and the manifests of the newest `keep`, or of all. Retries if another vacuum interferes."""
    while True:
        existing = versions(store)
        try:
            return existing, [read_manifest(store, version) for version in existing[-(keep or len(existing)) :]] or [
                read_manifest(store)
            ]
        except InputError:
            if versions(store) == existing:
                raise


def _folders(store: Store) -> list[str]:
    """Return the names of all folders that writers make.

    Those of unfinished builds come last: while one exists, a repeated command resumes the cleanup.
    """
    parents = (CODEBOOKS, PARTITIONS, DELETES, BUILDS)
    return [f"{parent}/{name}" for parent in parents for name in store.names(parent)]
