"""Stage 1 of a search: scores of all centroids, and the nearest centroids of each query token.

This stage reads no documents, so the gateway runs it once for all shards (`serving.scatter`). The shards then rescore
only the centroids of their candidates.

Shapes: B blocks of L = LANES query tokens, R rows of centroids, P probes, C selected centroids.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.protocol import Codec
from raycol.index.kernels.centroids import (
    GROUP,
    query_bytes,
    score_bytes,
    score_centroids,
    score_probes,
    score_rows,
    top_centroids,
)
from raycol.index.kernels.scratch import Scratch
from raycol.index.kernels.vectors import LANES
from raycol.index.search.query import Probes, Query

# Larger byte tables (long queries) are allocated per search rather than reused.
_MAX_SCRATCH_BYTES = 64 << 20
# Range of the byte scores of queries of several blocks, as a multiple of the largest token norm: centroids have unit
# norm, so no score is farther below the best one. A shorter query's bytes span its own scores, which is several times
# less: with few tokens, documents are told apart by few units.
_SPAN = 2.0


def allocate_tables(n_blocks: int, codec: Codec, scratch: Scratch) -> NDArray[np.uint8]:
    """Return uninitialised tables for the byte scores of all centroids, uint8 [B, R, L]."""
    shape = (n_blocks, len(codec.centroid_bytes.rows_RD), LANES)
    if math.prod(shape) > _MAX_SCRATCH_BYTES:
        return np.empty(shape, dtype=np.uint8)
    tables_BRL: NDArray[np.uint8] = scratch.array("tables", shape, np.uint8)
    return tables_BRL


def find_probes(query: Query, codec: Codec, n_probe: int) -> Probes:
    """Return the probes of a query, for searches in other processes."""
    with codec.scratch_pool.borrow() as scratch:
        return score_all(query, codec, n_probe, None, scratch)


def score_all(
    query: Query, codec: Codec, n_probe: int, tables_BRL: NDArray[np.uint8] | None, scratch: Scratch
) -> Probes:
    """Score all centroids: write their byte scores to `tables_BRL`, unless it is None, and return the probes.

    With `n_probe` 0 the probes have no centroids.
    """
    rows_RD, scales_D = codec.centroid_bytes
    scores_RL = scratch.array("scores", (len(rows_RD), LANES), np.int16)
    tops_GL = scratch.array("tops", (len(rows_RD) // GROUP, LANES), np.int16)
    # One more than is visited: estimates are relative to the first unvisited centroid.
    n_nearest = min(n_probe + 1, codec.n_centroids)
    shape = (len(query.floats_BDL), LANES)
    probes = Probes([], [], np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32))
    for block, (floats_DL, best_L, units_L) in enumerate(
        zip(query.floats_BDL, probes.best_BL, probes.units_BL, strict=True)
    ):
        n_lanes = min(LANES, query.n_tokens - LANES * block)
        weights_DL4, offsets_L, shift, steps_L = query_bytes(floats_DL, scales_D)
        score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL)
        best_L[:] = tops_GL.max(axis=0)
        if query.n_tokens <= LANES:
            span = float(((best_L - _lowest(scores_RL, codec.n_centroids)) * steps_L)[:n_lanes].max())
        else:
            span = _SPAN * query.max_norm
        units_L[:] = steps_L * (255 / span if span > 0 else 1.0)
        if tables_BRL is not None:
            score_bytes(scores_RL, best_L, units_L, tables_BRL[block])
        if n_probe:
            nearest_LP = top_centroids(scores_RL, tops_GL, n_lanes, codec.n_centroids, n_nearest)
            probes.centroids.append(nearest_LP)
            probes.above.append(score_probes(scores_RL, best_L, units_L, nearest_LP, n_nearest > n_probe))
    return probes


def _lowest(scores_RL: NDArray[np.int16], n_centroids: int) -> NDArray[np.int16]:
    """Return the minimum over the centroids, int16 [L]; NumPy is several times as fast over long rows."""
    whole = n_centroids - n_centroids % GROUP
    if not whole:
        return np.asarray(scores_RL[:n_centroids].min(axis=0))
    by_group = scores_RL[:whole].reshape(-1, GROUP * LANES).min(axis=0).reshape(GROUP, LANES)
    lowest_L: NDArray[np.int16] = np.concatenate((by_group, scores_RL[whole:n_centroids])).min(axis=0)
    return lowest_L


def score_some(
    query: Query,
    codec: Codec,
    codes_C: NDArray[np.int64],
    probes: Probes,
    tables_BRL: NDArray[np.uint8],
    first: int = 0,
) -> None:
    """Write the byte scores of some centroids to `tables_BRL`, equal to those of `score_all`.

    Args:
        query, codec, probes: of the search.
        codes_C: the centroids.
        tables_BRL: for some blocks of the query, uint8.
        first: the first of these blocks.
    """
    rows_RD, scales_D = codec.centroid_bytes
    for block, bytes_RL in enumerate(tables_BRL, start=first):
        weights_DL4, offsets_L, shift, _ = query_bytes(query.floats_BDL[block], scales_D)
        score_rows(
            codes_C, rows_RD, weights_DL4, offsets_L, shift, probes.units_BL[block], probes.best_BL[block], bytes_RL
        )
