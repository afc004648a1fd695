"""Exact scores of texts against fixed queries by a model, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.data import Passage
from raycol.evaluation.top_hits import Hits, TopHits

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer

# Documents encoded and scored at a time: bounds the memory of embeddings, and lets progress move.
_BATCH = 128
# Texts per forward pass of the encoder.
_ENCODED = 32


class ModelScorer:
    """Scores texts against fixed queries, exactly: by MaxSim, or by the model's similarity of single vectors.

    Args:
        encoder: the model.
        queries: texts, encoded once.
        pool_factor: of the texts' tokens, if the model is a ColBERT, as in an index.
    """

    def __init__(
        self, encoder: MultiVectorEncoder | SentenceTransformer, queries: Sequence[str], pool_factor: float = 1.0
    ) -> None:
        from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

        self._encoder = encoder
        self._pooling = {"token_pooling": HierarchicalTokenPooling(pool_factor)} if pool_factor > 1 else {}
        self._queries = encoder.encode_query(list(queries), batch_size=_ENCODED, show_progress_bar=False)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the scores of every query for each text, float32 [n_queries, n_texts]."""
        import torch

        embeddings = self._encoder.encode_document(
            list(texts), batch_size=_ENCODED, show_progress_bar=False, **self._pooling
        )
        with torch.inference_mode():
            scores: NDArray[np.float32] = self._encoder.similarity(self._queries, embeddings).float().cpu().numpy()
        return scores


def score_passages(
    scorer: ModelScorer, passages: Iterable[Passage], depth: int, on_progress: Callable[[int], None]
) -> list[Hits]:
    """Return the best hits of each query among some passages; calls `on_progress` with the number scored."""
    source, top, done = iter(passages), None, 0
    while batch := list(islice(source, _BATCH)):
        scores_QN = scorer([passage.content for passage in batch])
        top = top or TopHits(len(scores_QN), depth)
        top.add([passage.id for passage in batch], scores_QN)
        done += len(batch)
        on_progress(done)
    return top.result() if top else []
