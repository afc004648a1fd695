"""Exact MaxSim over stored tokens.

Shapes: Q query tokens, D dimensions, K centroids, T tokens, B residual bytes a token, N documents.
A token's score for one query token is  scale * (q . c + gain * (q . low + sum_d (q_d step_d) u_d)):  the first
product comes from a table, the second is a constant, only the sum is computed here (docs/search.md).
"""

from __future__ import annotations

import numba
import numpy as np

FASTMATH = {"reassoc", "contract", "nsz"}

# Kernels take float16 scales as their bits, uint16, which numba can read, and look their values up.
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)

# Gains are bytes: steps of a sixteenth of an octave, 128 for 1.
GAINS_PER_OCTAVE = 16
GAIN_CENTRE = 128
GAINS = np.exp2((np.arange(256) - GAIN_CENTRE) / GAINS_PER_OCTAVE).astype(np.float32)


@numba.njit(inline="always")
def unpack_token(residuals_TB, token, bits, levels_D):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Unpack one token's residual levels into `levels_D`, float32."""
    width = residuals_TB.shape[1]
    mask = (1 << bits) - 1
    for plane in range(8 // bits):
        shift = plane * bits
        for j in range(width):
            levels_D[plane * width + j] = np.float32((residuals_TB[token, j] >> shift) & mask)


@numba.njit(nogil=True, fastmath=FASTMATH, cache=True)
def score_documents(  # type: ignore[no-untyped-def]
    documents_M, centroid_scores_KQ, constants_Q, weights_QD,
    offsets_N, codes_T, residuals_TB, gains_T, scales_T, bits,
):  # fmt: skip
    """MaxSim of each listed document: the sum over query tokens of the best token's score, float32 [M].

    Args:
        documents_M: positions of the documents to score.
        centroid_scores_KQ: float32, q . c for every centroid and query token.
        constants_Q: float32, q . low.
        weights_QD: float32, query times step.
        offsets_N, codes_T, residuals_TB, gains_T, scales_T: the partition; scales as uint16 bits.
        bits: bits a dimension.
    """
    n_query, dim = weights_QD.shape
    scores_M = np.empty(len(documents_M), dtype=np.float32)
    levels_D = np.empty(dim, dtype=np.float32)
    best_Q = np.empty(n_query, dtype=np.float32)
    for m in range(len(documents_M)):
        document = documents_M[m]
        best_Q[:] = -np.inf
        for token in range(offsets_N[document], offsets_N[document + 1]):
            unpack_token(residuals_TB, token, bits, levels_D)
            code = codes_T[token]
            scale = HALVES[scales_T[token]]
            gain = GAINS[gains_T[token]]
            for q in range(n_query):
                product = np.float32(0)
                for d in range(dim):
                    product += weights_QD[q, d] * levels_D[d]
                score = scale * (centroid_scores_KQ[code, q] + gain * (constants_Q[q] + product))
                best_Q[q] = max(best_Q[q], score)
        total = np.float32(0)
        for q in range(n_query):
            total += best_Q[q]
        scores_M[m] = total
    return scores_M
