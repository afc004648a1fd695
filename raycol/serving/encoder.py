"""The query encoder as a deployment: text in, token embeddings out."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
from numpy.typing import NDArray

from raycol.index.manifest import ModelInfo


class QueryEncoder:
    """Encodes queries with the model that the index was built with; any other is refused."""

    def __init__(self, name_or_path: str | None, info: dict[str, str] | None) -> None:
        from raycol.models import load_encoder_of

        known = ModelInfo.model_validate(info) if info else None
        self.encoder = load_encoder_of(known, name_or_path, device="cpu")
        self._turn = threading.Lock()

    async def encode(self, queries: list[str]) -> list[NDArray[np.float32]]:
        """Embeddings of each query, float32 [n_tokens, dim], off the event loop."""
        return await asyncio.to_thread(self._encode, queries)

    def _encode(self, queries: list[str]) -> list[NDArray[np.float32]]:
        with self._turn:
            embeddings = self.encoder.encode_query(queries, convert_to_numpy=True, show_progress_bar=False)
        return [np.asarray(query, dtype=np.float32) for query in embeddings]
