"""Cutting residuals to a few bits, each token with its own step size.

Shapes: T tokens, K centroids, D dimensions.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from raycol.index.kernels.jit import kernel
from raycol.index.kernels.maxsim import FASTMATH, GAIN_CENTRE, GAINS, GAINS_PER_OCTAVE


@numba.njit(inline="always")
def gain_number(gain):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Number of the nearest gain that there is."""
    if gain <= 0:
        return 0
    number = round(math.log2(gain) * GAINS_PER_OCTAVE) + GAIN_CENTRE
    return min(max(number, 0), 255)


@kernel(fastmath=FASTMATH)
def quantise_tokens(tokens_TD, codes_T, centroids_KD, lows_D, steps_D, spread, bits):  # type: ignore[no-untyped-def]
    """Levels, gains and scales of tokens whose centroids are known.

    A token's direction x is approximated by c + g (low + step * u). The gain g starts from the spread of the
    residual and is then fitted by least squares to the levels that it led to, which are computed once more.

    Args:
        tokens_TD: float32 tokens of any length.
        codes_T: their centroids.
        centroids_KD, lows_D, steps_D: the codebook, float32.
        spread: root mean square of a residual, in steps, that suits a gain of 1.
        bits: bits a dimension.

    Returns:
        levels_TD uint8, gains_T uint8, scales_T float32, cosines_T float32 between tokens and what they decode to.
    """
    n_tokens, dim = tokens_TD.shape
    top = np.float32(2**bits - 1)
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
        length = np.sqrt(square)
        shorten = np.float32(1) / length if length > 0 else np.float32(0)
        spread_square = np.float32(0)
        for d in range(dim):
            direction_D[d] = tokens_TD[t, d] * shorten
            residual_D[d] = direction_D[d] - centroids_KD[code, d]
            in_steps = residual_D[d] / steps_D[d]
            spread_square += in_steps * in_steps
        number = gain_number(np.sqrt(spread_square / dim) / spread)
        for attempt in range(2):
            inverse = np.float32(1) / GAINS[number]
            for d in range(dim):
                level = np.rint((residual_D[d] * inverse - lows_D[d]) / steps_D[d])
                level = min(max(level, np.float32(0)), top)
                levels_TD[t, d] = np.uint8(level)
                coded_D[d] = lows_D[d] + steps_D[d] * level
            if attempt == 0:
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
                    number = gain_number(along_coded / along_centroid)
        gain = GAINS[number]
        product, decoded_square = np.float32(0), np.float32(0)
        for d in range(dim):
            decoded = centroids_KD[code, d] + gain * coded_D[d]
            product += direction_D[d] * decoded
            decoded_square += decoded * decoded
        decoded_length = max(np.sqrt(decoded_square), np.float32(1e-6))
        gains_T[t] = number
        scales_T[t] = length / decoded_length
        cosines_T[t] = product / decoded_length if length > 0 else np.float32(1)
    return levels_TD, gains_T, scales_T, cosines_T
