"""The documents that a search may return, by their ordinals over all open partitions.

Shapes: N documents of all partitions, M selected documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.lists import JOINED_TOKENS, Lists
from raycol.index.format.partition import Partition


class ListSet(NamedTuple):
    """Inverted lists: those of large partitions, and joined ones of small partitions that follow each other.

    starts: the first ordinal of each, then N, int64. addresses: a row for each (`kernels.addresses`), int64.
    arrays: what is there: kept, since the kernels only have the addresses.
    """

    starts: NDArray[np.int64]
    addresses: NDArray[np.int64]
    arrays: Sequence[Lists]


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

    @cached_property
    def lists(self) -> ListSet:
        """The lists over all documents."""
        firsts = list(_groups(self.partitions))
        stops = [*firsts[1:], len(self.partitions)]
        joined = [
            self.partitions[first].joined_lists(self.partitions[first + 1 : stop])
            for first, stop in zip(firsts, stops, strict=True)
        ]
        rows = [(offsets_K.ctypes.data, lists.ctypes.data, offsets_K.itemsize) for offsets_K, lists in joined]
        starts = self.starts[[*firsts, len(self.partitions)]]
        return ListSet(starts, np.array(rows, dtype=np.int64).reshape(-1, 3), joined)

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


def _groups(partitions: Sequence[Partition]) -> Iterator[int]:
    """Yield the first partition of each group whose lists are joined."""
    tokens = JOINED_TOKENS
    for number, partition in enumerate(partitions):
        if partition.has_lists or tokens >= JOINED_TOKENS:
            yield number
            tokens = 0
        tokens = JOINED_TOKENS if partition.has_lists else tokens + partition.info.tokens
