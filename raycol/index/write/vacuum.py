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
# Versions that a sweep looks at.
_SWEPT_VERSIONS = 16


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


def sweep(store: Store, base: int) -> None:
    """Delete what unfinished writers left that started from version `base`, which has a successor, or shortly before.

    Its cost does not depend on the number of versions. What a writer that started from version v has committed is in
    the manifest of v + 1, or if that was vacuumed, and it is needed, in the oldest one. Vacuums delete what is older.
    """
    oldest = base + 1 - _SWEPT_VERSIONS
    try:
        kept = [read_manifest(store, version) for version in versions(store) if oldest < version <= base + 1]
    except InputError:  # vacuumed meanwhile
        return
    if not kept or kept[-1].version != base + 1:
        return
    needed = {folder for manifest in kept for folder in manifest.folders}
    with writing(store):
        for parent in ("", CODEBOOKS, PARTITIONS, DELETES, BUILDS):
            names = [f"{parent}/{name}".removeprefix("/") for name in store.names(parent)]
            store.remove_all(
                [
                    name
                    for name in names
                    if (started_from := _base_of(name)) is not None
                    and oldest <= started_from <= base
                    and name not in needed
                ]
            )


def _vacuum(store: Store, keep: int, *, abandoned: bool) -> VacuumResult:
    existing, kept = _read(store, keep)
    retired = tuple(existing[: len(existing) - len(kept)])
    needed = {folder for manifest in kept for folder in manifest.folders}
    current = kept[-1].version

    def orphans(names: Iterable[str]) -> list[str]:
        unneeded = [(name, _base_of(name)) for name in names if name not in needed]
        return [name for name, base in unneeded if base is not None and (base < current or abandoned)]

    removed: list[str] = []
    with writing(store):
        # Staged files of earlier writers go before manifests: a writer that found a version number free must not
        # commit it after that version was made and retired (see `LocalStore.create`).
        removed += orphans(store.names(""))
        store.remove_all(removed)
        # Folders go after manifests, so that a version that can be opened has all its files.
        for version in retired:
            store.retire(manifest_name(version))
        # Those of unfinished builds come last: while one exists, a repeated command resumes the cleanup.
        for parent in (CODEBOOKS, PARTITIONS, DELETES, BUILDS):
            unneeded = orphans(f"{parent}/{name}" for name in store.names(parent))
            store.remove_all(unneeded)
            removed += unneeded
    return VacuumResult(retired, tuple(removed))


def _base_of(name: str) -> int | None:
    """The version that the writer of a file or folder started from; None if it is not a writer's."""
    match = _BASE.match(name.rpartition("/")[2])
    return int(match[1]) if match else None


def _read(store: Store, keep: int) -> tuple[list[int], list[Manifest]]:
    """Return all versions and the manifests of the newest `keep`. Retries if another vacuum interferes."""
    while True:
        existing = versions(store)
        try:
            return existing, [read_manifest(store, version) for version in existing[-keep:]] or [read_manifest(store)]
        except InputError:
            if versions(store) == existing:
                raise
