"""`Encoder`: what a retriever needs of a model. `TextEncoder` is the reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# A token, with the start and end of its characters in the text; both 0 for special tokens and padding.
TokenOffsets = tuple[str, int, int]


@runtime_checkable
class Encoder(Protocol):
    """Encodes texts as one vector per token. Queries and documents have the same dimension."""

    @property
    def dimension(self) -> int:
        """Dimension of a token embedding."""

    @property
    def fingerprint(self) -> str:
        """Identifies the embeddings: an index refuses queries of an encoder with another fingerprint."""

    def encode_query(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """Token embeddings of each query, float32 [n_tokens, dimension]."""

    def encode_document(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """Token embeddings of each document, float32 [n_tokens, dimension]."""


@runtime_checkable
class Tokenizing(Protocol):
    """An encoder that also names the tokens of its embeddings, for explanations."""

    def tokens(self, text: str, is_query: bool, /) -> list[TokenOffsets]:
        """The text's tokens that have embeddings, in order."""
