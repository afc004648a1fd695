"""`TextEncoder`: a late-interaction checkpoint as an `Encoder`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raycol.models.encoder import encoder_fingerprint
from raycol.models.protocol import TokenOffsets
from raycol.models.tokenization import token_offsets

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class TextEncoder:
    """Wraps a `MultiVectorEncoder`, as `load_encoder` returns it."""

    def __init__(self, model: MultiVectorEncoder) -> None:
        self.model = model

    @property
    def dimension(self) -> int:
        """See `Encoder`."""
        return int(self.model.get_embedding_dimension())

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder`."""
        return encoder_fingerprint(self.model)

    def encode_query(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """See `Encoder`."""
        return self._encode(self.model.encode_query, texts)

    def encode_document(self, texts: Sequence[str], /) -> list[NDArray[np.float32]]:
        """See `Encoder`."""
        return self._encode(self.model.encode_document, texts)

    def tokens(self, text: str, is_query: bool, /) -> list[TokenOffsets]:
        """See `Tokenizing`."""
        return token_offsets(self.model, text, is_query)

    def _encode(self, encode: Any, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        arrays = encode(list(texts), convert_to_numpy=True, show_progress_bar=False) if texts else []
        return [np.asarray(array, dtype=np.float32) for array in arrays]
