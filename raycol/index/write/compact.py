"""Compaction: merge small partitions and drop deleted documents, without re-encoding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.core.validation import check_positive_int
from raycol.errors import InputError
from raycol.index.codec.protocol import Codec, TokenCodes
from raycol.index.format.columns import Columns, schema_of
from raycol.index.format.manifest import PartitionInfo, commit_manifest, writing_from
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import save_partition
from raycol.index.format.snapshot import Snapshot
from raycol.storage.store import Store

# Partitions of a size that an append merges to one.
_MERGED = 8
# Merging leaves about this many partitions or more, to spread over shards.
_MIN_PARTITIONS = 8


@dataclass(frozen=True)
class Slice:
    """Consecutive live documents of a partition: ordinals among its live documents."""

    partition: PartitionInfo
    start: int
    stop: int


@dataclass(frozen=True)
class Compaction:
    """A planned compaction: the partitions that stay, and the slices that each new partition joins."""

    unchanged: tuple[PartitionInfo, ...]
    merged: tuple[tuple[Slice, ...], ...]


@dataclass(frozen=True)
class _Batch:
    """Live documents of one or more partitions."""

    ids: list[str]
    metadata: pa.Table
    lengths_N: NDArray[np.int64]
    errors_N: NDArray[np.float64]
    tokens: TokenCodes


def compact(snapshot: Snapshot, target_tokens: int) -> Snapshot:
    """Rewrite partitions with deleted documents or less than half the target tokens as partitions of the target.

    Peak memory is that of the target and one partition. If there is nothing to rewrite, return the same snapshot.

    Raises:
        InputError: a target below 1.
        ConflictError: another writer committed first.
    """
    plan = plan_compaction(snapshot, target_tokens)
    if not plan.merged:
        return snapshot
    infos = {part.partition.name: part.partition for slices in plan.merged for part in slices}
    partitions = dict(zip(infos, _partitions(snapshot, infos.values()), strict=True))
    base, n_centroids = snapshot.manifest.version, snapshot.codebook.n_centroids
    with writing_from(snapshot.store, base):
        merged = [join_slices(snapshot.store, slices, partitions, n_centroids, base) for slices in plan.merged]
    return commit_compaction(snapshot, plan, merged)


def plan_compaction(snapshot: Snapshot, target_tokens: int, names: Collection[str] = ()) -> Compaction:
    """Plan new partitions of at least the target tokens, in the order of the documents; the last may be smaller.

    Args:
        snapshot: the version to compact.
        target_tokens: tokens of a new partition.
        names: of the only partitions that may be rewritten; none for all.

    Raises:
        InputError: a target below 1, a name that the version does not have, or an index that cannot be written.
    """
    target_tokens = check_positive_int("target_tokens", target_tokens)
    if unknown := sorted(set(names) - {info.name for info in snapshot.manifest.partitions}):
        raise InputError(
            f"{snapshot.store}: version {snapshot.manifest.version} has no partition {unknown[0]!r}; "
            "expected names of its folders in partitions/"
        )
    snapshot.check_writable()
    selected = [
        partition
        for partition in snapshot.partitions
        if (not names or partition.info.name in names)
        and (partition.info.deletes or 2 * partition.info.tokens < target_tokens)
    ]
    if not selected or (len(selected) == 1 and not selected[0].info.deletes):
        return Compaction(snapshot.manifest.partitions, ())
    rewritten = {partition.info.name for partition in selected}
    unchanged = tuple(info for info in snapshot.manifest.partitions if info.name not in rewritten)
    return Compaction(unchanged, tuple(_cut(selected, target_tokens)))


def _cut(partitions: list[Partition], target_tokens: int) -> Iterator[tuple[Slice, ...]]:
    slices: list[Slice] = []
    pending = 0
    for partition in partitions:
        ends_N = np.cumsum(np.diff(partition.offsets_N)[partition.live_N])
        start, before = 0, 0
        while start < len(ends_N):
            stop = min(int(np.searchsorted(ends_N, before + target_tokens - pending)) + 1, len(ends_N))
            slices.append(Slice(partition.info, start, stop))
            pending += int(ends_N[stop - 1]) - before
            start, before = stop, int(ends_N[stop - 1])
            if pending >= target_tokens:
                yield tuple(slices)
                slices, pending = [], 0
    if slices:
        yield tuple(slices)


def join_slices(
    store: Store, slices: Sequence[Slice], partitions: Mapping[str, Partition], n_centroids: int, base: int
) -> PartitionInfo:
    """Write one partition of the documents in slices of partitions, which are given by name."""
    batches = [_live(partitions[part.partition.name], part.start, part.stop) for part in slices]
    return _save(store, _join(batches), n_centroids, base)


def commit_compaction(snapshot: Snapshot, plan: Compaction, merged: Sequence[PartitionInfo]) -> Snapshot:
    """Commit the next version with the new partitions. Raises `ConflictError` if another writer committed first."""
    changed = snapshot.manifest.next([*plan.unchanged, *merged])
    commit_manifest(snapshot.store, changed)
    return snapshot.next(changed)


def _live(partition: Partition, start: int = 0, stop: int | None = None) -> _Batch:
    """Return the live documents of a partition, or a slice of them."""
    partition.check()
    positions = np.flatnonzero(partition.live_N)[start:stop]
    chosen_N = np.zeros(len(partition.live_N), bool)
    chosen_N[positions] = True
    lengths_N = np.diff(partition.offsets_N)
    metadata = partition.metadata().filter(pa.array(chosen_N)) if partition.columns else _no_columns()
    return _Batch(
        partition.ids.take(positions),
        metadata,
        lengths_N[positions],
        np.full(len(positions), partition.info.error),
        partition.tokens.take(np.repeat(chosen_N, lengths_N)),
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


def _partitions(snapshot: Snapshot, infos: Iterable[PartitionInfo]) -> list[Partition]:
    """The partitions to be joined: open ones, but those of a trusted snapshot anew, or damage got a valid checksum."""
    opened = {} if snapshot.trusted else {partition.info.name: partition for partition in snapshot.partitions}
    return [
        opened[info.name].with_deletes(info)
        if info.name in opened
        else Partition.open(snapshot.store, info, snapshot.codebook, snapshot.manifest.columns)
        for info in infos
    ]


def merge_last(snapshot: Snapshot, infos: Sequence[PartitionInfo]) -> Sequence[PartitionInfo]:
    """Merge the last partitions of a version that is being written, where `first_to_merge` says so.

    Documents keep their order, and the same partitions give the same one.
    """
    manifest, store = snapshot.manifest, snapshot.store
    tokens = [info.live_tokens for info in infos]
    first = first_to_merge(tokens, merged_tokens(sum(tokens), manifest.partition_tokens))
    if len(infos) - first < 2:
        return infos
    batches = [_live(partition) for partition in _partitions(snapshot, infos[first:])]
    merged = _save(store, _join(batches), snapshot.codebook.n_centroids, manifest.version)
    return [*infos[:first], merged]


def merged_tokens(total: int, partition_tokens: int) -> int:
    """Return the most tokens of a partition that is merged unasked: fewer than `partition_tokens` in a small index."""
    return min(partition_tokens, max(1, total // _MIN_PARTITIONS))


def first_to_merge(tokens: Sequence[int], most_tokens: int) -> int:
    """Return the first of the last partitions that are to be merged; the number of partitions if none is.

    Eight or more that follow each other are merged if none has more tokens than a power of eight, and they have more
    together, smallest powers first; what they become counts as one for the next. So appends of b tokens leave a few
    partitions of each size between b, 8 b, 64 b and so on, and a token is written again about once for each of these
    sizes (size-tiered compaction, as in log-structured merge trees; Luo and Carey 2019, arXiv 1812.07527). Partitions
    of half of `most_tokens` are large, and stay; fewer than eight are merged if they become a large one, and the one
    before them does not fit.

    Args:
        tokens: live tokens of each partition, in order.
        most_tokens: of a merged partition.
    """
    first, start, total, is_full = len(tokens), len(tokens), 0, False
    for tier in range(_tier(most_tokens) + 1):
        while start and _tier(tokens[start - 1]) <= tier:
            is_full = 2 * tokens[start - 1] >= most_tokens or total + tokens[start - 1] > most_tokens
            if is_full:
                break
            start -= 1
            total += tokens[start]
        units = first - start + (first < len(tokens))
        if (units >= _MERGED and _tier(total) > tier) or (is_full and units > 1 and 2 * total >= most_tokens):
            first = start
        if is_full:
            break
    return first


def _tier(tokens: int) -> int:
    return max(0, tokens.bit_length() - 1) // 3


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
    store: Store, infos: Sequence[PartitionInfo], codec: Codec, columns: Columns, base: int
) -> PartitionInfo:
    """Merge partitions that are in no manifest yet into one, in the order of their documents."""
    if len(infos) == 1:
        return infos[0]
    batch = _join([_live(Partition.open(store, info, codec, columns)) for info in infos])
    return _save(store, batch, codec.n_centroids, base)
