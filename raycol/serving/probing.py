"""The first stage of a search, done in the gateway once for all shards, which would each score all centroids.

On a thread of its own: the event loop is for requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.codebook_files import open_codebook
from raycol.index.format.manifest import Manifest
from raycol.index.search.pipeline import SearchPlan
from raycol.index.search.probes import Probes, find_probes
from raycol.index.search.query import Query
from raycol.storage import Store

# So many centroids fewer to score are worth what it takes to score them elsewhere (docs/serving.md).
_MANY_CENTROIDS = 1 << 16


def centroids_once(n_shards: int, n_centroids: int) -> bool:
    """Whether to score all centroids once, before the shards are asked, rather than in each of them."""
    return (n_shards - 1) * n_centroids >= _MANY_CENTROIDS


class Probing:
    """Finds the probes of queries in one version.

    Args:
        store: of the index.
        manifest: of the version.
        pool: where it runs.

    Raises:
        IndexCorruptError: the codebook's files are not as promised.
    """

    def __init__(self, store: Store, manifest: Manifest, pool: Executor) -> None:
        self.codebook_name = manifest.codebook.name
        self._codebook = open_codebook(store, manifest.codebook, manifest.dim, manifest.bits)
        self._pool = pool
        # Compiles the kernels before the first request rather than in it.
        self._find(np.ones((1, manifest.dim), dtype=np.float32), 1)

    async def __call__(
        self, queries: Sequence[NDArray[np.float32]], plans: Sequence[SearchPlan]
    ) -> list[Probes | None]:
        """The probes of each query, float32 [n_tokens, dim]; None where its plan visits no lists."""
        loop = asyncio.get_running_loop()
        # Each by itself: those not begun are not begun any more once this is cancelled, and others take turns.
        found = [
            loop.run_in_executor(self._pool, self._find, query, plan.n_probe)
            for query, plan in zip(queries, plans, strict=True)
        ]
        return await asyncio.gather(*found)

    def _find(self, query_QD: NDArray[np.float32], n_probe: int) -> Probes | None:
        return find_probes(Query.prepare(query_QD), self._codebook, n_probe) if n_probe else None
