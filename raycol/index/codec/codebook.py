"""`Codebook`: centroids and a uniform residual quantiser, one per index.

A token x is stored as the code of its nearest centroid c, a residual of `bits` bits per dimension, one byte for the
token's step size (gain) and a float16 for its norm (scale). It decodes to

    x' = scale * (c + gain * (low + step * u)),   u in 0 .. 2^bits - 1 for each dimension.

The gain adapts the step size to the token: residual norms differ by factors, small for frequent tokens and large for
rare ones. The scale restores the norm of x, which quantisation changes. These three bytes gain far more recall than
three more bytes of residual (docs/design.md lists the alternatives tried). This is PLAID's codec (Santhanam et al.
2022, arXiv 2205.09707) with affine levels in place of bucket tables, so that a score is a plain dot product over u.

Shapes: T tokens, K centroids, D dimensions, B = D * bits / 8 residual bytes per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.kmeans import train_centroids
from raycol.index.codec.nearest import NearestCentroid
from raycol.index.kernels.centroids import GROUP
from raycol.index.kernels.maxsim import GAINS
from raycol.index.kernels.quantise import quantise_tokens
from raycol.index.kernels.scratch import ScratchPool

BITS = (1, 2, 4, 8)

# Step sizes of the uniform quantiser of least squared error for a standard normal variable, by bits
# (Max 1960, "Quantizing for minimum distortion", table II; 8 bits from the same recursion).
_NORMAL_STEP = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}

# Limits of the training sample: half a gigabyte in float16, and the number of tokens that k-means uses.
_MAX_SAMPLE_TOKENS = 2_000_000
_MAX_SAMPLE_VALUES = 2_000_000 * 128
_SAMPLE_TOKENS_PER_CENTROID = 140
# Fewer held-out tokens cannot estimate the spread of residuals.
_MIN_HELD_OUT_TOKENS = 64
_MAX_HELD_OUT_TOKENS = 65536
_BLOCK = 16384


class TokenCodes(NamedTuple):
    """Quantised tokens: codes_T uint16 or uint32, residuals_TB uint8, gains_T uint8, scales_T float16."""

    codes_T: NDArray[Any]
    residuals_TB: NDArray[np.uint8]
    gains_T: NDArray[np.uint8]
    scales_T: NDArray[np.float16]


class CentroidBytes(NamedTuple):
    """Centroids quantised to bytes for `kernels.centroids`: c_d is about (row_d - 128) * scale_d.

    rows_RD uint8, with R = K rounded up to a multiple of GROUP; scales_D float32.
    """

    rows_RD: NDArray[np.uint8]
    scales_D: NDArray[np.float32]


@dataclass(frozen=True)
class Codebook:
    """Unit-norm centroids [K, D], and the residual quantiser's low and step per dimension; all float32.

    `error` is the mean of 1 - cosine(token, decoded token) over tokens held out of training.
    """

    centroids_KD: NDArray[np.float32]
    lows_D: NDArray[np.float32]
    steps_D: NDArray[np.float32]
    bits: int
    error: float = 0.0

    @property
    def dim(self) -> int:
        """Dimension of the embeddings, D."""
        return int(self.centroids_KD.shape[1])

    @property
    def n_centroids(self) -> int:
        """Number of centroids, K."""
        return int(self.centroids_KD.shape[0])

    @property
    def code_dtype(self) -> type[np.unsignedinteger[Any]]:
        """Dtype of stored codes."""
        return np.uint16 if self.n_centroids <= 2**16 else np.uint32

    @cached_property
    def nearest(self) -> NearestCentroid:
        """Nearest-centroid search over the centroids."""
        return NearestCentroid(self.centroids_KD)

    @cached_property
    def centroid_bytes(self) -> CentroidBytes:
        """Byte centroids for stage 1 of a search."""
        scales_D = np.maximum(np.abs(self.centroids_KD).max(axis=0), np.float32(1e-12)) / np.float32(127)
        rows_RD = np.full((math.ceil(self.n_centroids / GROUP) * GROUP, self.dim), 128, dtype=np.uint8)
        for start in range(0, self.n_centroids, _BLOCK):
            levels_KD = np.rint(self.centroids_KD[start : start + _BLOCK] / scales_D)
            rows_RD[start : start + len(levels_KD)] = (levels_KD + 128).astype(np.uint8)
        return CentroidBytes(rows_RD, scales_D)

    @cached_property
    def scratch_pool(self) -> ScratchPool:
        """Where searches write the scores of all centroids, and what follows from them."""
        return ScratchPool()

    def quantise(self, tokens_TD: NDArray[np.float32]) -> tuple[TokenCodes, NDArray[np.float32]]:
        """Quantise tokens; return their codes, and cosine(token, decoded token), float32 [T].

        The result of a token does not depend on the rest of the batch.
        """
        return self.quantise_residuals(tokens_TD, self.nearest(tokens_TD))

    def quantise_residuals(
        self, tokens_TD: NDArray[np.float32], codes_T: NDArray[np.uint32]
    ) -> tuple[TokenCodes, NDArray[np.float32]]:
        """Quantise tokens whose nearest centroids, `codes_T`, are known; return the same as `quantise`."""
        levels_TD, gains_T, scales_T, cosines_T = quantise_tokens(
            tokens_TD, codes_T, self.centroids_KD, self.lows_D, self.steps_D, self._spread, self.bits
        )
        tokens = TokenCodes(
            codes_T.astype(self.code_dtype), pack(levels_TD, self.bits), gains_T, scales_T.astype(np.float16)
        )
        return tokens, cosines_T

    def decode(self, tokens: TokenCodes) -> NDArray[np.float32]:
        """Return decoded tokens, float32 [T, D]: the slow, simple reference for the kernels."""
        residuals_TD = self.lows_D + self.steps_D * unpack(tokens.residuals_TB, self.bits)
        directions_TD = self.centroids_KD[tokens.codes_T] + GAINS[tokens.gains_T][:, None] * residuals_TD
        decoded_TD: NDArray[np.float32] = directions_TD * tokens.scales_T.astype(np.float32)[:, None]
        return decoded_TD

    @property
    def _spread(self) -> np.float32:
        """Root mean square, in steps, of the residuals that the quantiser was fitted to."""
        return np.float32(1 / _NORMAL_STEP[self.bits])


def pack(levels_TD: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack levels [T, D] into bytes [T, B]: byte j holds dimensions j, j + B, j + 2B, ... from the low bits up.

    In this planar layout, one shift unpacks consecutive bytes to consecutive dimensions.
    """
    planes = 8 // bits
    width = levels_TD.shape[1] // planes
    packed_TB = np.zeros((len(levels_TD), width), dtype=np.uint8)
    for plane in range(planes):
        packed_TB |= levels_TD[:, plane * width : (plane + 1) * width] << (plane * bits)
    return packed_TB


def unpack(packed_TB: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return the levels [T, D] that `pack` packed."""
    mask = 2**bits - 1
    return np.concatenate([(packed_TB >> (plane * bits)) & mask for plane in range(8 // bits)], axis=1)


def check_codec(dim: int, bits: int) -> None:
    """Raise `InputError` unless the codec supports these dimensions and bits."""
    if bits not in BITS:
        raise InputError(f"bits is {bits}; expected one of {', '.join(map(str, BITS))}")
    if dim % 8 or dim <= 0:
        raise InputError(f"embeddings of {dim} dimensions; expected a multiple of 8")


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
    steps_D = (np.maximum(spread_D, floor) * _NORMAL_STEP[bits]).astype(np.float32)
    lows_D = (residuals_TD.mean(axis=0) - steps_D * (2**bits - 1) / 2).astype(np.float32)
    return lows_D, steps_D


def mean_error(cosines_T: NDArray[np.float32]) -> float:
    """Return the mean of 1 - cosine, rounded to six decimals."""
    return round(max(0.0, float(1 - cosines_T.mean(dtype=np.float64))), 6)
