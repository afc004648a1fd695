"""The first stage of a search: the scores of all centroids, and each query token's nearest ones.

It needs no documents, so one process can do it for all those that hold some (`serving.scatter`). These then score
again only the centroids that their candidates have.

Shapes: B blocks of L = LANES query tokens, R rows of centroids, P probes, C chosen centroids.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index.codec.codebook import Codebook
from raycol.index.kernels.centroids import (
    GROUP,
    query_bytes,
    score_bytes,
    score_centroids,
    score_probes,
    score_rows,
    top_centroids,
)
from raycol.index.kernels.vectors import LANES
from raycol.index.search.query import Query
from raycol.index.search.scratch import Scratch

# The bytes for a query of many tokens are more than this, and not kept.
_KEPT_BYTES = 64 << 20


class Probes(NamedTuple):
    """The centroids that are nearest to each query token, and what the bytes of all of them are counted from.

    For each block of query tokens: its tokens' nearest centroids, best first, int32 [tokens, P], the last of which is
    not visited if there are any beyond; and by how much their bytes exceed that one's, uint8 [tokens, P]. `best_BL`,
    float32, are the tokens' best scores.
    """

    centroids: list[NDArray[np.int32]]
    above: list[NDArray[np.uint8]]
    best_BL: NDArray[np.float32]


def byte_tables(query: Query, codebook: Codebook, scratch: Scratch) -> NDArray[np.uint8]:
    """Room for the bytes of all centroids, uint8 [B, R, L]; it holds anything."""
    shape = (len(query.floats_BDL), len(codebook.centroid_bytes.rows_RD), LANES)
    if math.prod(shape) > _KEPT_BYTES:
        return np.empty(shape, dtype=np.uint8)
    tables_BRL: NDArray[np.uint8] = scratch.array("tables", shape, np.uint8)
    return tables_BRL


def find_probes(query: Query, codebook: Codebook, n_probe: int) -> Probes:
    """The probes of a query for searches elsewhere."""
    with codebook.scratches.one() as scratch:
        return score_all(query, codebook, n_probe, None, scratch)


def score_all(
    query: Query, codebook: Codebook, n_probe: int, tables_BRL: NDArray[np.uint8] | None, scratch: Scratch
) -> Probes:
    """Write the bytes of all centroids into `tables_BRL`, if given, and find the probes, none with `n_probe` 0."""
    rows_RD, sizes_D = codebook.centroid_bytes
    scores_RL = scratch.array("scores", (len(rows_RD), LANES), np.int16)
    tops_GL = scratch.array("tops", (len(rows_RD) // GROUP, LANES), np.int16)
    # One more than is visited: the bytes count from there.
    n_nearest = min(n_probe + 1, codebook.n_centroids)
    probes = Probes([], [], np.empty((len(query.floats_BDL), LANES), dtype=np.float32))
    for number, (floats_DL, best_L) in enumerate(zip(query.floats_BDL, probes.best_BL, strict=True)):
        weights_DL4, offsets_L, shift, units_L = query_bytes(floats_DL, sizes_D, query.longest)
        score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL)
        best_L[:] = tops_GL.max(axis=0)
        if tables_BRL is not None:
            score_bytes(scores_RL, best_L, units_L, tables_BRL[number])
        if n_probe:
            n_lanes = min(LANES, query.n_tokens - LANES * number)
            nearest_LP = top_centroids(scores_RL, tops_GL, n_lanes, codebook.n_centroids, n_nearest)
            probes.centroids.append(nearest_LP)
            probes.above.append(score_probes(scores_RL, best_L, units_L, nearest_LP, n_nearest > n_probe))
    return probes


def score_some(
    query: Query,
    codebook: Codebook,
    codes_C: NDArray[np.int64],
    best_BL: NDArray[np.float32],
    tables_BRL: NDArray[np.uint8],
) -> None:
    """Write the bytes of some centroids into `tables_BRL`, the same as `score_all` does."""
    rows_RD, sizes_D = codebook.centroid_bytes
    for number, bytes_RL in enumerate(tables_BRL):
        asked = query_bytes(query.floats_BDL[number], sizes_D, query.longest)
        score_rows(codes_C, rows_RD, *asked, best_BL[number], bytes_RL)
