"""Scores of all centroids for a block of query tokens, in bytes, and each token's nearest centroids.

Shapes: K centroids, R = K rounded up to a multiple of GROUP, D dimensions, L = LANES query tokens, P probes.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.vectors import LANES, ROWS, dot_bytes

# Rows whose best score is remembered, so that most of them need no second look.
GROUP = 64

# A byte is a 255th of this much of the longest query token's length: no centroid lies farther below the best one.
SPAN = 2.0


@kernel()
def query_bytes(query_DL, sizes_D, longest):  # type: ignore[no-untyped-def]
    """Query tokens as bytes, each in its own unit, scaled for centroids whose bytes stand for `sizes_D`.

    Args:
        query_DL: float32, a block of query tokens.
        sizes_D: float32, what 1 is in each dimension of the centroids' bytes.
        longest: length of the query's longest token.

    Returns:
        The arguments of `score_centroids` and `score_bytes`: weights_DL4, offsets_L, shift, units_L.
    """
    dim = len(query_DL)
    weights_DL4 = np.empty((dim // 4, LANES, 4), dtype=np.int8)
    offsets_L = np.empty(LANES, dtype=np.int32)
    units_L = np.empty(LANES, dtype=np.float64)
    largest = np.int64(0)
    for lane in range(LANES):
        unit = 0.0  # float64: a short query has no fewer digits than another
        for d in range(dim):
            unit = max(unit, abs(np.float64(query_DL[d, lane]) * sizes_D[d]))
        unit = unit / 127 if unit > 0 else 1.0
        total, size = np.int64(0), np.int64(0)
        for d in range(dim):
            weight = np.int8(np.rint(np.float64(query_DL[d, lane]) * sizes_D[d] / unit))
            weights_DL4[d >> 2, lane, d & 3] = weight
            total += weight
            size += abs(weight)
        offsets_L[lane] = 128 * total
        units_L[lane] = unit
        largest = max(largest, size)
    shift = 0
    while (128 * largest) >> shift > 32767:
        shift += 1
    units_L *= (255 << shift) / (SPAN * longest if longest > 0 else 1.0)
    return weights_DL4, offsets_L, shift, units_L.astype(np.float32)


@kernel()
def score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL):  # type: ignore[no-untyped-def]
    """Integer dot products, in units that differ from query token to query token.

    Args:
        rows_RD: uint8, centroids plus 128.
        weights_DL4: int8 [D / 4, L, 4], query tokens.
        offsets_L: int32, 128 times the sum of each query token.
        shift: bits to drop, so that products fit 16 bits.
        scores_RL: int16, written.
        tops_GL: int16 [R / GROUP, L], written: the largest of each GROUP rows.
    """
    n_rows, dim = rows_RD.shape
    products = np.empty((ROWS, LANES), dtype=np.int32)
    rows, weights, out = rows_RD.ctypes.data, weights_DL4.ctypes.data, products.ctypes.data
    for group in range(n_rows // GROUP):
        tops_GL[group] = -32768
        for first in range(group * GROUP, (group + 1) * GROUP, ROWS):
            dot_bytes(rows + first * dim, dim, weights, dim, out)
            for row in range(ROWS):
                for lane in range(LANES):
                    score = np.int16((products[row, lane] - offsets_L[lane]) >> shift)
                    scores_RL[first + row, lane] = score
                    tops_GL[group, lane] = max(tops_GL[group, lane], score)


@kernel()
def score_bytes(scores_RL, best_L, units_L, bytes_RL):  # type: ignore[no-untyped-def]
    """Scores as bytes with one unit for all query tokens: 255 for a token's best, 0 far below it.

    Args:
        scores_RL: from `score_centroids`.
        best_L: float32, the best of them for each query token.
        units_L: float32, bytes a unit of the score.
        bytes_RL: uint8, written.
    """
    for row in range(len(scores_RL)):
        for lane in range(LANES):
            bytes_RL[row, lane] = _byte(best_L[lane], scores_RL[row, lane], units_L[lane])


@kernel()
def score_rows(codes_C, rows_RD, weights_DL4, offsets_L, shift, units_L, best_L, bytes_RL):  # type: ignore[no-untyped-def]
    """The bytes of some centroids, as `score_centroids` and `score_bytes` make them.

    Args:
        codes_C: which centroids.
        rows_RD, weights_DL4, offsets_L, shift, units_L: as above.
        best_L: float32, the best score of each query token among all centroids.
        bytes_RL: uint8, the rows of these centroids are written.
    """
    dim = rows_RD.shape[1]
    few = np.empty((ROWS, dim), dtype=np.uint8)
    products = np.empty((ROWS, LANES), dtype=np.int32)
    rows, weights, out = few.ctypes.data, weights_DL4.ctypes.data, products.ctypes.data
    for first in range(0, len(codes_C), ROWS):
        n_rows = min(ROWS, len(codes_C) - first)
        for row in range(n_rows):
            row_D = rows_RD[codes_C[first + row]]
            for d in range(dim):  # a third of the time that an assignment of the whole takes
                few[row, d] = row_D[d]
        dot_bytes(rows, dim, weights, dim, out)
        for row in range(n_rows):
            bytes_L = bytes_RL[codes_C[first + row]]
            for lane in range(LANES):
                score = np.int16((products[row, lane] - offsets_L[lane]) >> shift)
                bytes_L[lane] = _byte(best_L[lane], score, units_L[lane])


@kernel()
def _byte(best, score, unit):  # type: ignore[no-untyped-def]
    below = (best - np.float32(score)) * unit
    return np.uint8(np.float32(255.5) - min(below, np.float32(255)))


@kernel()
def nearest_lists(scores_RL, tops_GL, n_lanes, n_centroids, n_probe):  # type: ignore[no-untyped-def]
    """The `n_probe` best centroids of each query token, best first, equals by number: int32 [n_lanes, P]."""
    probes_LP = np.empty((n_lanes, n_probe), dtype=np.int32)
    # The worst of each token's first: score, then number, the larger the worse.
    heaps_LP = np.empty((n_lanes, n_probe), dtype=np.int64)
    sizes_L = np.zeros(n_lanes, dtype=np.int64)
    worst_L = np.full(n_lanes, -(1 << 15) - 1, dtype=np.int64)
    # Of so many groups each holds a centroid that is no worse than the last of their best ones: only groups with a
    # better one are looked into. The last group may have rows that stand for no centroid.
    if n_centroids // GROUP >= n_probe:
        for group in range(n_centroids // GROUP):
            for lane in range(n_lanes):
                if tops_GL[group, lane] > worst_L[lane]:
                    sizes_L[lane] = _keep_best(heaps_LP[lane], sizes_L[lane], np.int64(tops_GL[group, lane]))
                    if sizes_L[lane] == n_probe:
                        worst_L[lane] = heaps_LP[lane, 0]
        sizes_L[:] = 0
    # Group by group for all tokens, so that rows are read from memory once.
    for group in range(len(tops_GL)):
        for lane in range(n_lanes):
            if tops_GL[group, lane] < worst_L[lane]:
                continue
            for row in range(group * GROUP, min((group + 1) * GROUP, n_centroids)):
                if scores_RL[row, lane] >= worst_L[lane]:
                    key = (np.int64(scores_RL[row, lane]) << 32) + (0x7FFFFFFF - row)
                    sizes_L[lane] = _keep_best(heaps_LP[lane], sizes_L[lane], key)
    for lane in range(n_lanes):
        heaps_LP[lane].sort()
        for p in range(n_probe):
            probes_LP[lane, p] = 0x7FFFFFFF - (heaps_LP[lane, n_probe - 1 - p] & 0xFFFFFFFF)
    return probes_LP


@kernel()
def _keep_best(heap_P, size, key):  # type: ignore[no-untyped-def]
    """Put a key, if it belongs there, into a heap of which `size` are taken, the worst first; how many are then."""
    if size < len(heap_P):
        place = size
        while place > 0 and heap_P[(place - 1) >> 1] > key:
            heap_P[place] = heap_P[(place - 1) >> 1]
            place = (place - 1) >> 1
        heap_P[place] = key
        return size + 1
    if key > heap_P[0]:
        place, child = 0, 1
        while child < size:
            if child + 1 < size and heap_P[child + 1] < heap_P[child]:
                child += 1
            if heap_P[child] >= key:
                break
            heap_P[place] = heap_P[child]
            place, child = child, 2 * child + 1
        heap_P[place] = key
    return size


@kernel()
def above_next(scores_RL, best_L, units_L, probes_LP, count_from_last):  # type: ignore[no-untyped-def]
    """The bytes of each query token's probes, uint8 [lanes, P]; above those of the last probe if wanted."""
    n_lanes, n_probe = probes_LP.shape
    above_LP = np.empty((n_lanes, n_probe), dtype=np.uint8)
    for lane in range(n_lanes):
        last = np.uint8(0)
        for p in range(n_probe - 1, -1, -1):
            byte = _byte(best_L[lane], scores_RL[probes_LP[lane, p], lane], units_L[lane])
            if p == n_probe - 1 and count_from_last:
                last = byte
            above_LP[lane, p] = byte - last
    return above_LP
