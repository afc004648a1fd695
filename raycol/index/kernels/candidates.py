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

# Lists that are asked for of the memory before they are needed; where they start is asked for twice as early.
_AHEAD = 6
# Documents that are passed over at once where none has an estimate that matters.
_BLOCK = 32


@kernel()
def visit_lists(probes_LP, above_LP, first, list_offsets_K, list_documents_T, state_N):  # type: ignore[no-untyped-def]
    """Raise the estimates of the documents in each query token's lists, in place.

    Args:
        probes_LP: centroids, best first, so that a document's first visit is its best.
        above_LP: uint8, the centroid's byte less the first unvisited centroid's.
        first: number of the first of these query tokens.
        list_offsets_K, list_documents_T: the partition's lists.
        state_N: uint32, 0 before the first query token.
    """
    n_lanes, n_probe = probes_LP.shape
    probes = probes_LP.reshape(-1)
    offsets, lists = list_offsets_K.ctypes.data, list_documents_T.ctypes.data
    for lane in range(n_lanes):
        turn = np.uint32(first + lane + 1)
        for p in range(n_probe):
            above = np.uint32(above_LP[lane, p])
            if above == 0:
                break
            here = lane * n_probe + p
            prefetch(offsets + 4 * np.int64(probes[min(here + 2 * _AHEAD, len(probes) - 1)]))
            start = np.int64(list_offsets_K[probes[min(here + _AHEAD, len(probes) - 1)]])
            prefetch(lists + 4 * start)
            prefetch(lists + 4 * start + 64)
            centroid = probes[here]
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
        n: how many, at least 1; all there are if fewer.
        limit: no estimate is larger.
    """
    # Of those met so far: how many have each estimate from the `n`-th best on, and all of them. Later ones must be
    # better than it, so that soon most blocks have none that is.
    counts = np.zeros(limit + 1, dtype=np.int64)
    edge, total, least = 0, 0, np.uint32(0)
    met_M, m = np.empty(max(1, min(4 * n, len(state_N))), dtype=np.int64), 0
    for first in range(0, len(state_N), _BLOCK):
        stop = min(first + _BLOCK, len(state_N))
        most = np.uint32(0)
        if stop - first == _BLOCK:  # vectorised, since the compiler knows how many
            for document in range(_BLOCK):
                most = max(most, state_N[first + document] & np.uint32(ESTIMATE_MASK))
        else:
            most = np.uint32(ESTIMATE_MASK)
        if most < least:
            continue
        for document in range(first, stop):
            estimate = state_N[document] & np.uint32(ESTIMATE_MASK)
            if estimate < least or not allowed_N[document]:
                continue
            if m == len(met_M):
                met_M = np.concatenate((met_M, np.empty_like(met_M)))
            met_M[m] = document
            m += 1
            counts[estimate] += 1
            total += 1
            while total - counts[edge] >= n:
                total -= counts[edge]
                edge += 1
            least = np.uint32(edge + (total >= n))
    at_edge = min(n - (total - counts[edge]), counts[edge])
    chosen_M = np.empty(total - counts[edge] + at_edge, dtype=np.int64)
    m_chosen = 0
    for document in met_M[:m]:
        estimate = np.int64(state_N[document] & np.uint32(ESTIMATE_MASK))
        if estimate > edge or (estimate == edge and at_edge > 0):
            at_edge -= estimate == edge
            chosen_M[m_chosen] = document
            m_chosen += 1
    return chosen_M


@kernel()
def mark_codes(documents_M, offsets_N, codes_T, marked_K):  # type: ignore[no-untyped-def]
    """Set those centroids of `marked_K`, bool, that documents have a token of."""
    for document in documents_M:
        for token in range(offsets_N[document], offsets_N[document + 1]):
            marked_K[codes_T[token]] = True


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
