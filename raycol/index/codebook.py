"""The codec: centroids and a uniform residual quantiser, one for the whole index.

A token x is stored as the number of its nearest centroid c, the residual x - c in `bits` bits a dimension,
and one float16 scale. Decoding gives

    x' = scale * (c + low + step * u),   u in 0 .. 2^bits - 1 for each dimension,

where the scale restores the length of x: cutting the residual to few bits shortens or lengthens tokens, and
undoing that is worth more recall than anything else at the same bytes. PLAID's codec (Santhanam et al. 2022,
arXiv 2205.09707) with affine codes in place of bucket tables, so that a score is a plain dot product over u.

Shapes: T tokens, K centroids, D dimensions, B = D * bits / 8 bytes of residual a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

BITS = (1, 2, 4, 8)

# Steps of the uniform quantiser with least squared error on a unit normal variable, by number of levels
# (Max 1960, "Quantizing for minimum distortion", table II; 256 levels from the same recursion).
_NORMAL_STEP = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}

_KMEANS_ITERATIONS = 6
_POINTS_PER_CENTROID = 128
_SIMILARITY_BLOCK_BYTES = 64 << 20


class TokenCodes(NamedTuple):
    """Tokens as stored: codes_T uint32, residuals_TB uint8, scales_T float16."""

    codes_T: NDArray[np.uint32]
    residuals_TB: NDArray[np.uint8]
    scales_T: NDArray[np.float16]


@dataclass(frozen=True)
class Codebook:
    """Centroids [K, D] of unit length and the residual quantiser's low and step per dimension, float32."""

    centroids_KD: NDArray[np.float32]
    lows_D: NDArray[np.float32]
    steps_D: NDArray[np.float32]
    bits: int

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return int(self.centroids_KD.shape[1])

    @property
    def n_centroids(self) -> int:
        """Number of centroids, K."""
        return int(self.centroids_KD.shape[0])

    def quantise(self, tokens_TD: NDArray[np.float32]) -> TokenCodes:
        """Encode tokens. The outcome for a token does not depend on the others beside it."""
        codes_T = assign(tokens_TD, self.centroids_KD)
        residuals_TD = tokens_TD - self.centroids_KD[codes_T]
        levels_TD = np.rint((residuals_TD - self.lows_D) / self.steps_D)
        levels_TD = np.clip(levels_TD, 0, 2**self.bits - 1).astype(np.uint8)
        decoded_TD = self.centroids_KD[codes_T] + self.lows_D + self.steps_D * levels_TD
        lengths_T = np.linalg.norm(tokens_TD, axis=1)
        decoded_lengths_T = np.maximum(np.linalg.norm(decoded_TD, axis=1), 1e-6)
        largest = np.finfo(np.float16).max
        scales_T = np.minimum(lengths_T / decoded_lengths_T, largest).astype(np.float16)
        return TokenCodes(codes_T, pack(levels_TD, self.bits), scales_T)

    def decode(self, tokens: TokenCodes) -> NDArray[np.float32]:
        """The embeddings as stored, float32 [T, D]: the slow, obvious reference for the kernels."""
        levels_TD = unpack(tokens.residuals_TB, self.bits)
        decoded_TD = self.centroids_KD[tokens.codes_T] + self.lows_D + self.steps_D * levels_TD
        return decoded_TD * tokens.scales_T.astype(np.float32)[:, None]


def assign(tokens_TD: NDArray[np.float32], centroids_KD: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Number of the centroid with the largest dot product, for each token; the first of equals."""
    codes_T = np.empty(len(tokens_TD), dtype=np.uint32)
    block = max(1, _SIMILARITY_BLOCK_BYTES // (4 * len(centroids_KD)))
    for start in range(0, len(tokens_TD), block):
        similarity_TK = tokens_TD[start : start + block] @ centroids_KD.T
        codes_T[start : start + block] = similarity_TK.argmax(axis=1)
    return codes_T


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


def sample_size(n_documents: int) -> int:
    """How many documents the codebook is trained on, as PLAID does: 16 sqrt(120 N)."""
    return min(n_documents, math.ceil(16 * math.sqrt(120 * n_documents)))


def default_centroids(n_tokens: int, n_sample_tokens: int) -> int:
    """Number of centroids: PLAID's 2^floor(log2(16 sqrt(T))), less where the sample could not train them."""
    wanted = 16 * math.sqrt(n_tokens)
    trainable = n_sample_tokens / 8
    return 1 << math.floor(math.log2(max(1.0, min(wanted, trainable))))


def train_codebook(sample_TD: NDArray[np.float32], *, bits: int, n_centroids: int, seed: int) -> Codebook:
    """Train centroids (spherical k-means, faiss) and fit the residual quantiser.

    One token in twenty is held out of k-means for fitting the quantiser: residuals of tokens that shaped
    their own centroid are too short.

    Args:
        sample_TD: float32 [T, D], sampled tokens.
        bits: bits a dimension of the residual, 1, 2, 4 or 8.
        n_centroids: K, at most T.
        seed: seeds k-means and the held-out tokens.
    """
    import faiss

    n_tokens, dim = sample_TD.shape
    check_codec(dim, bits)
    if not 1 <= n_centroids <= n_tokens:
        raise InputError(f"n_centroids is {n_centroids}; expected 1 to {n_tokens}, the tokens in the sample")
    order_T = np.random.default_rng(seed).permutation(n_tokens)
    n_held = n_tokens // 20 if n_tokens - n_tokens // 20 >= n_centroids else 0
    held_T, train_T = (order_T[:n_held], order_T[n_held:]) if n_held else (order_T, order_T)
    kmeans = faiss.Kmeans(
        dim,
        n_centroids,
        niter=_KMEANS_ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CENTROID,
    )
    kmeans.train(sample_TD[train_T])
    centroids_KD = np.ascontiguousarray(kmeans.centroids, dtype=np.float32)
    held_TD = sample_TD[held_T[:65536]]
    residuals_TD = held_TD - centroids_KD[assign(held_TD, centroids_KD)]
    steps_D = np.maximum(residuals_TD.std(axis=0) * _NORMAL_STEP[bits], 1e-6).astype(np.float32)
    lows_D = (residuals_TD.mean(axis=0) - steps_D * (2**bits - 1) / 2).astype(np.float32)
    return Codebook(centroids_KD, lows_D, steps_D, bits)
