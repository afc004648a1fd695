"""Appending, upserting and deleting: each prepares everything, then commits one manifest, or no version changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.pooling import token_pooling
from raycol.index.format.columns import check_columns
from raycol.index.format.deletes import write_deletes
from raycol.index.format.document import Document
from raycol.index.format.manifest import Manifest, PartitionInfo, check_current, commit_manifest, writing_from
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import write_partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.effort import SearchSettings
from raycol.index.search.selection import OnUnknown, locate
from raycol.index.write.spool import Spool
from raycol.storage import Store


@dataclass(frozen=True)
class Change:
    """What a change did: the version it made (or left, where there was nothing to do), documents added and removed."""

    version: int
    added: int
    removed: int


def add_documents(snapshot: Snapshot, documents: Iterable[Document], *, replace: bool) -> tuple[Snapshot, Change]:
    """Add documents as new partitions; ones of the same id are replaced, or refused.

    Raises:
        InputError: an unusable document, one that comes twice, or (unless `replace`) one that the index has.
        ConflictError: another writer was first.
    """
    store, manifest = snapshot.store, snapshot.manifest
    check_writable(snapshot)
    pool = token_pooling(manifest.pool_factor)

    def look(document: Document) -> None:
        check_columns(document.id, document.metadata, manifest.columns)

    with (
        writing_from(store, manifest.version),
        store.workspace(manifest.version) as workspace,
        Spool(workspace, manifest.dim) as spool,
    ):
        spool.fill(documents, look, pool)
        if not len(spool):
            return snapshot, Change(manifest.version, 0, 0)
        gone = [_known(spool, partition, replace, store) for partition in snapshot.partitions]
        added = [
            write_partition(store, piece, snapshot.codebook, manifest.columns, manifest.version)
            for piece in spool.partitions(manifest.partition_tokens)
        ]
        return commit_change(snapshot, gone, added)


def delete_documents(snapshot: Snapshot, ids: Iterable[str], on_unknown: OnUnknown) -> tuple[Snapshot, Change]:
    """Delete documents.

    Raises:
        InputError: an id that is no string, or, with `refuse`, one that the index does not have.
        ConflictError: another writer was first.
    """
    check_writable(snapshot)
    gone = locate(snapshot.partitions, ids, on_unknown)
    if not sum(map(len, gone)):
        return snapshot, Change(snapshot.manifest.version, 0, 0)
    with writing_from(snapshot.store, snapshot.manifest.version):
        return commit_change(snapshot, gone, [])


def check_writable(snapshot: Snapshot) -> None:
    """Raise where a snapshot cannot be the start of a new version."""
    if not snapshot.whole:
        raise InputError(f"{snapshot.store}: only some partitions are open; open the whole index to change it")
    check_current(snapshot.store, snapshot.manifest.version)
    snapshot.store.check_writable()
    snapshot.store.check_commits()


def _known(spool: Spool, partition: Partition, replace: bool, store: Store) -> NDArray[np.int64]:
    """Positions of a partition's documents that come again."""
    found: list[NDArray[np.int64]] = []
    for ids, hashes_M in spool.ids():
        found_M = partition.find(ids, hashes_M)
        if not replace and (found_M >= 0).any():
            id_ = ids[int((found_M >= 0).argmax())]
            raise InputError(f"document {id_!r} is in the index {store} already; upsert replaces documents")
        found.append(found_M[found_M >= 0])
    return np.sort(np.concatenate(found))


def commit_change(
    snapshot: Snapshot, gone: Sequence[NDArray[np.int64]], added: Sequence[PartitionInfo]
) -> tuple[Snapshot, Change]:
    """Commit a version without the documents at some positions of each partition, and with other partitions."""
    manifest = snapshot.manifest
    kept = [
        info
        for partition, positions in zip(snapshot.partitions, gone, strict=True)
        if (info := _without(snapshot, partition, positions))
    ]
    changed = next_version(manifest, [*kept, *added])
    commit_manifest(snapshot.store, changed)
    removed = sum(map(len, gone))
    return snapshot.next(changed), Change(changed.version, sum(info.documents for info in added), removed)


def remember_settings(snapshot: Snapshot, settings: SearchSettings) -> Snapshot:
    """Commit a version with other settings for searches, and nothing else changed."""
    check_writable(snapshot)
    manifest = next_version(snapshot.manifest, snapshot.manifest.partitions)
    changed = manifest.model_copy(update={"tuned": settings})
    commit_manifest(snapshot.store, changed)
    return snapshot.next(changed)


def next_version(manifest: Manifest, partitions: Sequence[PartitionInfo]) -> Manifest:
    """The manifest that follows, with other partitions."""
    return manifest.model_copy(update={"version": manifest.version + 1, "partitions": tuple(partitions)})


def _without(snapshot: Snapshot, partition: Partition, positions: NDArray[np.int64]) -> PartitionInfo | None:
    """A partition's entry with more documents deleted; None where none is left."""
    if not len(positions):
        return partition.info
    if len(positions) == partition.info.live_documents:
        return None
    everything = np.union1d(partition.deleted.astype(np.int64), positions)
    deletes = write_deletes(
        snapshot.store, everything, partition.offsets_N, partition.info.name, snapshot.manifest.version
    )
    return partition.info.model_copy(update={"deletes": deletes})
