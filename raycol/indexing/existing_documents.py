"""Which documents of a corpus an index has already."""

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

_LOOKED_UP_AT_ONCE = 8192


class Present:
    """Looks passages up, some thousands at a time, and remembers where those are that the index has."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._waiting: list[str] = []
        self._found: list[list[NDArray[np.int64]]] = [[] for _ in snapshot.partitions]

    def __call__(self, passage: Passage) -> None:
        """Take one more. Where its document stands, nobody knows any more when it is looked up."""
        self._waiting.append(passage.id)
        if len(self._waiting) == _LOOKED_UP_AT_ONCE:
            self._look_up()

    def positions(self) -> list[NDArray[np.int64]]:
        """The positions of these documents in each partition; of all their passages, where documents were split."""
        self._look_up()
        empty = [np.empty(0, dtype=np.int64)]
        return [np.unique(np.concatenate(parts or empty)) for parts in self._found]

    def ids(self) -> set[str]:
        """The ids of those that the index has."""
        split = self._snapshot.manifest.split is not None
        pairs = zip(self._snapshot.partitions, self.positions(), strict=True)
        return {id_ for partition, here in pairs if len(here) for id_ in _names(partition, here, split)}

    def _look_up(self) -> None:
        for here, so_far in zip(positions_of(self._snapshot, self._waiting), self._found, strict=True):
            so_far.append(here)
        self._waiting = []


def positions_of(snapshot: Snapshot, ids: Sequence[str]) -> list[NDArray[np.int64]]:
    """Where documents are in each partition; all their passages, where documents were split."""
    if snapshot.manifest.split is None:
        return locate(snapshot.partitions, ids)
    return [_passages_of(partition, ids) for partition in snapshot.partitions]


def _passages_of(partition: Partition, parents: Sequence[str]) -> NDArray[np.int64]:
    column = partition.column_arrays([PARENT])[PARENT]
    found_N = pc.is_in(column, value_set=pa.array(parents, pa.string())).to_numpy()
    return np.flatnonzero(found_N & partition.live_N)


def _names(partition: Partition, positions: NDArray[np.int64], split: bool) -> list[str]:
    """The ids of the documents at some positions."""
    if not split:
        return partition.ids.take(positions)
    names: list[str] = partition.column_arrays([PARENT])[PARENT].take(positions).to_pylist()
    return names
