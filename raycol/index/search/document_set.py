"""The documents that a search may return, by their ordinals over all open partitions.

Shapes: N documents of all partitions, M selected documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.partition import Partition


@dataclass(frozen=True)
class DocumentSet:
    """Partitions and a mask over their documents.

    Args:
        partitions: the open partitions, in order.
        starts: the first ordinal of each partition, then N, int64.
        allowed_N: whether a search may return each document, bool [N].
        n_allowed: documents that a search may return.
        n_tokens: tokens of all documents, deleted ones included.
        restricted: whether a filter or a set of ids excludes documents; deleted ones do not count.
        addresses: where the arrays of the partitions are, a row for each (`kernels.addresses`), int64.
        arrays: these arrays: kept, since the kernels only have the addresses.
    """

    partitions: Sequence[Partition]
    starts: NDArray[np.int64]
    allowed_N: NDArray[np.bool_]
    n_allowed: int
    n_tokens: int
    restricted: bool
    addresses: NDArray[np.int64]
    arrays: Sequence[Sequence[NDArray[Any]]]

    @classmethod
    def of(cls, partitions: Sequence[Partition], allowed: Sequence[NDArray[np.bool_]]) -> DocumentSet:
        """Combine one mask per partition."""
        allowed_N = np.concatenate(allowed) if allowed else np.zeros(0, dtype=bool)
        starts = np.cumsum([0, *map(len, allowed)])
        n_allowed = int(np.count_nonzero(allowed_N))
        n_tokens = sum(partition.info.tokens for partition in partitions)
        n_live = sum(partition.info.live_documents for partition in partitions)
        located = [partition.search_arrays for partition in partitions]
        addresses = np.array([each for _, each in located], dtype=np.int64)
        arrays = [each for each, _ in located]
        return cls(partitions, starts, allowed_N, n_allowed, n_tokens, n_allowed < n_live, addresses, arrays)

    @property
    def n_documents(self) -> int:
        """N."""
        return len(self.allowed_N)

    @property
    def ordinals(self) -> NDArray[np.int64]:
        """Ordinals of the allowed documents, ascending."""
        return np.flatnonzero(self.allowed_N)

    def split(self, ordinals_M: NDArray[np.int64]) -> list[tuple[Partition, NDArray[np.int64]]]:
        """Return the positions of ascending ordinals within each partition that holds any, in order."""
        edges = np.searchsorted(ordinals_M, self.starts).tolist()
        starts = self.starts.tolist()
        return [
            (partition, ordinals_M[edges[p] : edges[p + 1]] - starts[p])
            for p, partition in enumerate(self.partitions)
            if edges[p] < edges[p + 1]
        ]

    def ids(self, ordinals_M: NDArray[np.int64]) -> list[str]:
        """Return the ids of documents by ascending ordinals."""
        return [id_ for partition, positions in self.split(ordinals_M) for id_ in partition.ids.take(positions)]
