"""The first stage of a search: the scores of all centroids, and each query token's nearest ones.

It needs no documents, so one process can do it for all those that hold some (`serving.scatter`). These then score
again only the centroids that their candidates have.

Shapes: B blocks of L = LANES query tokens, R rows of centroids, P probes, C chosen centroids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.index.codebook import Codebook
from raycol.index.kernels.centroids import (
    GROUP,
    above_next,
    nearest_lists,
    query_bytes,
    score_bytes,
    score_centroids,
    score_rows,
)
from raycol.index.kernels.vectors import LANES
from raycol.index.query import Query
from raycol.index.scratch import Scratch


class Probes(NamedTuple):
    """The lists that each query token visits, and what its bytes are counted from.

    For each block of query tokens: its tokens' nearest centroids, best first, int32 [tokens, P], and by how much their
    bytes exceed that of the first one not visited, int32 [tokens, P]. `best_BL` are the tokens' best scores, float32.
    """

    centroids: list[NDArray[np.int32]]
    above: list[NDArray[np.int32]]
    best_BL: NDArray[np.float32]


def byte_tables(query: Query, codebook: Codebook, scratch: Scratch) -> NDArray[np.uint8]:
    """Room for the bytes of all centroids, uint8 [B, R, L]; it holds anything."""
    n_rows = len(codebook.centroid_bytes.rows_RD)
    tables_BRL: NDArray[np.uint8] = scratch.array("tables", (len(query.floats_BDL), n_rows, LANES), np.uint8)
    return tables_BRL


def find_probes(query: Query, codebook: Codebook, n_probe: int) -> Probes:
    """The probes of a query for searches elsewhere."""
    with codebook.scratches.one() as scratch:
        return score_all(query, codebook, n_probe, byte_tables(query, codebook, scratch), scratch)


def score_all(
    query: Query, codebook: Codebook, n_probe: int, tables_BRL: NDArray[np.uint8], scratch: Scratch
) -> Probes:
    """Write the bytes of all centroids into `tables_BRL`, and find the probes; with `n_probe` 0 these are none."""
    rows_RD, sizes_D = codebook.centroid_bytes
    scores_RL = scratch.array("scores", (len(rows_RD), LANES), np.int16)
    tops_GL = scratch.array("tops", (len(rows_RD) // GROUP, LANES), np.int16)
    # One more than is visited: the bytes count from there.
    n_nearest = min(n_probe + 1, codebook.n_centroids)
    probes = Probes([], [], np.empty((len(tables_BRL), LANES), dtype=np.float32))
    for number, bytes_RL in enumerate(tables_BRL):
        weights_DL4, offsets_L, shift, units_L = query_bytes(query.floats_BDL[number], sizes_D, query.longest)
        score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL)
        probes.best_BL[number] = score_bytes(scores_RL, tops_GL, units_L, bytes_RL)
        if n_probe:
            n_lanes = min(LANES, query.n_tokens - LANES * number)
            nearest_LP = nearest_lists(scores_RL, tops_GL, n_lanes, codebook.n_centroids, n_nearest)
            probes.centroids.append(nearest_LP)
            probes.above.append(above_next(bytes_RL, nearest_LP, n_nearest > n_probe))
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
