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

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.index.codec.centroid_bytes import scales_of, to_bytes
from raycol.index.codec.level_scores import LevelScores
from raycol.index.codec.nearest import NearestCentroid
from raycol.index.codec.protocol import CODES, CentroidBytes, NearScores, TokenCodes
from raycol.index.kernels.centroids import GROUP
from raycol.index.kernels.maxsim import GAINS, SHORT, score_documents
from raycol.index.kernels.quantise import quantise_tokens
from raycol.index.kernels.scratch import Scratch, ScratchPool

BITS = (1, 2, 4, 8)

# Step sizes of the uniform quantiser of least squared error for a standard normal variable, by bits
# (Max 1960, "Quantizing for minimum distortion", table II; 8 bits from the same recursion).
NORMAL_STEP = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}

# Files of the quantised tokens, beside their codes.
RESIDUALS, GAIN_BYTES, SCALES = "residuals", "gains", "scales"


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

    @property
    def token_layout(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """See `Codec`."""
        # In this order, the kernels have their addresses (`kernels.addresses`).
        return {
            CODES: (self.code_dtype, ()),
            RESIDUALS: (np.uint8, (self.dim * self.bits // 8,)),
            GAIN_BYTES: (np.uint8, ()),
            SCALES: (np.float16, ()),
        }

    @cached_property
    def nearest(self) -> NearestCentroid:
        """Nearest-centroid search over the centroids."""
        return NearestCentroid(self.centroids_KD)

    @cached_property
    def centroid_bytes(self) -> CentroidBytes:
        """Byte centroids for stage 1 of a search."""
        scales_D = scales_of(self.centroids_KD)
        return CentroidBytes(to_bytes(self.centroids_KD, scales_D, GROUP), scales_D)

    @cached_property
    def centroid_shorts(self) -> tuple[NDArray[np.int16], np.float32]:
        """Centroids as 16-bit integers, [K, D], and their unit, for stage 4 of a search; none is longer than SHORT."""
        norms_K = np.sqrt(np.einsum("kd,kd->k", self.centroids_KD, self.centroids_KD))
        unit = max(norms_K.max(), np.float32(1e-12)) / np.float32(SHORT)
        return np.rint(self.centroids_KD / unit).clip(-SHORT, SHORT).astype(np.int16), unit

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
        arrays = {
            CODES: codes_T.astype(self.code_dtype),
            RESIDUALS: pack(levels_TD, self.bits),
            GAIN_BYTES: gains_T,
            SCALES: scales_T.astype(np.float16),
        }
        return TokenCodes(arrays), cosines_T

    def scores(
        self,
        query_BDL: NDArray[np.float32],
        n_query: int,
        tokens: TokenCodes,
        offsets_N: NDArray[np.int64],
        documents_M: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the MaxSim of some documents of a partition, float32 [M]; see `kernels.maxsim.score_documents`."""
        arrays = tokens.arrays
        scores_M: NDArray[np.float32] = score_documents(
            documents_M, query_BDL, n_query, self.centroids_KD, self.lows_D, self.steps_D, offsets_N,
            arrays[CODES], arrays[RESIDUALS], arrays[GAIN_BYTES], arrays[SCALES].view(np.uint16), self.bits,
        )  # fmt: skip
        return scores_M

    def near_scores(
        self,
        query_BDL: NDArray[np.float32],
        n_query: int,
        starts: NDArray[np.int64],
        addresses: NDArray[np.int64],
        scratch: Scratch,
    ) -> NearScores | None:
        """See `Codec`."""
        if LevelScores.supports(self, query_BDL):
            return LevelScores(self, query_BDL, n_query, starts, addresses, scratch)
        return None

    def decode(self, tokens: TokenCodes) -> NDArray[np.float32]:
        """Return decoded tokens, float32 [T, D]: the slow, simple reference for the kernels."""
        residuals_TD = self.lows_D + self.steps_D * unpack(tokens.arrays[RESIDUALS], self.bits)
        directions_TD = self.centroids_KD[tokens.codes_T] + GAINS[tokens.arrays[GAIN_BYTES]][:, None] * residuals_TD
        decoded_TD: NDArray[np.float32] = directions_TD * tokens.arrays[SCALES].astype(np.float32)[:, None]
        return decoded_TD

    def damage(self, tokens: TokenCodes) -> tuple[str, str] | None:
        """See `Codec`: any bytes are valid residuals and gains."""
        return None if np.isfinite(tokens.arrays[SCALES]).all() else (SCALES, "holds NaN or infinite values")

    @property
    def _spread(self) -> np.float32:
        """Root mean square, in steps, of the residuals that the quantiser was fitted to."""
        return np.float32(1 / NORMAL_STEP[self.bits])


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


def mean_error(cosines_T: NDArray[np.float32]) -> float:
    """Return the mean of 1 - cosine, rounded to six decimals."""
    return round(max(0.0, float(1 - cosines_T.mean(dtype=np.float64))), 6)
