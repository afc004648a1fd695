"""Candidate generation over inverted lists of tokens.

As in WARP (Scheerer et al. 2025, arXiv 2501.17788): each query token visits its nearest centroids' lists,
scores the tokens there with their residuals, and keeps the best for each document; a document that it
did not meet is given the score of the nearest centroid left unvisited.

Shapes: Q query tokens, P probes, D dimensions, K centroids, T tokens, N documents.
"""

from __future__ import annotations

import numba
import numpy as np

from raycol.index.kernels.maxsim import FASTMATH, GAINS, HALVES, unpack_token


@numba.njit(inline="always")
def document_of(token, offsets_N, low):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Position of the document that holds a token, at or after `low`, by bisection."""
    high = len(offsets_N) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if offsets_N[middle] <= token:
            low = middle
        else:
            high = middle
    return low


@numba.njit(nogil=True, fastmath=FASTMATH, cache=True)
def estimate_documents(  # type: ignore[no-untyped-def]
    probes_QP, floors_Q, centroid_scores_KQ, constants_Q, weights_QD,
    allowed_N, offsets_N, residuals_TB, gains_T, scales_T, list_offsets_K, list_tokens_T, bits,
):  # fmt: skip
    """Estimated MaxSim of every document above the sum of the floors, float32 [N]; 0 where none was met.

    Args:
        probes_QP: centroids that each query token visits.
        floors_Q: score of the nearest centroid that it does not visit.
        centroid_scores_KQ, constants_Q, weights_QD, bits: as in `maxsim.score_documents`.
        allowed_N: whether a document may be found; the tokens of others are passed over.
        offsets_N, residuals_TB, gains_T, scales_T, list_offsets_K, list_tokens_T: the partition; scales as
            uint16 bits.
    """
    n_documents = len(offsets_N) - 1
    n_query, n_probe = probes_QP.shape
    dim = weights_QD.shape[1]
    gains_N = np.zeros(n_documents, dtype=np.float32)
    best_N = np.zeros(n_documents, dtype=np.float32)
    met_N = np.empty(n_documents, dtype=np.int64)
    levels_D = np.empty(dim, dtype=np.float32)
    for q in range(n_query):
        n_met = 0
        for p in range(n_probe):
            centroid = probes_QP[q, p]
            base = centroid_scores_KQ[centroid, q]
            document = 0
            for entry in range(list_offsets_K[centroid], list_offsets_K[centroid + 1]):
                token = np.int64(list_tokens_T[entry])
                document = document_of(token, offsets_N, document)
                if not allowed_N[document]:
                    continue
                unpack_token(residuals_TB, token, bits, levels_D)
                product = np.float32(0)
                for d in range(dim):
                    product += weights_QD[q, d] * levels_D[d]
                score = HALVES[scales_T[token]] * (base + GAINS[gains_T[token]] * (constants_Q[q] + product))
                above = score - floors_Q[q]
                if above > best_N[document]:
                    if best_N[document] == 0:
                        met_N[n_met] = document
                        n_met += 1
                    best_N[document] = above
        for i in range(n_met):
            document = met_N[i]
            gains_N[document] += best_N[document]
            best_N[document] = 0
    return gains_N
