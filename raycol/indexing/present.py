"""Which documents of a corpus an index has already."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycol.data import Passage
from raycol.errors import InputError
from raycol.index.partition import Partition
from raycol.index.selection import locate
from raycol.index.snapshot import Snapshot
from raycol.indexing.metadata import PARENT

_LOOKED_UP_AT_ONCE = 8192


class Present:
    """Looks passages up, some thousands at a time, and remembers where those are that the index has.

    Args:
        snapshot: the index.
        upsert: documents that it has are to be replaced; without it they are refused.
    """

    def __init__(self, snapshot: Snapshot, *, upsert: bool) -> None:
        self._snapshot = snapshot
        self._upsert = upsert
        self._waiting: list[str] = []
        self._refused = ""
        self._found: list[list[NDArray[np.int64]]] = [[] for _ in snapshot.partitions]

    def __call__(self, passage: Passage) -> None:
        """Take one more. What is wrong is told at the end: where its document stands, nobody knows by then."""
        self._waiting.append(passage.id)
        if len(self._waiting) == _LOOKED_UP_AT_ONCE:
            self._look_up()

    def finish(self) -> list[NDArray[np.int64]]:
        """The positions of these documents in each partition; of all their passages, where documents were split.

        Raises:
            InputError: the index has one, and may not.
        """
        self._look_up()
        if self._refused:
            raise InputError(self._refused)
        empty = [np.empty(0, dtype=np.int64)]
        return [np.unique(np.concatenate(parts or empty)) for parts in self._found]

    def _look_up(self) -> None:
        partitions = self._snapshot.partitions
        if self._snapshot.manifest.split:
            positions = [_passages_of(partition, self._waiting) for partition in partitions]
        else:
            positions = locate(partitions, self._waiting)
        for partition, here, so_far in zip(partitions, positions, self._found, strict=True):
            if len(here) and not self._upsert:
                self._refused = self._refused or (
                    f"document {_name(partition, int(here[0]))!r} is in the index {self._snapshot.store} already; "
                    "--upsert replaces it"
                )
            so_far.append(here)
        self._waiting = []


def _passages_of(partition: Partition, parents: list[str]) -> NDArray[np.int64]:
    column = partition.column_arrays([PARENT])[PARENT]
    found_N = pc.is_in(column, value_set=pa.array(parents, pa.string())).to_numpy()
    return np.flatnonzero(found_N & partition.live_N)


def _name(partition: Partition, position: int) -> str:
    if PARENT in partition.columns:
        return str(partition.rows(np.array([position]))[0][PARENT])
    return partition.ids[position]
