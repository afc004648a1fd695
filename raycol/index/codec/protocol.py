"""The protocol of codecs, which own the bytes of stored tokens. `Codebook` is the reference implementation.

Shapes: T tokens, K centroids, D dimensions, M documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from raycol.index.kernels.scratch import Scratch, ScratchPool

# The array of codes: inverted lists need it of every codec.
CODES = "codes"


@dataclass(frozen=True, slots=True)
class TokenCodes:
    """Quantised tokens: arrays of T rows by section name. One has the codes, the others only the codec understands."""

    arrays: Mapping[str, NDArray[Any]]

    @property
    def codes_T(self) -> NDArray[np.unsignedinteger[Any]]:  # noqa: N802
        """Centroid of each token, uint16 or uint32 [T]."""
        return self.arrays[CODES]

    @classmethod
    def concatenate(cls, batches: Iterable[TokenCodes]) -> TokenCodes:
        """Return the tokens of several batches, at least one, as one."""
        each = list(batches)
        return cls({name: np.concatenate([tokens.arrays[name] for tokens in each]) for name in each[0].arrays})

    def take(self, tokens: slice | NDArray[Any]) -> TokenCodes:
        """Return the tokens of a slice, a mask [T] or an array of positions."""
        return TokenCodes({name: array[tokens] for name, array in self.arrays.items()})


# Scores documents by their ascending ordinals over all partitions, int64 [M]: float32 [M].
NearScores = Callable[[NDArray[np.int64]], NDArray[np.float32]]


class CentroidBytes(NamedTuple):
    """Centroids quantised to bytes for `kernels.centroids`: c_d is about (row_d - 128) * scale_d.

    rows_RD uint8, with R = K rounded up to a multiple of GROUP; scales_D float32.
    """

    rows_RD: NDArray[np.uint8]
    scales_D: NDArray[np.float32]


class Codec(Protocol):
    """Quantises tokens, decodes and scores them, and knows the centroids, over which the lists are searched."""

    @property
    def dim(self) -> int:
        """Dimension of the embeddings, D."""

    @property
    def n_centroids(self) -> int:
        """Number of centroids, K."""

    @property
    def token_layout(self) -> Mapping[str, tuple[Any, tuple[int, ...]]]:
        """Dtype and shape of one token in each array of `TokenCodes`, by section name; among them `CODES`."""

    def quantise(self, tokens_TD: NDArray[np.float32], /) -> tuple[TokenCodes, NDArray[np.float32]]:
        """Return quantised tokens, and cosine(token, decoded token), float32 [T]."""

    def decode(self, tokens: TokenCodes, /) -> NDArray[np.float32]:
        """Return decoded tokens, float32 [T, D]."""

    def scores(
        self,
        query_BDL: NDArray[np.float32],
        n_query: int,
        tokens: TokenCodes,
        offsets_N: NDArray[np.int64],
        documents_M: NDArray[np.int64],
        /,
    ) -> NDArray[np.float32]:
        """Return the MaxSim of some documents of a partition over their decoded tokens, float32 [M].

        Args:
            query_BDL: `Query.floats_BDL`.
            n_query: number of query tokens.
            tokens: tokens of the partition.
            offsets_N: first token of each document, and the number of tokens.
            documents_M: positions of the documents in the partition.
        """

    def near_scores(
        self,
        query_BDL: NDArray[np.float32],
        n_query: int,
        starts: NDArray[np.int64],
        addresses: NDArray[np.int64],
        scratch: Scratch,
        /,
    ) -> NearScores | None:
        """Return what scores documents with one query, nearly as `scores` does and faster; None if nothing does.

        A score depends on the query and the document only.

        Args:
            query_BDL, n_query: as for `scores`.
            starts: the first ordinal of each partition, then the number of documents.
            addresses: a row per partition (`kernels.addresses`).
            scratch: lent for as long as the result is used.
        """

    def damage(self, tokens: TokenCodes, /) -> tuple[str, str] | None:
        """Return the section of an array with invalid values, codes aside, and what it holds; None if none is."""

    @property
    def centroid_bytes(self) -> CentroidBytes:
        """Byte centroids for stage 1 of a search."""

    @property
    def scratch_pool(self) -> ScratchPool:
        """Where searches write the scores of all centroids, and what follows from them."""
