"""The query encoder as a deployment: text in, token embeddings out."""

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
from raycol.models.tokenization import Task, prompt_of, tokenize
from raycol.serving.batcher import Batcher

# Tokens that are encoded together at most.
_BATCH_TOKENS = 4096
# Queries whose embeddings are kept, about 16 KB each with their texts.
_KEPT_QUERIES = 4096
_CHARACTERS_PER_TOKEN = 4
# Nothing beyond is what the model reads: a tokenizer takes long over a text of a hundred thousand words.
_MOST_CHARACTERS_PER_TOKEN = 16

Tokens = list[tuple[str, int, int]]


class _Text(NamedTuple):
    text: str
    is_query: bool


class QueryEncoder:
    """Encodes texts with the model that the index was built with; any other is refused.

    Args:
        name_or_path: where the model is; None takes the place that the index remembers.
        info: what the index remembers of its model.
        threads: that the model computes with; None for torch's own choice.
    """

    def __init__(self, name_or_path: str | None, info: dict[str, str] | None, threads: int | None = None) -> None:
        import torch

        from raycol.models.encoder import load_index_encoder

        keep_replica_on_loopback()
        if threads:
            torch.set_num_threads(threads)
        known = ModelInfo.model_validate(info) if info else None
        self._encoder = load_index_encoder(known, name_or_path, device=None)
        # A tokenizer holds how it cuts and pads: whoever uses it with other settings meanwhile would get those. Texts
        # are explained with another one, so that no search waits for that.
        self._tokenizing = threading.Lock()
        self._explaining = threading.Lock()
        self._explainer = _sharing_weights(self._encoder)
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._limits = {True: self._length("query"), False: self._length("document")}
        self._together = Batcher(self._encode, lambda text: len(text.text) // _CHARACTERS_PER_TOKEN + 2, _BATCH_TOKENS)
        self._encode([_Text("warm", True), _Text("warm", False)])

    async def embed(self, texts: list[str], is_query: bool) -> tuple[list[NDArray[np.float32]], int]:
        """Embeddings of each text, float32 [n_tokens, dim], and how many of them were known already."""
        texts = [self._cut(text, is_query) for text in texts]
        found = {text: self._known[text] for text in set(texts) if is_query and text in self._known}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            encoded = await asyncio.gather(*(self._together(_Text(text, is_query)) for text in missing))
            found.update(zip(missing, encoded, strict=True))
        if is_query:
            for text in texts:
                self._known[text] = found[text]
                self._known.move_to_end(text)
            while len(self._known) > _KEPT_QUERIES:
                self._known.popitem(last=False)
        return [found[text] for text in texts], len(texts) - len(missing)

    async def score(self, query: str, documents: list[str]) -> list[float]:
        """MaxSim of a query and each of some texts."""
        (query_QD,), _ = await self.embed([query], True)
        embeddings, _ = await self.embed(documents, False)
        return await asyncio.to_thread(
            lambda: [float((query_QD @ document_TD.T).max(axis=1).sum()) for document_TD in embeddings]
        )

    async def tokens(self, text: str, is_query: bool) -> Tokens:
        """The tokens that have embeddings, in their order: what each is, and where it begins and ends in the text."""
        return await asyncio.to_thread(self._tokens, text, is_query)

    async def status(self) -> None:
        """That it is there."""

    def _tokens(self, text: str, is_query: bool) -> Tokens:
        with self._explaining:
            return token_places(self._explainer, self._cut(text, is_query), is_query)

    def _cut(self, text: str, is_query: bool) -> str:
        """As much of a text as is tokenized."""
        return text[: _MOST_CHARACTERS_PER_TOKEN * self._limits[is_query]]

    def _encode(self, texts: Sequence[_Text]) -> list[NDArray[np.float32]]:
        found: dict[_Text, Any] = {}
        for is_query, encode in ((True, self._encoder.encode_query), (False, self._encoder.encode_document)):
            chosen = [text for text in dict.fromkeys(texts) if text.is_query == is_query]
            if chosen:
                with self._tokenizing:
                    embeddings = encode([text.text for text in chosen], convert_to_numpy=True, show_progress_bar=False)
                found.update(zip(chosen, embeddings, strict=True))
        return [np.asarray(found[text], dtype=np.float32) for text in texts]

    def _length(self, task: str) -> int:
        transformer = self._encoder[0]
        own = transformer.query_length if task == "query" else transformer.document_length
        return int(own or self._encoder.max_seq_length or 512)


def _sharing_weights(encoder: Any) -> Any:
    """A copy of an encoder with its weights, and a tokenizer of its own."""
    shared = [*encoder.parameters(), *encoder.buffers()]
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in shared})


def token_places(encoder: Any, text: str, is_query: bool) -> Tokens:
    """The tokens of a text that have embeddings, and their places; what is not of the text has the place 0 to 0."""
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    task: Task = "query" if is_query else "document"
    prompt = prompt_of(encoder, task)
    features = tokenize(encoder, [text], task)
    ids = features["input_ids"][0].tolist()
    for module in encoder:
        if isinstance(module, MultiVectorMask):
            features = module(features, task=task)
    kept = features["attention_mask"][0].bool().tolist()
    tokenizer = encoder.tokenizer
    plain = tokenizer(f"{prompt}{text}", return_offsets_mapping=True, verbose=False)
    places = dict(enumerate(zip(plain["input_ids"], plain["offset_mapping"], strict=True)))
    found = []
    for place, (token, keep) in enumerate(zip(ids, kept, strict=True)):
        if not keep:
            continue
        same, (start, stop) = places.get(place, (None, (0, 0)))
        inside = same == token and start >= len(prompt)
        edges = (start - len(prompt), stop - len(prompt)) if inside else (0, 0)
        found.append((tokenizer.convert_ids_to_tokens(token), *edges))
    return found
