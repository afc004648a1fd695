"""Find the documents of a corpus that already exist in an index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycol.data import Passage
from raycol.index.format.partition import Partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.search.selection import locate
from raycol.indexing.metadata import PARENT

_BATCH = 8192


class ExistingDocuments:
    """Collects the documents of a corpus that exist in a snapshot, looking ids up in batches."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pending: list[str] = []
        self._batches: list[list[NDArray[np.int64]]] = [[] for _ in snapshot.partitions]

    def __call__(self, passage: Passage) -> None:
        """Add a passage; its id is looked up with its batch."""
        self._pending.append(passage.id)
        if len(self._pending) == _BATCH:
            self._look_up()

    def positions(self) -> list[NDArray[np.int64]]:
        """Return the positions of existing documents in each partition; of all their passages if they are split."""
        self._look_up()
        empty = [np.empty(0, dtype=np.int64)]
        return [np.unique(np.concatenate(batches or empty)) for batches in self._batches]

    def ids(self) -> set[str]:
        """Return the ids of existing documents."""
        split = self._snapshot.manifest.split is not None
        pairs = zip(self._snapshot.partitions, self.positions(), strict=True)
        return {
            id_
            for partition, positions in pairs
            if len(positions)
            for id_ in _document_ids(partition, positions, split)
        }

    def _look_up(self) -> None:
        found = positions_of(self._snapshot, self._pending)
        for batches, positions in zip(self._batches, found, strict=True):
            batches.append(positions)
        self._pending = []


def positions_of(snapshot: Snapshot, ids: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the positions of documents in each partition; of all their passages if they are split."""
    if snapshot.manifest.split is None:
        return locate(snapshot.partitions, ids)
    return [_passages_of(partition, ids) for partition in snapshot.partitions]


def _passages_of(partition: Partition, parents: Sequence[str]) -> NDArray[np.int64]:
    column = partition.column_arrays([PARENT])[PARENT]
    matches_N = pc.is_in(column, value_set=pa.array(parents, pa.string())).to_numpy()
    return np.flatnonzero(matches_N & partition.live_N)


def _document_ids(partition: Partition, positions: NDArray[np.int64], split: bool) -> list[str]:
    """Ids of the documents at positions of a partition; of the passages' parents if documents are split."""
    if not split:
        return partition.ids.take(positions)
    parents: list[str] = partition.column_arrays([PARENT])[PARENT].take(positions).to_pylist()
    return parents
