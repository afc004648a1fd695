"""A shard: some partitions of one version of the index, searched as a whole."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index import Index
from raycol.index.manifest import PartitionInfo


class ShardHit(NamedTuple):
    """A hit with what the index keeps of its document."""

    id: str
    score: float
    metadata: dict[str, Any]


def assign_partitions(partitions: Sequence[PartitionInfo], shards: int) -> list[list[str]]:
    """Spread partitions over shards, evenly by tokens: the largest first, each to the emptiest shard."""
    loads = [(0, shard) for shard in range(shards)]
    chosen: list[list[str]] = [[] for _ in range(shards)]
    for partition in sorted(partitions, key=lambda partition: (-partition.live_tokens, partition.name)):
        load, shard = heapq.heappop(loads)
        chosen[shard].append(partition.name)
        heapq.heappush(loads, (load + partition.live_tokens, shard))
    return chosen


class Shard:
    """Searches its partitions. Runs as a Serve deployment; imports neither torch nor a model."""

    def __init__(self, index: str, version: int, partitions: list[str]) -> None:
        self.index = Index.open(index, version, partitions=partitions)
        # Checks every byte and compiles the kernels (or loads them from the disk) before the first request
        # rather than in it.
        self._search([np.zeros((1, self.index.manifest.dim), np.float32)], k=1)

    async def search(self, queries: list[NDArray[np.float32]], k: int) -> list[list[ShardHit]]:
        """The best `k` documents of this shard for each query, off the event loop."""
        return await asyncio.to_thread(self._search, queries, k)

    def _search(self, queries: list[NDArray[np.float32]], k: int) -> list[list[ShardHit]]:
        found = self.index.search(queries, k=k)
        return [
            [
                ShardHit(hit.id, hit.score, metadata)
                for hit, metadata in zip(hits, self.index.metadata([hit.id for hit in hits]), strict=True)
            ]
            for hits in found
        ]
