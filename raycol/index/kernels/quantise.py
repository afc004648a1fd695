"""Quantisation: the nearest centroid of a token, and its residual with one step size (gain) per token.

Shapes: T tokens, K centroids, D dimensions.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.maxsim import FASTMATH, GAIN_CENTRE, GAINS, GAINS_PER_OCTAVE


@kernel(fastmath=FASTMATH)
def nearest_centroids(tokens_TD, centroids_KD):  # type: ignore[no-untyped-def]
    """Return the code of the centroid with the largest dot product for each token, uint32 [T]; ties by code.

    Compares all centroids token by token, so that the result does not depend on the batch.
    """
    n_tokens, dim = tokens_TD.shape
    codes_T = np.empty(n_tokens, dtype=np.uint32)
    for t in range(n_tokens):
        best = np.float32(-np.inf)
        codes_T[t] = 0
        for k in range(len(centroids_KD)):
            product = np.float32(0)
            for d in range(dim):
                product += tokens_TD[t, d] * centroids_KD[k, d]
            if product > best:
                best = product
                codes_T[t] = k
    return codes_T


@numba.njit(inline="always")
def quantise_gain(gain):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the index into GAINS of the nearest gain."""
    if gain <= 0:
        return 0
    g = round(math.log2(gain) * GAINS_PER_OCTAVE) + GAIN_CENTRE
    return min(max(g, 0), 255)


@kernel(fastmath=FASTMATH)
def quantise_tokens(tokens_TD, codes_T, centroids_KD, lows_D, steps_D, spread, bits):  # type: ignore[no-untyped-def]
    """Quantise tokens whose centroids are known.

    Approximates the direction x of a token by c + gain * (low + step * u). The first gain follows from the size of
    the residual; a least-squares fit to the levels u that it gives yields the second and final one.

    Args:
        tokens_TD: float32 tokens of any norm.
        codes_T: codes of their centroids.
        centroids_KD, lows_D, steps_D: the codebook, float32.
        spread: root mean square, in steps, of residuals whose gain is 1.
        bits: bits per dimension.

    Returns:
        levels_TD uint8, gains_T uint8, scales_T float32, cosines_T float32 between tokens and decoded tokens.
    """
    n_tokens, dim = tokens_TD.shape
    max_level = np.float32(2**bits - 1)
    levels_TD = np.empty((n_tokens, dim), dtype=np.uint8)
    gains_T = np.empty(n_tokens, dtype=np.uint8)
    scales_T = np.empty(n_tokens, dtype=np.float32)
    cosines_T = np.empty(n_tokens, dtype=np.float32)
    direction_D = np.empty(dim, dtype=np.float32)
    residual_D = np.empty(dim, dtype=np.float32)
    coded_D = np.empty(dim, dtype=np.float32)
    for t in range(n_tokens):
        code = codes_T[t]
        square = np.float32(0)
        for d in range(dim):
            square += tokens_TD[t, d] * tokens_TD[t, d]
        norm = np.sqrt(square)
        inverse_norm = np.float32(1) / norm if norm > 0 else np.float32(0)
        spread_square = np.float32(0)
        for d in range(dim):
            direction_D[d] = tokens_TD[t, d] * inverse_norm
            residual_D[d] = direction_D[d] - centroids_KD[code, d]
            in_steps = residual_D[d] / steps_D[d]
            spread_square += in_steps * in_steps
        g = quantise_gain(np.sqrt(spread_square / dim) / spread)
        for attempt in range(2):
            inverse_gain = np.float32(1) / GAINS[g]
            for d in range(dim):
                level = np.rint((residual_D[d] * inverse_gain - lows_D[d]) / steps_D[d])
                level = min(max(level, np.float32(0)), max_level)
                levels_TD[t, d] = np.uint8(level)
                coded_D[d] = lows_D[d] + steps_D[d] * level
            if attempt == 0:
                # Least squares for x = a c + b e, with e the coded residual; the gain is b / a.
                cc, ce, ee, xc, xe = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for d in range(dim):
                    centroid = centroids_KD[code, d]
                    cc += centroid * centroid
                    ce += centroid * coded_D[d]
                    ee += coded_D[d] * coded_D[d]
                    xc += direction_D[d] * centroid
                    xe += direction_D[d] * coded_D[d]
                along_centroid = xc * ee - xe * ce
                along_coded = xe * cc - xc * ce
                if along_centroid > 0 and along_coded > 0:
                    g = quantise_gain(along_coded / along_centroid)
        gain = GAINS[g]
        product, decoded_square = np.float32(0), np.float32(0)
        for d in range(dim):
            decoded = centroids_KD[code, d] + gain * coded_D[d]
            product += direction_D[d] * decoded
            decoded_square += decoded * decoded
        decoded_norm = max(np.sqrt(decoded_square), np.float32(1e-6))
        gains_T[t] = g
        scales_T[t] = norm / decoded_norm
        cosines_T[t] = product / decoded_norm if norm > 0 else np.float32(1)
    return levels_TD, gains_T, scales_T, cosines_T
