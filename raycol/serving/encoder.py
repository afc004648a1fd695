"""The query encoder deployment: texts to token embeddings, batched and cached."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raycol.distributed.listening import keep_replica_on_loopback
from raycol.index.format.manifest import ModelInfo
from raycol.models.protocol import TokenOffsets
from raycol.models.tokenization import token_offsets
from raycol.serving.batcher import Batcher

# Maximum tokens per batch.
_BATCH_TOKENS = 4096
# Queries in the embedding cache, about 16 KB each with their texts.
_CACHED_QUERIES = 4096
_CHARACTERS_PER_TOKEN = 4
# Truncate texts before tokenizing: the model reads no more, and tokenizing 100,000 words is slow.
_MAX_CHARACTERS_PER_TOKEN = 16


class _Text(NamedTuple):
    text: str
    is_query: bool


class QueryEncoder:
    """Encodes texts with the model that the index was built with.

    Args:
        name_or_path: name or path of the model; None takes the index's.
        info: the index's `ModelInfo`, which the model must match.
        threads: torch threads; None for torch's default.
    """

    def __init__(self, name_or_path: str | None, info: dict[str, str] | None, threads: int | None = None) -> None:
        import torch

        from raycol.models.encoder import load_index_encoder

        keep_replica_on_loopback()
        if threads:
            torch.set_num_threads(threads)
        expected = ModelInfo.model_validate(info) if info else None
        self._encoder = load_index_encoder(expected, name_or_path, device=None)
        # Truncation and padding are mutable state of a tokenizer, so its users take turns. `tokens` uses a tokenizer
        # of its own: searches do not wait for explanations.
        self._tokenizer_lock = threading.Lock()
        self._explainer_lock = threading.Lock()
        self._explainer = _copy_sharing_weights(self._encoder)
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._max_tokens = {True: self._length("query"), False: self._length("document")}
        self._batcher = Batcher(self._encode, lambda text: len(text.text) // _CHARACTERS_PER_TOKEN + 2, _BATCH_TOKENS)
        self._encode([_Text("warm", True), _Text("warm", False)])

    async def embed(self, texts: list[str], is_query: bool) -> tuple[list[NDArray[np.float32]], int]:
        """Token embeddings of each text, float32 [n_tokens, dim], and the number of cache hits."""
        texts = [self._truncate(text, is_query) for text in texts]
        embeddings = {text: self._cache[text] for text in set(texts) if is_query and text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in embeddings]
        if missing:
            encoded = await asyncio.gather(*(self._batcher(_Text(text, is_query)) for text in missing))
            embeddings.update(zip(missing, encoded, strict=True))
        if is_query:
            for text in texts:
                self._cache[text] = embeddings[text]
                self._cache.move_to_end(text)
            while len(self._cache) > _CACHED_QUERIES:
                self._cache.popitem(last=False)
        return [embeddings[text] for text in texts], len(texts) - len(missing)

    async def score(self, query: str, documents: list[str]) -> list[float]:
        """MaxSim scores of a query and each document text."""
        (query_QD,), _ = await self.embed([query], True)
        embeddings, _ = await self.embed(documents, False)
        return await asyncio.to_thread(
            lambda: [float((query_QD @ document_TD.T).max(axis=1).sum()) for document_TD in embeddings]
        )

    async def tokens(self, text: str, is_query: bool) -> list[TokenOffsets]:
        """The text's tokens that have embeddings, with their character offsets; see `token_offsets`."""
        return await asyncio.to_thread(self._tokens, text, is_query)

    async def status(self) -> None:
        """A ping."""

    def _tokens(self, text: str, is_query: bool) -> list[TokenOffsets]:
        with self._explainer_lock:
            return token_offsets(self._explainer, self._truncate(text, is_query), is_query)

    def _truncate(self, text: str, is_query: bool) -> str:
        return text[: _MAX_CHARACTERS_PER_TOKEN * self._max_tokens[is_query]]

    def _encode(self, texts: Sequence[_Text]) -> list[NDArray[np.float32]]:
        encoded: dict[_Text, Any] = {}
        for is_query, encode in ((True, self._encoder.encode_query), (False, self._encoder.encode_document)):
            batch = [text for text in dict.fromkeys(texts) if text.is_query == is_query]
            if batch:
                with self._tokenizer_lock:
                    embeddings = encode([text.text for text in batch], convert_to_numpy=True, show_progress_bar=False)
                encoded.update(zip(batch, embeddings, strict=True))
        return [np.asarray(encoded[text], dtype=np.float32) for text in texts]

    def _length(self, task: str) -> int:
        transformer = self._encoder[0]
        own = transformer.query_length if task == "query" else transformer.document_length
        return int(own or self._encoder.max_seq_length or 512)


def _copy_sharing_weights(encoder: Any) -> Any:
    """A copy of an encoder that shares its weights but not its tokenizer."""
    shared = [*encoder.parameters(), *encoder.buffers()]
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in shared})
