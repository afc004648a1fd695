"""Compaction: merge small partitions and drop deleted documents, without re-encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.core.validation import check_positive_int
from raycol.index.codec.codebook import Codebook, TokenCodes
from raycol.index.format.columns import Columns, schema_of
from raycol.index.format.manifest import PartitionInfo, commit_manifest, writing_from
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import save_partition
from raycol.index.format.snapshot import Snapshot
from raycol.storage.store import Store


@dataclass(frozen=True)
class _Batch:
    """Live documents of one or more partitions."""

    ids: list[str]
    metadata: pa.Table
    lengths_N: NDArray[np.int64]
    errors_N: NDArray[np.float64]
    tokens: TokenCodes

    @property
    def n_tokens(self) -> int:
        return len(self.tokens.codes_T)

    def split(self, n: int) -> tuple[_Batch, _Batch]:
        """Split into the first `n` documents and the rest."""
        token = int(self.lengths_N[:n].sum())
        return (
            _Batch(
                self.ids[:n], self.metadata.slice(0, n), self.lengths_N[:n], self.errors_N[:n],
                self.tokens.take(slice(token)),
            ),
            _Batch(
                self.ids[n:], self.metadata.slice(n), self.lengths_N[n:], self.errors_N[n:],
                self.tokens.take(slice(token, None)),
            ),
        )  # fmt: skip


def compact(snapshot: Snapshot, target_tokens: int) -> Snapshot:
    """Rewrite partitions with deleted documents or less than half the target tokens as partitions of the target.

    Peak memory is that of the target and one partition. If there is nothing to rewrite, return the same snapshot.

    Raises:
        InputError: a target below 1.
        ConflictError: another writer committed first.
    """
    target_tokens = check_positive_int("target_tokens", target_tokens)
    snapshot.check_writable()
    manifest = snapshot.manifest
    selected = [
        partition
        for partition in snapshot.partitions
        if partition.info.deletes or 2 * partition.info.tokens < target_tokens
    ]
    if not selected or (len(selected) == 1 and not selected[0].info.deletes):
        return snapshot
    names = {partition.info.name for partition in selected}
    unchanged = [info for info in manifest.partitions if info.name not in names]
    with writing_from(snapshot.store, manifest.version):
        base, n_centroids = manifest.version, snapshot.codebook.n_centroids
        merged = [_save(snapshot.store, batch, n_centroids, base) for batch in _batches(selected, target_tokens)]
        changed = manifest.next([*unchanged, *merged])
        commit_manifest(snapshot.store, changed)
    return snapshot.next(changed)


def _batches(partitions: list[Partition], target_tokens: int) -> Iterator[_Batch]:
    """Yield the live documents in order, in batches of at least the target; the last one may be smaller."""
    pending: list[_Batch] = []
    for partition in partitions:
        pending.append(_live(partition))
        if sum(batch.n_tokens for batch in pending) >= target_tokens:
            rest = _join(pending)
            while rest.n_tokens >= target_tokens:
                batch, rest = rest.split(int(np.searchsorted(np.cumsum(rest.lengths_N), target_tokens)) + 1)
                yield batch
            pending = [rest] if rest.ids else []
    if pending:
        yield _join(pending)


def _live(partition: Partition) -> _Batch:
    partition.check()
    live_N = partition.live_N
    lengths_N = np.diff(partition.offsets_N)
    live_T = np.repeat(live_N, lengths_N)
    positions = np.flatnonzero(live_N)
    metadata = partition.metadata().filter(pa.array(live_N)) if partition.columns else _no_columns()
    return _Batch(
        partition.ids.take(positions),
        metadata,
        lengths_N[live_N],
        np.full(len(positions), partition.info.error),
        partition.tokens.take(live_T),
    )


def _no_columns() -> pa.Table:
    return schema_of({}).empty_table()


def _join(batches: list[_Batch]) -> _Batch:
    return _Batch(
        [id_ for batch in batches for id_ in batch.ids],
        pa.concat_tables([batch.metadata for batch in batches]),
        np.concatenate([batch.lengths_N for batch in batches]),
        np.concatenate([batch.errors_N for batch in batches]),
        TokenCodes.concatenate(batch.tokens for batch in batches),
    )


def _save(store: Store, batch: _Batch, n_centroids: int, base: int) -> PartitionInfo:
    return save_partition(
        store,
        batch.ids,
        batch.metadata.combine_chunks(),
        batch.lengths_N,
        batch.tokens,
        round(float(np.average(batch.errors_N, weights=batch.lengths_N)), 6),
        n_centroids,
        base,
    )


def group_partitions(infos: Sequence[PartitionInfo], target_tokens: int) -> Iterator[Sequence[PartitionInfo]]:
    """Yield groups of consecutive partitions to merge: small ones up to the target; large ones stay alone."""
    group: list[PartitionInfo] = []
    for info in infos:
        if 2 * info.tokens >= target_tokens:
            yield from [group] if group else []
            yield [info]
            group = []
            continue
        group.append(info)
        if sum(small.tokens for small in group) >= target_tokens:
            yield group
            group = []
    if group:
        yield group


def merge_group(
    store: Store, infos: Sequence[PartitionInfo], codebook: Codebook, columns: Columns, base: int
) -> PartitionInfo:
    """Merge partitions that are in no manifest yet into one, in the order of their documents."""
    if len(infos) == 1:
        return infos[0]
    batch = _join([_live(Partition.open(store, info, codebook, columns)) for info in infos])
    return _save(store, batch, codebook.n_centroids, base)
