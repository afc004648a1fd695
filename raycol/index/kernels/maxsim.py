"""Exact MaxSim over stored tokens: decodes a few tokens at a time and multiplies them with all query tokens.

Shapes: Q query tokens, D dimensions, K centroids, T tokens, B residual bytes per token, N documents of a partition,
M selected documents. In `query_BDL` and `best_BL`, B is blocks of L = LANES query tokens.
"""

from __future__ import annotations

import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.vectors import LANES, TOKENS, decode_row, dot_floats, prefetch

FASTMATH = {"reassoc", "contract", "nsz"}

# numba has no float16: kernels read scales as uint16 bits and look up their values.
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)

# Values of the 256 gains: sixteenths of an octave, 1 at 128.
GAINS_PER_OCTAVE = 16
GAIN_CENTRE = 128
GAINS = np.exp2((np.arange(256) - GAIN_CENTRE) / GAINS_PER_OCTAVE).astype(np.float32)


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
