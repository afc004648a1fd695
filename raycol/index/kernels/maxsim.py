"""MaxSim over stored tokens: exactly, from decoded tokens, or nearly, from the levels of their residuals.

The exact kernel decodes a few tokens at a time and multiplies them with all query tokens in floats. The other one uses
that a token's score is a sum of its centroid's, computed once for all tokens of a centroid, and of a product of small
integers.

Shapes: Q query tokens, D dimensions, K centroids, T tokens, B residual bytes per token, N documents of a partition,
M selected documents. In `query_BDL` and `best_BL`, B is blocks of L = LANES query tokens.
"""

from __future__ import annotations

import math

import numpy as np

from raycol.index.kernels.addresses import CODEC_AT, CODES_AT, OFFSETS_AT, int64_at, uint8_at, uint16_at, unsigned_at
from raycol.index.kernels.jit import kernel
from raycol.index.kernels.vectors import LANES, TOKENS, decode_row, dot_floats, dot_shorts, prefetch, score_levels

FASTMATH = {"reassoc", "contract", "nsz"}

# numba has no float16: kernels read scales as uint16 bits and look up their values.
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)

# Values of the 256 gains: sixteenths of an octave, 1 at 128.
GAINS_PER_OCTAVE = 16
GAIN_CENTRE = 128
GAINS = np.exp2((np.arange(256) - GAIN_CENTRE) / GAINS_PER_OCTAVE).astype(np.float32)


# Columns of addresses, in the order of `Codebook.token_layout`.
RESIDUALS_AT, GAIN_BYTES_AT, SCALES_AT = range(CODEC_AT, CODEC_AT + 3)

# Length of the longest 16-bit centroid, and of 16-bit query tokens; centroids to prefetch ahead.
SHORT = 32767
_AHEAD = 8


@kernel()
def decode_token(  # type: ignore[no-untyped-def]
    token, centroids_KD, lows_D, steps_D, codes_T, residuals_TB, gains_T, scales_T, bits, decoded_D
):
    """Decode one token into `decoded_D`, float32 [D]."""
    dim, width = centroids_KD.shape[1], residuals_TB.shape[1]
    code = np.int64(codes_T[token])
    scale = HALVES[scales_T[token]]
    gain = scale * GAINS[gains_T[token]]
    if width % 16 == 0:
        decode_row(
            residuals_TB.ctypes.data + token * width, width, bits, centroids_KD.ctypes.data + 4 * dim * code,
            lows_D.ctypes.data, steps_D.ctypes.data, scale, gain, decoded_D.ctypes.data,
        )  # fmt: skip
        return
    mask = (1 << bits) - 1
    for plane in range(8 // bits):
        for j in range(width):
            d = plane * width + j
            level = np.float32((residuals_TB[token, j] >> (plane * bits)) & mask)
            decoded_D[d] = scale * centroids_KD[code, d] + gain * (lows_D[d] + steps_D[d] * level)


@kernel()
def score_documents(  # type: ignore[no-untyped-def]
    documents_M, query_BDL, n_query, centroids_KD, lows_D, steps_D,
    offsets_N, codes_T, residuals_TB, gains_T, scales_T, bits,
):  # fmt: skip
    """Return the MaxSim of documents, the sum over query tokens of the best document token's score: float32 [M].

    Args:
        documents_M: positions of documents in the partition.
        query_BDL: float32 [blocks, D, LANES], blocks of query tokens, padded with zeros.
        n_query: Q.
        centroids_KD, lows_D, steps_D, bits: the codebook.
        offsets_N, codes_T, residuals_TB, gains_T, scales_T: arrays of the partition; scales as uint16 bits.
    """
    n_blocks, dim, _ = query_BDL.shape
    scores_M = np.empty(len(documents_M), dtype=np.float32)
    tokens = np.empty((TOKENS, dim), dtype=np.float32)
    products = np.empty((TOKENS, LANES), dtype=np.float32)
    best_BL = np.empty((n_blocks, LANES), dtype=np.float32)
    centroids = centroids_KD.ctypes.data
    for m in range(len(documents_M)):
        start, stop = offsets_N[documents_M[m]], offsets_N[documents_M[m] + 1]
        best_BL[:] = -np.inf
        for first in range(start, stop, TOKENS):
            for t in range(min(first + TOKENS, stop), min(first + 2 * TOKENS, stop)):
                for line in range(0, 4 * dim, 64):
                    prefetch(centroids + 4 * dim * np.int64(codes_T[t]) + line)
            for t in range(TOKENS):  # repeats the last token to fill the tile
                decode_token(
                    min(first + t, stop - 1), centroids_KD, lows_D, steps_D,
                    codes_T, residuals_TB, gains_T, scales_T, bits, tokens[t],
                )  # fmt: skip
            for block in range(n_blocks):
                dot_floats(tokens.ctypes.data, query_BDL[block].ctypes.data, dim, products.ctypes.data)
                for t in range(TOKENS):
                    for lane in range(LANES):
                        best_BL[block, lane] = max(best_BL[block, lane], products[t, lane])
        total = np.float32(0)
        for q in range(n_query):
            total += best_BL[q // LANES, q % LANES]
        scores_M[m] = total
    return scores_M


@kernel()
def level_weights(query_BDL, lows_D, steps_D, centroid_unit):  # type: ignore[no-untyped-def]
    """Quantise query tokens to signed bytes, each token with its own step, folding in the levels' steps.

    Args:
        query_BDL: float32, blocks of query tokens.
        lows_D, steps_D: the quantiser, float32.
        centroid_unit: unit of 16-bit centroids, of which none is longer than SHORT.

    Returns:
        weights_BDL: int8 [blocks, D / 4, LANES, 4].
        lines_B2L: float32: the score of the lows and the step of the weights, by query token.
        shorts_BDL: int16 [blocks, D / 2, LANES, 2], the tokens themselves as 16-bit integers.
        units_BL: float32, the unit of their products with 16-bit centroids.
    """
    n_blocks, dim, _ = query_BDL.shape
    weights_BDL = np.empty((n_blocks, dim // 4, LANES, 4), dtype=np.int8)
    lines_B2L = np.zeros((n_blocks, 2, LANES), dtype=np.float32)
    shorts_BDL = np.empty((n_blocks, dim // 2, LANES, 2), dtype=np.int16)
    units_BL = np.empty((n_blocks, LANES), dtype=np.float32)
    for block in range(n_blocks):
        for lane in range(LANES):
            step = 0.0  # float64: tokens of tiny norm would lose precision in float32
            for d in range(dim):
                lines_B2L[block, 0, lane] += query_BDL[block, d, lane] * lows_D[d]
                step = max(step, abs(np.float64(query_BDL[block, d, lane]) * steps_D[d]))
            step = step / 127 if step > 0 else 1.0
            lines_B2L[block, 1, lane] = step
            for d in range(dim):
                level = np.rint(np.float64(query_BDL[block, d, lane]) * steps_D[d] / step)
                weights_BDL[block, d >> 2, lane, d & 3] = np.int8(level)
            square = 0.0
            for d in range(dim):
                square += np.float64(query_BDL[block, d, lane]) ** 2
            # By Cauchy and Schwarz a product with a centroid is at most 2^30.
            unit = math.sqrt(square) / SHORT if square > 0 else 1.0
            for d in range(dim):
                shorts_BDL[block, d >> 1, lane, d & 1] = np.int16(np.rint(query_BDL[block, d, lane] / unit))
            units_BL[block, lane] = unit * centroid_unit
    return weights_BDL, lines_B2L, shorts_BDL, units_BL


@kernel()
def rescore_documents(  # type: ignore[no-untyped-def]
    ordinals_M, n_query, weights_BDL, lines_B2L, shorts_BDL, units_BL, centroids_KD, slots_K, products_KBL, codes_K,
    n_used, starts, addresses, code_bytes, bits,
):  # fmt: skip
    """Return the MaxSim of documents with query tokens rounded to bytes where they meet residuals: float32 [M].

    Args:
        ordinals_M: ascending ordinals over all partitions.
        n_query: Q.
        weights_BDL, lines_B2L, shorts_BDL, units_BL: from `level_weights`.
        centroids_KD: int16, from `Codebook.centroid_shorts`.
        slots_K: int32, the row of each centroid in `products_KBL`, or -1; updated.
        products_KBL, codes_K: float32, scores of centroids with the query tokens, and int32, their codes; written from
            row `n_used` on.
        n_used: rows that are in use.
        starts, addresses, code_bytes: as for `candidates.score_by_centroids`; of the codec: residuals, gains, scales.
        bits: bits of a level.

    Returns:
        The scores, and the rows of `products_KBL` that are in use now.
    """
    n_blocks, dim = len(weights_BDL), centroids_KD.shape[1]
    width, n_documents = dim * bits // 8, len(ordinals_M)
    scores_M = np.empty(n_documents, dtype=np.float32)
    partitions_M = np.empty(n_documents, dtype=np.int64)
    first_M, stop_M = np.empty(n_documents, dtype=np.int64), np.empty(n_documents, dtype=np.int64)
    first_slot, partition = n_used, 0
    for m in range(n_documents):
        while ordinals_M[m] >= starts[partition + 1]:
            partition += 1
        offsets, codes = addresses[partition, OFFSETS_AT], addresses[partition, CODES_AT]
        document = ordinals_M[m] - starts[partition]
        first, stop = int64_at(offsets, document), int64_at(offsets, document + 1)
        partitions_M[m], first_M[m], stop_M[m] = partition, first, stop
        # Finding the pages takes as long as reading them.
        prefetch(addresses[partition, RESIDUALS_AT] + first * width)
        prefetch(addresses[partition, RESIDUALS_AT] + (stop - 1) * width)
        prefetch(addresses[partition, GAIN_BYTES_AT] + first)
        prefetch(addresses[partition, SCALES_AT] + 2 * first)
        for token in range(first, stop):
            code = unsigned_at(codes, token, code_bytes)
            if slots_K[code] < 0:
                slots_K[code] = n_used
                codes_K[n_used] = code
                n_used += 1
    centroids, products = centroids_KD.ctypes.data, products_KBL.ctypes.data
    for slot in range(first_slot, n_used):
        ahead = centroids + 2 * dim * np.int64(codes_K[min(slot + _AHEAD, n_used - 1)])
        for line in range(0, 2 * dim, 64):
            prefetch(ahead + line)
        row = centroids + 2 * dim * np.int64(codes_K[slot])
        for block in range(n_blocks):
            dot_shorts(
                row, shorts_BDL[block].ctypes.data, dim, units_BL[block].ctypes.data,
                products + 4 * LANES * (n_blocks * slot + block),
            )  # fmt: skip
    best_BL = np.empty((n_blocks, LANES), dtype=np.float32)
    for m in range(n_documents):
        address, following = addresses[partitions_M[m]], min(m + 1, n_documents - 1)
        codes, residuals = address[CODES_AT], address[RESIDUALS_AT]
        # The processor prefetches within a document by itself, and begins anew at each.
        ahead = addresses[partitions_M[following]]
        best_BL[:] = -np.inf
        for token in range(first_M[m], stop_M[m]):
            token_ahead = first_M[following] + token - first_M[m]
            prefetch(ahead[RESIDUALS_AT] + token_ahead * width)
            if (token - first_M[m]) % 32 == 0:
                prefetch(ahead[GAIN_BYTES_AT] + token_ahead)
                prefetch(ahead[SCALES_AT] + 2 * token_ahead)
            code_ahead = unsigned_at(codes, min(token + _AHEAD, stop_M[m] - 1), code_bytes)
            centroid_ahead = products + 4 * LANES * n_blocks * np.int64(slots_K[code_ahead])
            prefetch(centroid_ahead)
            prefetch(centroid_ahead + 64)
            centroid = products + 4 * LANES * n_blocks * np.int64(slots_K[unsigned_at(codes, token, code_bytes)])
            scale = HALVES[uint16_at(address[SCALES_AT], token)]
            gain = scale * GAINS[uint8_at(address[GAIN_BYTES_AT], token)]
            for block in range(n_blocks):
                score_levels(
                    residuals + token * width, width, bits, weights_BDL[block].ctypes.data,
                    lines_B2L[block].ctypes.data, scale, gain, centroid + 4 * LANES * block,
                    best_BL[block].ctypes.data,
                )  # fmt: skip
        total = np.float32(0)
        for q in range(n_query):
            total += best_BL[q // LANES, q % LANES]
        scores_M[m] = total
    return scores_M, n_used
