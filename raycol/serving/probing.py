"""Finds probes in the gateway, once for all shards, instead of scoring all centroids in each shard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.manifest import Manifest
from raycol.index.search.plan import SearchPlan
from raycol.index.search.probes import find_probes
from raycol.index.search.query import Probes, Query
from raycol.storage import Store

# Saving this many centroid scores is worth the extra step in the gateway (measured in docs/serving.md).
_MIN_CENTROIDS_SAVED = 1 << 16


def probe_in_gateway(n_shards: int, n_centroids: int) -> bool:
    """Whether to score the centroids once in the gateway rather than in every shard."""
    return (n_shards - 1) * n_centroids >= _MIN_CENTROIDS_SAVED


class Prober:
    """Finds the probes of queries in one version.

    Args:
        store: of the index.
        manifest: of the version.
        pool: runs the scoring, off the event loop.

    Raises:
        IndexCorruptError: the codebook's files do not match the manifest.
    """

    def __init__(self, store: Store, manifest: Manifest, pool: Executor) -> None:
        self.codebook_name = manifest.codebook.name
        self._codebook = open_codebook(store, manifest.codebook, manifest.dim, manifest.bits)
        self._pool = pool
        # Compile the kernels before the first request.
        self._find(np.ones((1, manifest.dim), dtype=np.float32), 1)

    async def __call__(
        self, queries: Sequence[NDArray[np.float32]], plans: Sequence[SearchPlan]
    ) -> list[Probes | None]:
        """The probes of each query, float32 [n_tokens, dim]; None if its plan visits no lists."""
        loop = asyncio.get_running_loop()
        # One task per query: cancellation drops queued queries, and concurrent requests interleave.
        tasks = [
            loop.run_in_executor(self._pool, self._find, query, plan.n_probe)
            for query, plan in zip(queries, plans, strict=True)
        ]
        return await asyncio.gather(*tasks)

    def _find(self, query_QD: NDArray[np.float32], n_probe: int) -> Probes | None:
        return find_probes(Query.prepare(query_QD), self._codebook, n_probe) if n_probe else None
