"""Append, upsert and delete: write all new files, then commit one manifest.

A failure before the commit leaves the index unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError, RaycolError
from raycol.index.codec.pooling import token_pooling
from raycol.index.format.columns import check_columns
from raycol.index.format.deletes import write_deletes
from raycol.index.format.document import Document
from raycol.index.format.manifest import (
    Manifest,
    PartitionInfo,
    SearchSettings,
    check_room,
    commit_manifest,
    writing_from,
)
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import write_partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.selection import OnUnknown, locate
from raycol.index.write.compact import merge_last
from raycol.index.write.spool import Spool
from raycol.index.write.vacuum import sweep
from raycol.storage.store import Store


@dataclass(frozen=True)
class Change:
    """Result of a change.

    Args:
        version: the committed version, or the current one if there was nothing to change.
        added: documents added.
        removed: documents deleted or replaced.
    """

    version: int
    added: int
    removed: int


def add_documents(snapshot: Snapshot, documents: Iterable[Document], *, replace: bool) -> tuple[Snapshot, Change]:
    """Add documents as new partitions; with `replace`, delete the existing documents of the same ids.

    Raises:
        InputError: an invalid document, a duplicate id, or (unless `replace`) an id that is in the index.
        ConflictError: another writer committed first.
    """
    store, manifest = snapshot.store, snapshot.manifest
    snapshot.check_writable()
    check_room(store, manifest)
    pool = token_pooling(manifest.pool_factor)

    def validate(document: Document) -> None:
        check_columns(document.id, document.metadata, manifest.columns)

    with (
        writing_from(store, manifest.version),
        store.workspace(manifest.version) as workspace,
        Spool(workspace, manifest.dim) as spool,
    ):
        spool.fill(documents, validate, pool)
        if not len(spool):
            return snapshot, Change(manifest.version, 0, 0)
        replaced = [_existing(spool, partition, replace, store) for partition in snapshot.partitions]
        added = [
            write_partition(store, batch, snapshot.codebook, manifest.columns, manifest.version)
            for batch in spool.partitions(manifest.partition_tokens)
        ]
    changed, change = commit_change(snapshot, replaced, added)
    if not {info.name for info in added} <= {info.name for info in changed.manifest.partitions}:
        with suppress(RaycolError, OSError):  # what was merged; the change is committed whatever happens here
            sweep(store, manifest.version)
    return changed, change


def delete_documents(snapshot: Snapshot, ids: Iterable[str], on_unknown: OnUnknown) -> tuple[Snapshot, Change]:
    """Delete documents by id.

    Raises:
        InputError: an id that is not a string, or, with `refuse`, one that is not in the index.
        ConflictError: another writer committed first.
    """
    snapshot.check_writable()
    deleted = locate(snapshot.partitions, ids, on_unknown)
    if not sum(map(len, deleted)):
        return snapshot, Change(snapshot.manifest.version, 0, 0)
    return commit_change(snapshot, deleted, [])


def _existing(spool: Spool, partition: Partition, replace: bool, store: Store) -> NDArray[np.int64]:
    """Return the ascending positions of a partition's documents that are spooled too. Raises unless `replace`."""
    existing: list[NDArray[np.int64]] = []
    for ids, hashes_M in spool.ids():
        positions_M = partition.find(ids, hashes_M)
        if not replace and (positions_M >= 0).any():
            id_ = ids[int((positions_M >= 0).argmax())]
            raise InputError(f"document {id_!r} is already in the index {store}; upsert to replace it")
        existing.append(positions_M[positions_M >= 0])
    return np.sort(np.concatenate(existing))


def plan_change(snapshot: Snapshot, removed: Sequence[NDArray[np.int64]], added: Sequence[PartitionInfo]) -> Manifest:
    """Write what the next version needs, and return its manifest: the same for the same arguments.

    It is without the documents at positions `removed` of each partition, plus the partitions `added`, which may be
    merged with small ones before them.
    """
    remaining = [
        info
        for partition, positions in zip(snapshot.partitions, removed, strict=True)
        if (info := _without(snapshot, partition, positions))
    ]
    return snapshot.manifest.next(merge_last(snapshot, [*remaining, *added]) if added else remaining)


def commit_change(
    snapshot: Snapshot, removed: Sequence[NDArray[np.int64]], added: Sequence[PartitionInfo]
) -> tuple[Snapshot, Change]:
    """Commit the version that `plan_change` returns. Raises `ConflictError` if another writer committed first."""
    with writing_from(snapshot.store, snapshot.manifest.version):
        changed = plan_change(snapshot, removed, added)
    commit_manifest(snapshot.store, changed)
    n_added, n_removed = sum(info.documents for info in added), sum(map(len, removed))
    return snapshot.next(changed), Change(changed.version, n_added, n_removed)


def store_settings(snapshot: Snapshot, settings: SearchSettings) -> Snapshot:
    """Commit a version that differs only in its tuned search settings."""
    snapshot.check_writable()
    manifest = snapshot.manifest.next(snapshot.manifest.partitions)
    changed = manifest.model_copy(update={"tuned": settings})
    commit_manifest(snapshot.store, changed)
    return snapshot.next(changed)


def _without(snapshot: Snapshot, partition: Partition, positions: NDArray[np.int64]) -> PartitionInfo | None:
    """Delete more documents of a partition; return its new entry, or None if no live document is left."""
    if not len(positions):
        return partition.info
    if len(positions) == partition.info.live_documents:
        return None
    all_deleted = np.union1d(partition.deleted.astype(np.int64), positions)
    deletes = write_deletes(
        snapshot.store, all_deleted, partition.offsets_N, partition.info.name, snapshot.manifest.version
    )
    return partition.info.model_copy(update={"deletes": deletes})
