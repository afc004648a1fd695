"""Candidates: estimates from inverted lists, then centroid-only MaxSim of the most promising documents.

The first is WARP's idea (Scheerer et al. 2025, arXiv 2501.17788) over centroids alone: a document is worth, for each
query token, the best of the nearest centroids that it has a token of, or else the nearest centroid that was not
looked at. The second is PLAID's centroid interaction (Santhanam et al. 2022, arXiv 2205.09707). Both add small
integers, so they are the same in any order.

Shapes: Q query tokens, P probes, K centroids, T tokens, N documents of a partition, M chosen ones, L = LANES.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.vectors import max_rows_16, max_rows_32, prefetch

# A document's state: its estimate in the low bits, above them the number of the query token that raised it last.
ESTIMATE_BITS = 20
ESTIMATE_MASK = (1 << ESTIMATE_BITS) - 1


@kernel()
def visit_lists(probes_LP, above_LP, first, list_offsets_K, list_documents_T, state_N):  # type: ignore[no-untyped-def]
    """Raise the estimates of the documents in each query token's lists, in place.

    Args:
        probes_LP: centroids, best first, so that a document's first visit is its best.
        above_LP: int32, the centroid's byte less the first unvisited centroid's.
        first: number of the first of these query tokens.
        list_offsets_K, list_documents_T: the partition's lists.
        state_N: uint32, 0 before the first query token.
    """
    n_lanes, n_probe = probes_LP.shape
    lists = list_documents_T.ctypes.data
    for lane in range(n_lanes):
        turn = np.uint32(first + lane + 1)
        for p in range(n_probe):
            above = np.uint32(above_LP[lane, p])
            if above == 0:
                break
            ahead = probes_LP[lane, min(p + 2, n_probe - 1)]
            prefetch(lists + 4 * np.int64(list_offsets_K[ahead]))
            prefetch(lists + 4 * np.int64(list_offsets_K[ahead]) + 64)
            centroid = probes_LP[lane, p]
            for entry in range(list_offsets_K[centroid], list_offsets_K[centroid + 1]):
                document = list_documents_T[entry]
                state = state_N[document]
                if state >> np.uint32(ESTIMATE_BITS) != turn:
                    estimate = (state & np.uint32(ESTIMATE_MASK)) + above
                    state_N[document] = (turn << np.uint32(ESTIMATE_BITS)) | estimate


@kernel()
def best_estimates(state_N, allowed_N, n, limit):  # type: ignore[no-untyped-def]
    """Positions of the `n` allowed documents with the largest estimates, ascending; of equals at the edge the first.

    Args:
        state_N: uint32, from `visit_lists`.
        allowed_N: bool.
        n: how many; all there are if fewer.
        limit: no estimate is larger.
    """
    counts = np.zeros(limit + 1, dtype=np.int64)
    for document in range(len(state_N)):
        counts[state_N[document] & np.uint32(ESTIMATE_MASK)] += allowed_N[document]
    edge, above = limit, 0
    while edge > 0 and above + counts[edge] < n:
        above += counts[edge]
        edge -= 1
    at_edge = min(n - above, counts[edge])
    chosen_M = np.empty(above + at_edge, dtype=np.int64)
    m = 0
    for document in range(len(state_N)):
        estimate = np.int64(state_N[document] & np.uint32(ESTIMATE_MASK))
        if estimate >= edge and allowed_N[document]:
            if estimate == edge:
                if at_edge == 0:
                    continue
                at_edge -= 1
            chosen_M[m] = document
            m += 1
    return chosen_M


@kernel()
def score_by_centroids(documents_M, bytes_BRL, offsets_N, codes_T):  # type: ignore[no-untyped-def]
    """MaxSim of documents as if each token were its centroid, in bytes, int32 [M].

    Args:
        documents_M: positions of documents in the partition.
        bytes_BRL: uint8 [blocks of query tokens, R, L], from `centroids.score_bytes`; lanes without a token add the
            same to every document.
        offsets_N, codes_T: the partition.
    """
    scores_M = np.zeros(len(documents_M), dtype=np.int32)
    size = codes_T.itemsize
    codes = codes_T.ctypes.data
    for block in range(len(bytes_BRL)):
        table = bytes_BRL[block].ctypes.data
        for m in range(len(documents_M)):
            start, stop = offsets_N[documents_M[m]], offsets_N[documents_M[m] + 1]
            if size == 2:
                scores_M[m] += max_rows_16(table, codes + 2 * start, stop - start)
            else:
                scores_M[m] += max_rows_32(table, codes + 4 * start, stop - start)
    return scores_M
