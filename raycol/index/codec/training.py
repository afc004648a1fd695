"""Training of a codebook: the size of its sample, k-means, and the fit of the residual quantiser.

Shapes: T tokens, K centroids, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.codebook import NORMAL_STEP, Codebook, check_codec, mean_error
from raycol.index.codec.kmeans import train_centroids
from raycol.index.codec.nearest import NearestCentroid

# Limits of the training sample: half a gigabyte in float16, and the number of tokens that k-means uses.
_MAX_SAMPLE_TOKENS = 2_000_000
_MAX_SAMPLE_VALUES = 2_000_000 * 128
_SAMPLE_TOKENS_PER_CENTROID = 140
# Fewer held-out tokens cannot estimate the spread of residuals.
_MIN_HELD_OUT_TOKENS = 64
_MAX_HELD_OUT_TOKENS = 65536


def unit_vectors(tokens_TD: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return normalised tokens, float16 [T, D]: codebook training uses only directions, and float16 suits them."""
    norms_T1 = np.maximum(np.linalg.norm(tokens_TD, axis=1, keepdims=True), np.float32(1e-12))
    unit_TD: NDArray[np.float16] = (tokens_TD / norms_T1).astype(np.float16)
    return unit_TD


def sample_size(n_documents: int) -> int:
    """Return the number of documents to train the codebook on: 16 sqrt(120 N), as in PLAID."""
    return min(n_documents, math.ceil(16 * math.sqrt(120 * n_documents)))


def sample_tokens(n_centroids: int, dim: int) -> int:
    """Return the number of tokens to train the codebook on: about 128 per centroid, at most half a gigabyte."""
    return min(n_centroids * _SAMPLE_TOKENS_PER_CENTROID, _MAX_SAMPLE_TOKENS, _MAX_SAMPLE_VALUES // dim)


def default_centroids(n_tokens: int, n_sample_tokens: int | None = None) -> int:
    """Return the number of centroids: PLAID's 2^floor(log2(16 sqrt(T))), at most one per 8 tokens of the sample."""
    target = 16 * math.sqrt(n_tokens)
    trainable = math.inf if n_sample_tokens is None else n_sample_tokens / 8
    return 1 << math.floor(math.log2(max(1.0, min(target, trainable))))


def train_codebook(sample_TD: NDArray[Any], *, bits: int, n_centroids: int, seed: int) -> Codebook:
    """Train centroids and fit the residual quantiser.

    One token in 20 is held out of k-means to fit the quantiser, because tokens that shaped their own centroid have
    shorter residuals than others. In a small sample these would be too few, so all tokens fit the quantiser.

    Args:
        sample_TD: sampled tokens, float16 or float32 [T, D].
        bits: bits per dimension of the residual: 1, 2, 4 or 8.
        n_centroids: K, at most T.
        seed: seeds k-means and the choice of held-out tokens.

    Raises:
        InputError: unsupported dimensions, bits or number of centroids.
    """
    n_tokens, dim = sample_TD.shape
    check_codec(dim, bits)
    if not 1 <= n_centroids <= n_tokens:
        raise InputError(f"n_centroids is {n_centroids}; expected 1 to {n_tokens}, the tokens in the sample")
    n_held_out = n_tokens // 20
    if n_held_out < _MIN_HELD_OUT_TOKENS or n_tokens - n_held_out < n_centroids:
        n_held_out = 0
    held_out_T = np.zeros(n_tokens, dtype=bool)
    held_out_T[np.random.default_rng(seed).permutation(n_tokens)[:n_held_out]] = True
    centroids_KD = train_centroids(sample_TD, np.flatnonzero(~held_out_T), n_centroids, seed)
    fit_T = np.flatnonzero(held_out_T if n_held_out else ~held_out_T)
    fit_T = fit_T[:: math.ceil(len(fit_T) / _MAX_HELD_OUT_TOKENS)]
    tokens_TD = sample_TD[fit_T].astype(np.float32)
    codes_T = NearestCentroid(centroids_KD)(tokens_TD)
    lows_D, steps_D = _fit_quantiser(tokens_TD, centroids_KD[codes_T], bits)
    _, cosines_T = Codebook(centroids_KD, lows_D, steps_D, bits).quantise_residuals(tokens_TD, codes_T)
    return Codebook(centroids_KD, lows_D, steps_D, bits, mean_error(cosines_T))


def _fit_quantiser(
    tokens_TD: NDArray[np.float32], centroids_TD: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit lows and steps to residuals rescaled to their mean size, as the gains will rescale them; float32 [D]."""
    norms_T = np.maximum(np.linalg.norm(tokens_TD, axis=1), 1e-12)
    residuals_TD = tokens_TD / norms_T[:, None] - centroids_TD
    sizes_T = np.maximum(np.sqrt(np.mean(np.square(residuals_TD), axis=1)), 1e-6)
    residuals_TD *= (sizes_T.mean() / sizes_T)[:, None]
    # With a token or two the spread is zero in some dimensions, or all; the floor lets gains reach any residual.
    spread_D = residuals_TD.std(axis=0)
    floor = max(np.sqrt(np.mean(np.square(spread_D))) / 8, 0.01 / math.sqrt(len(spread_D)))
    steps_D = (np.maximum(spread_D, floor) * NORMAL_STEP[bits]).astype(np.float32)
    lows_D = (residuals_TD.mean(axis=0) - steps_D * (2**bits - 1) / 2).astype(np.float32)
    return lows_D, steps_D
