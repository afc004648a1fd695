"""Candidate generation: score estimates from inverted lists, then centroid-only MaxSim of the best documents.

The estimate is WARP's (Scheerer et al. 2025, arXiv 2501.17788) over centroids alone: each query token contributes the
score of the best visited centroid that the document has a token of, or else that of the first unvisited centroid.
Centroid-only MaxSim is PLAID's centroid interaction (Santhanam et al. 2022, arXiv 2205.09707). Both sum small
integers, so the result does not depend on the order.

Documents are identified by their ordinals over all partitions, whose arrays are passed as `addresses`; the partition
number i, or the group of partitions with the lists number i, has the ordinals from starts[i] to starts[i + 1].

Shapes: Q query tokens, P probes, K centroids, N documents of all partitions, M selected documents, L = LANES.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.addresses import (
    CODES_AT,
    LIST_OFFSETS_AT,
    LISTS_AT,
    OFFSET_BYTES_AT,
    OFFSETS_AT,
    int64_at,
    unsigned_at,
)
from raycol.index.kernels.jit import kernel
from raycol.index.kernels.lists import gap_at
from raycol.index.kernels.vectors import max_rows_16, max_rows_32, prefetch

# State of a document: its estimate in the low bits (of at most 8,192 query tokens), and above them 1 + the last query
# token that raised it.
ESTIMATE_BITS = 21
ESTIMATE_MASK = (1 << ESTIMATE_BITS) - 1

# Lists or documents to prefetch ahead; their offsets are prefetched twice as far ahead.
_AHEAD = 6
# Lines to prefetch of a document's codes; the processor prefetches the rest by itself.
_CODE_LINES = 3
# Documents that `best_estimates` skips together if none of them reaches the threshold.
_BLOCK = 32


@kernel()
def visit_lists(probes_LP, above_LP, first, starts, addresses, state_N):  # type: ignore[no-untyped-def]
    """Raise, in place, the estimates of the documents in the lists that each query token probes.

    Args:
        probes_LP: centroids to visit, best first, so that the first visit of a document is its best.
        above_LP: uint8, byte score of the centroid less that of the first unvisited centroid.
        first: position of the first of these tokens; all are below 2,047. They may start again at 0 once `state_N` is
            reduced to the estimates.
        starts, addresses: the lists, as `DocumentSet.lists` has them.
        state_N: uint32, updated; 0 before the first query token.
    """
    n_lanes, n_probe = probes_LP.shape
    probes = probes_LP.reshape(-1)
    for group in range(len(addresses)):
        offsets, lists = addresses[group, LIST_OFFSETS_AT], addresses[group, LISTS_AT]
        width = addresses[group, OFFSET_BYTES_AT]
        for lane in range(n_lanes):
            token = np.uint32(first + lane + 1)
            for p in range(n_probe):
                above = np.uint32(above_LP[lane, p])
                if above == 0:
                    break
                i = lane * n_probe + p
                prefetch(offsets + width * np.int64(probes[min(i + 2 * _AHEAD, len(probes) - 1)]))
                prefetch(lists + unsigned_at(offsets, probes[min(i + _AHEAD, len(probes) - 1)], width))
                place = lists + unsigned_at(offsets, probes[i], width)
                end = lists + unsigned_at(offsets, probes[i] + 1, width)
                document = starts[group] - 1
                while place < end:
                    gap, n_bytes = gap_at(place)
                    place += n_bytes
                    document += gap + 1
                    state = state_N[document]
                    if state >> np.uint32(ESTIMATE_BITS) != token:
                        estimate = (state & np.uint32(ESTIMATE_MASK)) + above
                        state_N[document] = (token << np.uint32(ESTIMATE_BITS)) | estimate


@kernel()
def best_estimates(state_N, allowed_N, n, max_estimate):  # type: ignore[no-untyped-def]
    """Return the positions of the `n` allowed documents with the largest estimates, ascending; ties by position.

    Args:
        state_N: uint32, from `visit_lists`.
        allowed_N: bool, whether a document may be returned.
        n: number of documents, at least 1; all allowed documents if there are fewer.
        max_estimate: upper bound of the estimates.
    """
    # `threshold` is the n-th best estimate so far, and `total` the number of documents that reach it. A document needs
    # `least` to enter the result; most blocks soon have no such document and are skipped.
    histogram = np.zeros(max_estimate + 1, dtype=np.int64)
    threshold, total, least = 0, 0, np.uint32(0)
    candidates_M, m = np.empty(max(1, min(4 * n, len(state_N))), dtype=np.int64), 0
    for first in range(0, len(state_N), _BLOCK):
        stop = min(first + _BLOCK, len(state_N))
        block_max = np.uint32(0)
        if stop - first == _BLOCK:  # a constant trip count, so that the compiler vectorises the loop
            for document in range(_BLOCK):
                block_max = max(block_max, state_N[first + document] & np.uint32(ESTIMATE_MASK))
        else:
            block_max = np.uint32(ESTIMATE_MASK)
        if block_max < least:
            continue
        for document in range(first, stop):
            estimate = state_N[document] & np.uint32(ESTIMATE_MASK)
            if estimate < least or not allowed_N[document]:
                continue
            if m == len(candidates_M):
                candidates_M = np.concatenate((candidates_M, np.empty_like(candidates_M)))
            candidates_M[m] = document
            m += 1
            histogram[estimate] += 1
            total += 1
            while total - histogram[threshold] >= n:
                total -= histogram[threshold]
                threshold += 1
            least = np.uint32(threshold + (total >= n))
    n_ties = min(n - (total - histogram[threshold]), histogram[threshold])
    best_M = np.empty(total - histogram[threshold] + n_ties, dtype=np.int64)
    n_best = 0
    for document in candidates_M[:m]:
        estimate = np.int64(state_N[document] & np.uint32(ESTIMATE_MASK))
        if estimate > threshold or (estimate == threshold and n_ties > 0):
            n_ties -= estimate == threshold
            best_M[n_best] = document
            n_best += 1
    return best_M


@kernel()
def mark_codes(ordinals_M, starts, addresses, code_bytes, marked_K):  # type: ignore[no-untyped-def]
    """Set `marked_K`, bool, for every centroid that a token of the documents has; arguments as below."""
    partition = 0
    for ordinal in ordinals_M:
        while ordinal >= starts[partition + 1]:
            partition += 1
        offsets, codes = addresses[partition, OFFSETS_AT], addresses[partition, CODES_AT]
        document = ordinal - starts[partition]
        for token in range(int64_at(offsets, document), int64_at(offsets, document + 1)):
            marked_K[unsigned_at(codes, token, code_bytes)] = True


@kernel()
def score_by_centroids(ordinals_M, bytes_BRL, starts, addresses, code_bytes):  # type: ignore[no-untyped-def]
    """Return the MaxSim of documents with each token replaced by its centroid, in byte scores, int32 [M].

    Args:
        ordinals_M: ascending.
        bytes_BRL: byte scores, uint8 [blocks of query tokens, R, L], from `centroids.score_bytes`; padding lanes add
            the same to every document.
        starts, addresses: the partitions.
        code_bytes: bytes of a code, 2 or 4.
    """
    n_documents = len(ordinals_M)
    scores_M = np.zeros(n_documents, dtype=np.int32)
    # Where the first token of each document is told, and the codes of its partition.
    places_M, codes_M = np.empty(n_documents, dtype=np.int64), np.empty(n_documents, dtype=np.int64)
    partition = 0
    for m in range(n_documents):
        while ordinals_M[m] >= starts[partition + 1]:
            partition += 1
        places_M[m] = addresses[partition, OFFSETS_AT] + 8 * (ordinals_M[m] - starts[partition])
        codes_M[m] = addresses[partition, CODES_AT]
        if m < 2 * _AHEAD:
            prefetch(places_M[m])
    last = n_documents - 1
    for block in range(len(bytes_BRL)):
        table = bytes_BRL[block].ctypes.data
        for m in range(n_documents):
            prefetch(places_M[min(m + 2 * _AHEAD, last)])
            ahead = min(m + _AHEAD, last)
            line = codes_M[ahead] + code_bytes * int64_at(places_M[ahead], 0)
            for _ in range(_CODE_LINES):
                prefetch(line)
                line += 64
            start, stop = int64_at(places_M[m], 0), int64_at(places_M[m], 1)
            if code_bytes == 2:
                scores_M[m] += max_rows_16(table, codes_M[m] + 2 * start, stop - start)
            else:
                scores_M[m] += max_rows_32(table, codes_M[m] + 4 * start, stop - start)
    return scores_M
