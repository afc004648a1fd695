"""The documents that one search may return, numbered over all partitions.

Shapes: N documents of all partitions, M chosen ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.partition import Partition


@dataclass(frozen=True)
class Scope:
    """Partitions, the first number of each and after them N, and whether each document may be found, bool [N].

    `restricted` says whether others than the deleted ones may not.
    """

    partitions: Sequence[Partition]
    starts: NDArray[np.int64]
    allowed_N: NDArray[np.bool_]
    n_allowed: int
    n_tokens: int
    restricted: bool

    @classmethod
    def of(cls, partitions: Sequence[Partition], allowed: Sequence[NDArray[np.bool_]]) -> Scope:
        """From a mask for each partition."""
        allowed_N = np.concatenate(allowed) if allowed else np.zeros(0, dtype=bool)
        starts = np.cumsum([0, *map(len, allowed)])
        n_allowed = int(np.count_nonzero(allowed_N))
        n_tokens = sum(partition.info.tokens for partition in partitions)
        n_live = sum(partition.info.live_documents for partition in partitions)
        return cls(partitions, starts, allowed_N, n_allowed, n_tokens, n_allowed < n_live)

    @property
    def n_documents(self) -> int:
        """N."""
        return len(self.allowed_N)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the documents that may be found, ascending."""
        return np.flatnonzero(self.allowed_N)

    def split(self, numbers_M: NDArray[np.int64]) -> list[tuple[Partition, NDArray[np.int64]]]:
        """Ascending numbers as positions in each partition that has any, in order."""
        edges = np.searchsorted(numbers_M, self.starts).tolist()
        starts = self.starts.tolist()
        return [
            (partition, numbers_M[edges[p] : edges[p + 1]] - starts[p])
            for p, partition in enumerate(self.partitions)
            if edges[p] < edges[p + 1]
        ]

    def ids(self, numbers_M: NDArray[np.int64]) -> list[str]:
        """The ids of documents, given by ascending numbers."""
        return [id_ for partition, positions in self.split(numbers_M) for id_ in partition.ids.take(positions)]
