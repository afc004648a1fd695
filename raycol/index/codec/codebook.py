"""The codec: centroids and a uniform residual quantiser, one for the whole index.

A token x is stored as the number of its nearest centroid c, the residual in `bits` bits a dimension, a byte for
the token's own step size and a float16 for its length. Decoding gives

    x' = scale * (c + gain * (low + step * u)),   u in 0 .. 2^bits - 1 for each dimension.

The gain suits the steps to the token: frequent tokens lie near their centroid and rare ones do not, by factors.
The scale restores the length of x, since cutting the residual to few bits shortens or lengthens tokens. Both are
worth far more recall than their three bytes are in finer residuals (docs/design.md says what else was tried).
PLAID's codec (Santhanam et al. 2022, arXiv 2205.09707) with affine codes in place of bucket tables, so that a score
is a plain dot product over u.

Shapes: T tokens, K centroids, D dimensions, B = D * bits / 8 bytes of residual a token.
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
from raycol.index.search.scratch import ScratchPool

BITS = (1, 2, 4, 8)

# Steps of the uniform quantiser with least squared error on a unit normal variable, by number of levels
# (Max 1960, "Quantizing for minimum distortion", table II; 256 levels from the same recursion).
_NORMAL_STEP = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}

# What the codebook is trained on, at most: half a gigabyte in float16, and no more than k-means would look at.
_MAX_SAMPLE_TOKENS = 2_000_000
_MAX_SAMPLE_VALUES = 2_000_000 * 128
_SAMPLE_TOKENS_PER_CENTROID = 140
# Fewer held-out tokens say nothing of how residuals are spread.
_MIN_HELD_TOKENS = 64
_MAX_HELD_TOKENS = 65536
_BLOCK = 16384


class TokenCodes(NamedTuple):
    """Tokens as stored: codes_T uint16 or uint32, residuals_TB uint8, gains_T uint8, scales_T float16."""

    codes_T: NDArray[Any]
    residuals_TB: NDArray[np.uint8]
    gains_T: NDArray[np.uint8]
    scales_T: NDArray[np.float16]


class CentroidBytes(NamedTuple):
    """Centroids as bytes, for `kernels.centroids`: c_d is about (row_d - 128) * size_d.

    rows_RD uint8, R being K rounded up to a multiple of GROUP; sizes_D float32.
    """

    rows_RD: NDArray[np.uint8]
    sizes_D: NDArray[np.float32]


@dataclass(frozen=True)
class Codebook:
    """Centroids [K, D] of unit length and the residual quantiser's low and step per dimension, float32.

    `error` is the mean of 1 - cosine between a token and what it decodes to, over tokens held out of training.
    """

    centroids_KD: NDArray[np.float32]
    lows_D: NDArray[np.float32]
    steps_D: NDArray[np.float32]
    bits: int
    error: float = 0.0

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return int(self.centroids_KD.shape[1])

    @property
    def n_centroids(self) -> int:
        """Number of centroids, K."""
        return int(self.centroids_KD.shape[0])

    @property
    def code_dtype(self) -> type[np.unsignedinteger[Any]]:
        """The type that codes are stored in."""
        return np.uint16 if self.n_centroids <= 2**16 else np.uint32

    @cached_property
    def nearest(self) -> NearestCentroid:
        """Finds the centroids of tokens."""
        return NearestCentroid(self.centroids_KD)

    @cached_property
    def centroid_bytes(self) -> CentroidBytes:
        """The centroids for the first stage of a search."""
        sizes_D = np.maximum(np.abs(self.centroids_KD).max(axis=0), np.float32(1e-12)) / np.float32(127)
        rows_RD = np.full((math.ceil(self.n_centroids / GROUP) * GROUP, self.dim), 128, dtype=np.uint8)
        for start in range(0, self.n_centroids, _BLOCK):
            levels_KD = np.rint(self.centroids_KD[start : start + _BLOCK] / sizes_D)
            rows_RD[start : start + len(levels_KD)] = (levels_KD + 128).astype(np.uint8)
        return CentroidBytes(rows_RD, sizes_D)

    @cached_property
    def scratch_pool(self) -> ScratchPool:
        """Where searches write the scores of all centroids, and what follows from them."""
        return ScratchPool()

    def quantise(self, tokens_TD: NDArray[np.float32]) -> tuple[TokenCodes, NDArray[np.float32]]:
        """Encode tokens; also the cosine of each with what it decodes to, float32 [T].

        The outcome for a token does not depend on the others beside it.
        """
        return self.quantise_residuals(tokens_TD, self.nearest(tokens_TD))

    def quantise_residuals(
        self, tokens_TD: NDArray[np.float32], codes_T: NDArray[np.uint32]
    ) -> tuple[TokenCodes, NDArray[np.float32]]:
        """Encode tokens whose centroids are known."""
        levels_TD, gains_T, scales_T, cosines_T = quantise_tokens(
            tokens_TD, codes_T, self.centroids_KD, self.lows_D, self.steps_D, self._spread, self.bits
        )
        tokens = TokenCodes(
            codes_T.astype(self.code_dtype), pack(levels_TD, self.bits), gains_T, scales_T.astype(np.float16)
        )
        return tokens, cosines_T

    def decode(self, tokens: TokenCodes) -> NDArray[np.float32]:
        """The embeddings as stored, float32 [T, D]: the slow, obvious reference for the kernels."""
        residuals_TD = self.lows_D + self.steps_D * unpack(tokens.residuals_TB, self.bits)
        directions_TD = self.centroids_KD[tokens.codes_T] + GAINS[tokens.gains_T][:, None] * residuals_TD
        decoded_TD: NDArray[np.float32] = directions_TD * tokens.scales_T.astype(np.float32)[:, None]
        return decoded_TD

    @property
    def _spread(self) -> np.float32:
        """Root mean square, in steps, of the residuals that the steps were made for."""
        return np.float32(1 / _NORMAL_STEP[self.bits])


def pack(levels_TD: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack levels into bytes, planar: byte j holds dimensions j, j + B, j + 2B, ... from the low bits up.

    Planar, so that one plane of consecutive bytes is consecutive dimensions and unpacks with one shift.
    """
    planes = 8 // bits
    width = levels_TD.shape[1] // planes
    packed_TB = np.zeros((len(levels_TD), width), dtype=np.uint8)
    for plane in range(planes):
        packed_TB |= levels_TD[:, plane * width : (plane + 1) * width] << (plane * bits)
    return packed_TB


def unpack(packed_TB: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo `pack`."""
    mask = 2**bits - 1
    return np.concatenate([(packed_TB >> (plane * bits)) & mask for plane in range(8 // bits)], axis=1)


def check_codec(dim: int, bits: int) -> None:
    """Raise `InputError` where there is no codec for these dimensions and bits."""
    if bits not in BITS:
        raise InputError(f"bits is {bits}; expected one of {', '.join(map(str, BITS))}")
    if dim % 8 or dim <= 0:
        raise InputError(f"embeddings of {dim} dimensions; expected a multiple of 8")


def directions_of(tokens_TD: NDArray[np.float32]) -> NDArray[np.float16]:
    """Tokens at unit length: what the codebook is about, and what float16 holds well."""
    lengths_T = np.maximum(np.linalg.norm(tokens_TD, axis=1, keepdims=True), np.float32(1e-12))
    unit_TD: NDArray[np.float16] = (tokens_TD / lengths_T).astype(np.float16)
    return unit_TD


def sample_size(n_documents: int) -> int:
    """How many documents the codebook is trained on, as PLAID does: 16 sqrt(120 N)."""
    return min(n_documents, math.ceil(16 * math.sqrt(120 * n_documents)))


def sample_tokens(n_centroids: int, dim: int) -> int:
    """How many tokens of the sampled documents are enough: about 128 a centroid, within half a gigabyte."""
    return min(n_centroids * _SAMPLE_TOKENS_PER_CENTROID, _MAX_SAMPLE_TOKENS, _MAX_SAMPLE_VALUES // dim)


def default_centroids(n_tokens: int, n_sample_tokens: int | None = None) -> int:
    """Number of centroids: PLAID's 2^floor(log2(16 sqrt(T))), less where the sample could not train them."""
    wanted = 16 * math.sqrt(n_tokens)
    trainable = math.inf if n_sample_tokens is None else n_sample_tokens / 8
    return 1 << math.floor(math.log2(max(1.0, min(wanted, trainable))))


def train_codebook(sample_TD: NDArray[Any], *, bits: int, n_centroids: int, seed: int) -> Codebook:
    """Train centroids and fit the residual quantiser.

    One token in twenty is held out of k-means for fitting the quantiser: residuals of tokens that shaped
    their own centroid are too short. Of a small sample that would be too few, and all fit it.

    Args:
        sample_TD: float16 or float32 [T, D], sampled tokens.
        bits: bits a dimension of the residual, 1, 2, 4 or 8.
        n_centroids: K, at most T.
        seed: seeds k-means and the held-out tokens.
    """
    n_tokens, dim = sample_TD.shape
    check_codec(dim, bits)
    if not 1 <= n_centroids <= n_tokens:
        raise InputError(f"n_centroids is {n_centroids}; expected 1 to {n_tokens}, the tokens in the sample")
    n_held = n_tokens // 20
    if n_held < _MIN_HELD_TOKENS or n_tokens - n_held < n_centroids:
        n_held = 0
    held = np.zeros(n_tokens, dtype=bool)
    held[np.random.default_rng(seed).permutation(n_tokens)[:n_held]] = True
    centroids_KD = train_centroids(sample_TD, np.flatnonzero(~held), n_centroids, seed)
    fit_T = np.flatnonzero(held if n_held else ~held)
    fit_T = fit_T[:: math.ceil(len(fit_T) / _MAX_HELD_TOKENS)]
    tokens_TD = sample_TD[fit_T].astype(np.float32)
    codes_T = NearestCentroid(centroids_KD)(tokens_TD)
    lows_D, steps_D = _fit_quantiser(tokens_TD, centroids_KD[codes_T], bits)
    _, cosines_T = Codebook(centroids_KD, lows_D, steps_D, bits).quantise_residuals(tokens_TD, codes_T)
    return Codebook(centroids_KD, lows_D, steps_D, bits, mean_error(cosines_T))


def _fit_quantiser(
    tokens_TD: NDArray[np.float32], centroids_TD: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lows and steps for residuals of a typical size: each is first brought to that size, as gains will do."""
    lengths_T = np.maximum(np.linalg.norm(tokens_TD, axis=1), 1e-12)
    residuals_TD = tokens_TD / lengths_T[:, None] - centroids_TD
    sizes_T = np.maximum(np.sqrt(np.mean(np.square(residuals_TD), axis=1)), 1e-6)
    residuals_TD *= (sizes_T.mean() / sizes_T)[:, None]
    # A token or two tell nothing of some dimensions, or of any: their steps are such that gains reach all residuals.
    spread_D = residuals_TD.std(axis=0)
    least = max(np.sqrt(np.mean(np.square(spread_D))) / 8, 0.01 / math.sqrt(len(spread_D)))
    steps_D = (np.maximum(spread_D, least) * _NORMAL_STEP[bits]).astype(np.float32)
    lows_D = (residuals_TD.mean(axis=0) - steps_D * (2**bits - 1) / 2).astype(np.float32)
    return lows_D, steps_D


def mean_error(cosines_T: NDArray[np.float32]) -> float:
    """The mean of 1 - cosine, to six digits."""
    return round(max(0.0, float(1 - cosines_T.mean(dtype=np.float64))), 6)
