"""Byte scores of centroids for a block of query tokens, and the top centroids of each token.

Shapes: K centroids, R = K rounded up to a multiple of GROUP, D dimensions, L = LANES query tokens, P probes.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.vectors import LANES, MAX_PAIR, ROWS, dot_bytes

# Rows per stored maximum: `top_centroids` skips groups whose maximum is too small.
GROUP = 64


@kernel()
def query_bytes(query_DL, scales_D):  # type: ignore[no-untyped-def]
    """Quantise query tokens to signed bytes, each token with its own unit, folding in the centroids' scales.

    The unit is the smallest that `dot_bytes` allows: usually larger by a tenth than what the largest weight needs.

    Args:
        query_DL: float32, a block of query tokens.
        scales_D: float32, scales of the byte centroids.

    Returns:
        The arguments of `score_centroids`: weights_DL4, offsets_L, shift; and steps_L, float64: a unit of each token's
        integer scores.
    """
    dim = len(query_DL)
    weights_DL4 = np.empty((dim // 4, LANES, 4), dtype=np.int8)
    offsets_L = np.empty(LANES, dtype=np.int32)
    steps_L = np.empty(LANES, dtype=np.float64)
    max_l1 = np.int64(0)
    for lane in range(LANES):
        largest = 0.0  # float64: tokens of tiny norm would lose precision in float32
        for d in range(0, dim, 2):
            first = np.float64(query_DL[d, lane]) * scales_D[d]
            second = np.float64(query_DL[d + 1, lane]) * scales_D[d + 1]
            positive, negative = max(first, 0.0) + max(second, 0.0), min(first, 0.0) + min(second, 0.0)
            largest = max(largest, positive, -negative)
        # Rounding adds half a unit to each of two weights.
        unit = largest / (MAX_PAIR - 1) if largest > 0 else 1.0
        total, l1 = np.int64(0), np.int64(0)
        for d in range(dim):
            weight = np.int8(np.rint(np.float64(query_DL[d, lane]) * scales_D[d] / unit))
            weights_DL4[d >> 2, lane, d & 3] = weight
            total += weight
            l1 += abs(weight)
        offsets_L[lane] = 128 * total
        steps_L[lane] = unit
        max_l1 = max(max_l1, l1)
    shift = 0
    while (128 * max_l1) >> shift > 32767:
        shift += 1
    steps_L *= 1 << shift
    return weights_DL4, offsets_L, shift, steps_L


@kernel()
def score_centroids(rows_RD, weights_DL4, offsets_L, shift, scores_RL, tops_GL):  # type: ignore[no-untyped-def]
    """Write the integer dot products of all centroids; their unit differs between query tokens.

    Args:
        rows_RD: uint8, byte centroids with an offset of 128.
        weights_DL4: int8 [D / 4, L, 4], query tokens.
        offsets_L: int32, 128 times the sum of each query token's weights.
        shift: low bits to drop, so that scores fit 16 bits.
        scores_RL: int16, written.
        tops_GL: int16 [R / GROUP, L], written: the maximum of each group of rows.
    """
    n_rows, dim = rows_RD.shape
    products = np.empty((ROWS, LANES), dtype=np.int32)
    rows, weights, out = rows_RD.ctypes.data, weights_DL4.ctypes.data, products.ctypes.data
    offsets = offsets_L.ctypes.data
    for group in range(n_rows // GROUP):
        tops_GL[group] = -32768
        for first in range(group * GROUP, (group + 1) * GROUP, ROWS):
            dot_bytes(rows + first * dim, dim, weights, dim, offsets, out)
            for row in range(ROWS):
                for lane in range(LANES):
                    score = np.int16(products[row, lane] >> shift)
                    scores_RL[first + row, lane] = score
                    tops_GL[group, lane] = max(tops_GL[group, lane], score)


@kernel()
def score_bytes(scores_RL, best_L, units_L, bytes_RL):  # type: ignore[no-untyped-def]
    """Write byte scores, in one unit for all query tokens: 255 for a token's best centroid, linear below, at least 0.

    Args:
        scores_RL: int16, from `score_centroids`.
        best_L: float32, best score of each query token.
        units_L: float32, bytes per unit of the integer score.
        bytes_RL: uint8, written.
    """
    for row in range(len(scores_RL)):
        for lane in range(LANES):
            bytes_RL[row, lane] = _byte(best_L[lane], scores_RL[row, lane], units_L[lane])


@kernel()
def score_rows(codes_C, rows_RD, weights_DL4, offsets_L, shift, units_L, best_L, bytes_RL):  # type: ignore[no-untyped-def]
    """Write the byte scores of some centroids, equal to those of `score_centroids` and `score_bytes`.

    Args:
        codes_C: codes of the centroids.
        rows_RD, weights_DL4, offsets_L, shift: as for `score_centroids`.
        units_L: as for `score_bytes`.
        best_L: float32, best score of each query token among all centroids.
        bytes_RL: uint8, written in the rows of `codes_C` only.
    """
    dim = rows_RD.shape[1]
    gathered = np.empty((ROWS, dim), dtype=np.uint8)
    products = np.empty((ROWS, LANES), dtype=np.int32)
    rows, weights, out = gathered.ctypes.data, weights_DL4.ctypes.data, products.ctypes.data
    offsets = offsets_L.ctypes.data
    for first in range(0, len(codes_C), ROWS):
        n_rows = min(ROWS, len(codes_C) - first)
        for row in range(n_rows):
            row_D = rows_RD[codes_C[first + row]]
            for d in range(dim):  # takes a third of the time of a slice assignment
                gathered[row, d] = row_D[d]
        dot_bytes(rows, dim, weights, dim, offsets, out)
        for row in range(n_rows):
            bytes_L = bytes_RL[codes_C[first + row]]
            for lane in range(LANES):
                score = np.int16(products[row, lane] >> shift)
                bytes_L[lane] = _byte(best_L[lane], score, units_L[lane])


@kernel()
def _byte(best, score, unit):  # type: ignore[no-untyped-def]
    below = (best - np.float32(score)) * unit
    return np.uint8(np.float32(255.5) - min(below, np.float32(255)))


@kernel()
def top_centroids(scores_RL, tops_GL, n_lanes, n_centroids, n_probe):  # type: ignore[no-untyped-def]
    """Return the `n_probe` best centroids of each query token, best first, ties by code: int32 [n_lanes, P].

    Args:
        scores_RL, tops_GL: int16, from `score_centroids`.
        n_lanes: query tokens in this block, without padding.
        n_centroids: K, at least `n_probe`.
        n_probe: centroids per query token.
    """
    probes_LP = np.empty((n_lanes, n_probe), dtype=np.int32)
    # One min-heap per token. A key is the score in the high bits and the complement of the code in the low ones.
    heaps_LP = np.empty((n_lanes, n_probe), dtype=np.int64)
    sizes_L = np.zeros(n_lanes, dtype=np.int64)
    worst_L = np.full(n_lanes, -(1 << 15) - 1, dtype=np.int64)
    # The n_probe-th largest group maximum is a lower bound of the n_probe-th best score: groups below it are skipped.
    # A padded last group is left out.
    if n_centroids // GROUP >= n_probe:
        for group in range(n_centroids // GROUP):
            for lane in range(n_lanes):
                if tops_GL[group, lane] > worst_L[lane]:
                    sizes_L[lane] = _push_bounded(heaps_LP[lane], sizes_L[lane], np.int64(tops_GL[group, lane]))
                    if sizes_L[lane] == n_probe:
                        worst_L[lane] = heaps_LP[lane, 0]
        sizes_L[:] = 0
    # Groups in the outer loop, so that each row is read from memory once.
    for group in range(len(tops_GL)):
        for lane in range(n_lanes):
            if tops_GL[group, lane] < worst_L[lane]:
                continue
            for row in range(group * GROUP, min((group + 1) * GROUP, n_centroids)):
                if scores_RL[row, lane] >= worst_L[lane]:
                    key = (np.int64(scores_RL[row, lane]) << 32) + (0x7FFFFFFF - row)
                    sizes_L[lane] = _push_bounded(heaps_LP[lane], sizes_L[lane], key)
    for lane in range(n_lanes):
        heaps_LP[lane].sort()
        for p in range(n_probe):
            probes_LP[lane, p] = 0x7FFFFFFF - (heaps_LP[lane, n_probe - 1 - p] & 0xFFFFFFFF)
    return probes_LP


@kernel()
def _push_bounded(heap_P, size, key):  # type: ignore[no-untyped-def]
    """Push a key onto a min-heap of `size` keys; a full heap keeps the largest keys. Return the new size."""
    if size < len(heap_P):
        i = size
        while i > 0 and heap_P[(i - 1) >> 1] > key:
            heap_P[i] = heap_P[(i - 1) >> 1]
            i = (i - 1) >> 1
        heap_P[i] = key
        return size + 1
    if key > heap_P[0]:
        i, child = 0, 1
        while child < size:
            if child + 1 < size and heap_P[child + 1] < heap_P[child]:
                child += 1
            if heap_P[child] >= key:
                break
            heap_P[i] = heap_P[child]
            i, child = child, 2 * child + 1
        heap_P[i] = key
    return size


@kernel()
def score_probes(scores_RL, best_L, units_L, probes_LP, subtract_last):  # type: ignore[no-untyped-def]
    """Return the byte scores of each query token's probes, less that of its last one if asked: uint8 [n_lanes, P].

    Args:
        scores_RL, best_L, units_L: as for `score_bytes`.
        probes_LP: from `top_centroids`.
        subtract_last: whether to subtract the byte score of the last probe.
    """
    n_lanes, n_probe = probes_LP.shape
    above_LP = np.empty((n_lanes, n_probe), dtype=np.uint8)
    for lane in range(n_lanes):
        last = np.uint8(0)
        for p in range(n_probe - 1, -1, -1):
            byte = _byte(best_L[lane], scores_RL[probes_LP[lane, p], lane], units_L[lane])
            if p == n_probe - 1 and subtract_last:
                last = byte
            above_LP[lane, p] = byte - last
    return above_LP
