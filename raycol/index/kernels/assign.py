"""Nearest-centroid search for many tokens, in cells of centroids, by products of bytes.

Each token is compared with all cell centres, then with the centroids of its best cells. Cells are visited one after
the other, each with all of its tokens, so that its centroids stay in the cache; LANES tokens are multiplied at a time.
The products are integers, so a token's result depends neither on the other tokens nor on the processor, up to the
last step: the few best candidates are compared by float products.

Shapes: T tokens, D dimensions, K centroids, G cells, P probed cells per token, R rows: centroids as bytes, by cell,
with padding; L = LANES tokens of a tile, W = D / 4 words of four bytes.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.addresses import uint32_at
from raycol.index.kernels.centroids import query_bytes
from raycol.index.kernels.jit import kernel
from raycol.index.kernels.maxsim import FASTMATH
from raycol.index.kernels.vectors import LANES, ROWS, dot_bytes

# Candidates per token and cell, and those of all cells that are compared by float products.
_KEPT_PER_CELL = 2
_COMPARED = 4

# A key is an integer score above the complement of a row's position, so that of equal scores the first row wins.
# Scores below 2^21 fit: times KEY_ROWS they are below 2^31.
KEY_ROWS = 1024
_MAX_SCORE = 1 << 21
_NO_KEY = np.int32(-(1 << 31))


@kernel()
def nearest_in_cells(  # type: ignore[no-untyped-def]
    tokens_TD, centroids_KD, scales_D, cell_rows_GD, n_cells, n_probe, rows_RD, codes_R, starts_S, stops_S, cells_G,
):  # fmt: skip
    """Return the code of the centroid with the largest dot product for each token, nearly always: uint32 [T].

    Args:
        tokens_TD: float32.
        centroids_KD: float32.
        scales_D: float32, the unit of the bytes.
        cell_rows_GD: uint8, cell centres as bytes with an offset of 128; a multiple of ROWS with padding.
        n_cells: cells, without padding; at least `n_probe`, none empty.
        n_probe: cells to search for each token.
        rows_RD: uint8, centroids as bytes with an offset of 128.
        codes_R: int32, their codes.
        starts_S, stops_S: first row of each segment, a multiple of ROWS, and the row after its last. A segment has at
            most KEY_ROWS rows.
        cells_G: int64 [G + 1], first segment of each cell, and the number of segments.
    """
    n_tokens, dim = tokens_TD.shape
    shift = 0
    while 127 * 127 * dim >> shift >= _MAX_SCORE - 1:
        shift += 1
    words_TW = np.empty((n_tokens, dim // 4), dtype=np.int32)
    offsets_T = np.empty(n_tokens, dtype=np.int32)
    probes_TP = np.empty((n_tokens, n_probe), dtype=np.int32)
    _probe_cells(tokens_TD, scales_D, cell_rows_GD, n_cells, words_TW, offsets_T, probes_TP)

    firsts_G, filled_G = np.zeros(n_cells + 1, dtype=np.int64), np.zeros(n_cells, dtype=np.int64)
    for token in range(n_tokens):
        for p in range(n_probe):
            firsts_G[probes_TP[token, p] + 1] += 1
    for cell in range(n_cells):
        firsts_G[cell + 1] += firsts_G[cell]
        filled_G[cell] = firsts_G[cell]
    order = np.empty(n_tokens * n_probe, dtype=np.int64)  # pairs of a token and a probe, by cell
    for pair in range(n_tokens * n_probe):
        cell = probes_TP[pair // n_probe, pair % n_probe]
        order[filled_G[cell]] = pair
        filled_G[cell] += 1

    keys_TX = np.empty((n_tokens, n_probe * _KEPT_PER_CELL), dtype=np.int32)
    keys_TX[:] = _NO_KEY
    rows_TX = np.empty((n_tokens, n_probe * _KEPT_PER_CELL), dtype=np.int32)
    weights_WL = np.empty((dim // 4, LANES), dtype=np.int32)
    offsets_L = np.empty(LANES, dtype=np.int32)
    products = np.empty((ROWS, LANES), dtype=np.int32)
    best_L, second_L = np.empty(LANES, dtype=np.int32), np.empty(LANES, dtype=np.int32)
    rows, weights, offsets, out = (
        rows_RD.ctypes.data,
        weights_WL.ctypes.data,
        offsets_L.ctypes.data,
        products.ctypes.data,
    )
    for cell in range(n_cells):
        for first in range(firsts_G[cell], firsts_G[cell + 1], LANES):
            n_lanes = min(LANES, firsts_G[cell + 1] - first)
            for lane in range(LANES):  # repeats the last token to fill the tile
                token = order[first + min(lane, n_lanes - 1)] // n_probe
                offsets_L[lane] = offsets_T[token]
                for word in range(dim // 4):
                    weights_WL[word, lane] = words_TW[token, word]
            for segment in range(cells_G[cell], cells_G[cell + 1]):
                best_L[:], second_L[:] = _NO_KEY, _NO_KEY
                for row in range(starts_S[segment], stops_S[segment], ROWS):
                    dot_bytes(rows + row * dim, dim, weights, dim, offsets, out)
                    for r in range(min(ROWS, stops_S[segment] - row)):
                        position = np.int32(KEY_ROWS - 1 - (row - starts_S[segment] + r))
                        for lane in range(LANES):
                            key = np.int32((products[r, lane] >> shift) * KEY_ROWS + position)
                            second_L[lane] = max(second_L[lane], min(best_L[lane], key))
                            best_L[lane] = max(best_L[lane], key)
                for lane in range(n_lanes):
                    pair = order[first + lane]
                    token, x = pair // n_probe, _KEPT_PER_CELL * (pair % n_probe)
                    for key in (best_L[lane], second_L[lane]):
                        row = starts_S[segment] + KEY_ROWS - 1 - (key & (KEY_ROWS - 1))
                        _keep_two(keys_TX[token, x : x + 2], rows_TX[token, x : x + 2], key, row)
    return _best_by_floats(tokens_TD, centroids_KD, codes_R, keys_TX, rows_TX)


@kernel()
def _probe_cells(  # type: ignore[no-untyped-def]
    tokens_TD, scales_D, cell_rows_GD, n_cells, words_TW, offsets_T, probes_TP
):
    """Write the bytes of tokens as words of four, their offsets, and the cells to search, best first."""
    n_tokens, dim = tokens_TD.shape
    n_probe = probes_TP.shape[1]
    block_DL = np.empty((dim, LANES), dtype=np.float32)
    products = np.empty((ROWS, LANES), dtype=np.int32)
    scores_GL = np.empty((len(cell_rows_GD), LANES), dtype=np.int32)
    heap_P = np.empty(n_probe, dtype=np.int64)
    cells, out = cell_rows_GD.ctypes.data, products.ctypes.data
    for first in range(0, n_tokens, LANES):
        n_lanes = min(LANES, n_tokens - first)
        for lane in range(LANES):
            for d in range(dim):
                block_DL[d, lane] = tokens_TD[first + lane, d] if lane < n_lanes else np.float32(0)
        weights_DL4, offsets_L, _, _ = query_bytes(block_DL, scales_D)
        words = weights_DL4.ctypes.data
        for lane in range(n_lanes):
            offsets_T[first + lane] = offsets_L[lane]
            for word in range(dim // 4):
                words_TW[first + lane, word] = uint32_at(words, word * LANES + lane)
        for cell in range(0, len(cell_rows_GD), ROWS):
            dot_bytes(cells + cell * dim, dim, weights_DL4.ctypes.data, dim, offsets_L.ctypes.data, out)
            for r in range(ROWS):
                for lane in range(LANES):
                    scores_GL[cell + r, lane] = products[r, lane]
        for lane in range(n_lanes):
            size = 0
            for cell in range(n_cells):
                key = (np.int64(scores_GL[cell, lane]) << 32) - cell
                if size == n_probe and key <= heap_P[size - 1]:
                    continue
                size = min(size + 1, n_probe)
                place = size - 1
                while place > 0 and heap_P[place - 1] < key:
                    heap_P[place] = heap_P[place - 1]
                    place -= 1
                heap_P[place] = key
            for p in range(n_probe):
                probes_TP[first + lane, p] = (-heap_P[p]) & 0xFFFFFFFF


@kernel()
def _keep_two(keys, rows, key, row):  # type: ignore[no-untyped-def]
    """Keep the two best keys; equal scores stay in the order of the rows, which keys of one cell ensure."""
    if key > keys[0]:
        keys[1], rows[1] = keys[0], rows[0]
        keys[0], rows[0] = key, row
    elif key > keys[1]:
        keys[1], rows[1] = key, row


@kernel(fastmath=FASTMATH)
def _best_by_floats(tokens_TD, centroids_KD, codes_R, keys_TX, rows_TX):  # type: ignore[no-untyped-def]
    """Return the code with the largest float product among the best keys of each token; ties by code."""
    n_tokens, dim = tokens_TD.shape
    codes_T = np.empty(n_tokens, dtype=np.uint32)
    for token in range(n_tokens):
        best, best_code = np.float32(-np.inf), np.int64(0)
        for _ in range(_COMPARED):
            x = 0
            for other in range(1, keys_TX.shape[1]):
                if keys_TX[token, other] > keys_TX[token, x]:
                    x = other
            if keys_TX[token, x] == _NO_KEY:
                break
            keys_TX[token, x] = _NO_KEY
            code = np.int64(codes_R[rows_TX[token, x]])
            product = np.float32(0)
            for d in range(dim):
                product += tokens_TD[token, d] * centroids_KD[code, d]
            if product > best or (product == best and code < best_code):
                best, best_code = product, code
        codes_T[token] = best_code
    return codes_T
