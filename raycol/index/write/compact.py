"""Compaction: small partitions merged, deleted documents dropped, nothing encoded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.index.codec.codebook import Codebook, TokenCodes
from raycol.index.format.columns import Columns, schema_of
from raycol.index.format.manifest import PartitionInfo, commit_manifest, writing_from
from raycol.index.format.partition import Partition
from raycol.index.format.partition_writer import concatenate_tokens, save_partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.counts import check_count
from raycol.index.write.changes import check_writable, next_version
from raycol.storage import Store


@dataclass(frozen=True)
class _Piece:
    """Live documents of one partition, or of several."""

    ids: list[str]
    metadata: pa.Table
    lengths_N: NDArray[np.int64]
    errors_N: NDArray[np.float64]
    tokens: TokenCodes

    @property
    def n_tokens(self) -> int:
        return len(self.tokens.codes_T)

    def cut(self, n: int) -> tuple[_Piece, _Piece]:
        """The first `n` documents, and the others."""
        token = int(self.lengths_N[:n].sum())
        return (
            _Piece(
                self.ids[:n], self.metadata.slice(0, n), self.lengths_N[:n], self.errors_N[:n],
                _slice(self.tokens, 0, token),
            ),
            _Piece(
                self.ids[n:], self.metadata.slice(n), self.lengths_N[n:], self.errors_N[n:],
                _slice(self.tokens, token, self.n_tokens),
            ),
        )  # fmt: skip


def _slice(tokens: TokenCodes, start: int, stop: int) -> TokenCodes:
    return TokenCodes._make(array[start:stop] for array in tokens)


def compact(snapshot: Snapshot, target_tokens: int) -> Snapshot:
    """Rewrite partitions that hold deleted documents or are under half of the target, in pieces of the target.

    Memory is bounded by the target and one partition. Where there is nothing to gain, nothing is written.

    Raises:
        InputError: a target below 1.
        ConflictError: another writer was first.
    """
    target_tokens = check_count("target_tokens", target_tokens)
    check_writable(snapshot)
    manifest = snapshot.manifest
    worn = [
        partition
        for partition in snapshot.partitions
        if partition.info.deletes or 2 * partition.info.tokens < target_tokens
    ]
    if not worn or (len(worn) == 1 and not worn[0].info.deletes):
        return snapshot
    names = {partition.info.name for partition in worn}
    kept = [info for info in manifest.partitions if info.name not in names]
    with writing_from(snapshot.store, manifest.version):
        base, n_centroids = manifest.version, snapshot.codebook.n_centroids
        merged = [_save(snapshot.store, piece, n_centroids, base) for piece in _pieces(worn, target_tokens)]
        changed = next_version(manifest, [*kept, *merged])
        commit_manifest(snapshot.store, changed)
    return snapshot.next(changed)


def _pieces(partitions: list[Partition], target_tokens: int) -> Iterator[_Piece]:
    """Their live documents in order, in pieces that reach the target; the last one may not."""
    waiting: list[_Piece] = []
    for partition in partitions:
        waiting.append(_live(partition))
        if sum(piece.n_tokens for piece in waiting) >= target_tokens:
            rest = _join(waiting)
            while rest.n_tokens >= target_tokens:
                piece, rest = rest.cut(int(np.searchsorted(np.cumsum(rest.lengths_N), target_tokens)) + 1)
                yield piece
            waiting = [rest] if rest.ids else []
    if waiting:
        yield _join(waiting)


def _live(partition: Partition) -> _Piece:
    partition.check()
    live_N = partition.live_N
    lengths_N = np.diff(partition.offsets_N)
    live_T = np.repeat(live_N, lengths_N)
    positions = np.flatnonzero(live_N)
    metadata = partition.metadata().filter(pa.array(live_N)) if partition.columns else _no_columns()
    return _Piece(
        partition.ids.take(positions),
        metadata,
        lengths_N[live_N],
        np.full(len(positions), partition.info.error),
        TokenCodes(
            partition.codes_T[live_T],
            partition.residuals_TB[live_T],
            partition.gains_T[live_T],
            partition.scales_T[live_T],
        ),
    )


def _no_columns() -> pa.Table:
    return schema_of({}).empty_table()


def _join(pieces: list[_Piece]) -> _Piece:
    return _Piece(
        [id_ for piece in pieces for id_ in piece.ids],
        pa.concat_tables([piece.metadata for piece in pieces]),
        np.concatenate([piece.lengths_N for piece in pieces]),
        np.concatenate([piece.errors_N for piece in pieces]),
        concatenate_tokens([piece.tokens for piece in pieces]),
    )


def _save(store: Store, piece: _Piece, n_centroids: int, base: int) -> PartitionInfo:
    return save_partition(
        store,
        piece.ids,
        piece.metadata.combine_chunks(),
        piece.lengths_N,
        piece.tokens,
        round(float(np.average(piece.errors_N, weights=piece.lengths_N)), 6),
        n_centroids,
        base,
    )


def mergers(infos: Sequence[PartitionInfo], target_tokens: int) -> Iterator[Sequence[PartitionInfo]]:
    """Group partitions, in order, to be merged: small ones until they reach the target, others alone."""
    waiting: list[PartitionInfo] = []
    for info in infos:
        if 2 * info.tokens >= target_tokens:
            yield from [waiting] if waiting else []
            yield [info]
            waiting = []
            continue
        waiting.append(info)
        if sum(small.tokens for small in waiting) >= target_tokens:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def merge(
    store: Store, infos: Sequence[PartitionInfo], codebook: Codebook, columns: Columns, base: int
) -> PartitionInfo:
    """Make one partition of several that no manifest names yet, of their documents in order."""
    if len(infos) == 1:
        return infos[0]
    piece = _join([_live(Partition.open(store, info, codebook, columns)) for info in infos])
    return _save(store, piece, codebook.n_centroids, base)
