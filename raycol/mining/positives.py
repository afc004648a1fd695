"""Score positives by the system that negatives come from, so that their scores are comparable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.index import Hit, Index
from raycol.index.codec.pooling import token_pooling
from raycol.index.format.manifest import parent_document_id, passage_id
from raycol.mining.candidates import normalize
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Hits per query whose texts are fetched at a time, to match positives without an id.
_TEXT_BATCH = 16
# Passages of a split document that are looked up at a time.
_PASSAGE_BATCH = 32

# The id of a positive, if it has one, and its score.
ScoredPositive = tuple[str | None, float]


@dataclass(frozen=True)
class PositiveScorer:
    """Scores positives with the index, or from their encoded text if the index lacks them.

    Args:
        index: the index that negatives come from.
        encoder: the index's.
        texts: of its documents.
        batch_size: texts encoded at once.
    """

    index: Index
    encoder: MultiVectorEncoder
    texts: Texts
    batch_size: int

    def __call__(
        self,
        queries: Sequence[TrainingQuery],
        encoded: list[NDArray[np.float32]],
        hits: list[list[Hit]],
        counts: Counter[str],
    ) -> list[list[ScoredPositive]]:
        """Return the id and score of every positive of every query.

        The score is that of the document with the positive's id, else of the best hit with its text, else the MaxSim
        of its encoded text.

        Args:
            queries: the queries of a part.
            encoded: their embeddings, float32 [tokens, dim] each.
            hits: of each query, best first.
            counts: "positives encoded" is incremented for each text that has to be encoded.
        """
        by_id = self._score_by_id(queries, encoded)
        unmatched = [
            {normalize(positive.text) for positive in query.positives if positive.id not in scores}
            for query, scores in zip(queries, by_id, strict=True)
        ]
        by_text = hits_by_text(unmatched, hits, self.texts)
        missing = [
            (row, positive.text)
            for row, query in enumerate(queries)
            for positive in query.positives
            if positive.id not in by_id[row] and normalize(positive.text) not in by_text[row]
        ]
        counts["positives encoded"] += len(missing)
        by_encoding = self._score_texts(missing, encoded)

        def score(row: int, positive: Positive) -> ScoredPositive:
            if positive.id in by_id[row]:
                return positive.id, by_id[row][positive.id]
            if hit := by_text[row].get(normalize(positive.text)):
                return positive.id or hit.id, hit.score
            return positive.id, by_encoding[row, positive.text]

        return [[score(row, positive) for positive in query.positives] for row, query in enumerate(queries)]

    def _score_by_id(
        self, queries: Sequence[TrainingQuery], encoded: list[NDArray[np.float32]]
    ) -> list[dict[str | None, float]]:
        """Return for each query the scores of the positives whose ids the index has."""
        ids = [list(dict.fromkeys(each.id for each in query.positives if each.id)) for query in queries]
        if self.index.manifest.split is None:
            ranked = self.index.rerank(encoded, ids, on_unknown="ignore", threads=1)
            return [{hit.id: hit.score for hit in hits} for hits in ranked]
        scores: list[dict[str | None, float]] = [{} for _ in queries]
        # A split document scores as its best passage. Passages are numbered from 0, and a batch without any ends it.
        pending, first = ids, 0
        while any(pending):
            numbers = range(first, first + _PASSAGE_BATCH)
            passages = [[passage_id(id_, number) for id_ in documents for number in numbers] for documents in pending]
            ranked = self.index.rerank(encoded, passages, on_unknown="ignore", threads=1)
            for row, hits in enumerate(ranked):
                parents = set()
                for hit in hits:
                    parent = parent_document_id(hit.id)
                    parents.add(parent)
                    scores[row][parent] = max(hit.score, scores[row].get(parent, hit.score))
                pending[row] = [id_ for id_ in pending[row] if id_ in parents]
            first += _PASSAGE_BATCH
        return scores

    def _score_texts(
        self, pairs: Sequence[tuple[int, str]], encoded: list[NDArray[np.float32]]
    ) -> dict[tuple[int, str], float]:
        """Return MaxSim by (row of a query, text); texts are encoded and pooled as the index's documents are."""
        texts = sorted({text for _, text in pairs})
        if not texts:
            return {}
        embeddings = self.encoder.encode_document(texts, batch_size=self.batch_size, show_progress_bar=False)
        pool = token_pooling(self.index.manifest.pool_factor)
        documents = {}
        for text, tokens_TD in zip(texts, embeddings, strict=True):
            array_TD = tokens_TD.float().cpu().numpy()
            documents[text] = pool(array_TD) if pool else array_TD
        return {(row, text): max_sim(encoded[row], documents[text]) for row, text in pairs}


def hits_by_text(wanted: list[set[str]], hits: list[list[Hit]], texts_of: Texts) -> list[dict[str, Hit]]:
    """Return for each query the best hit with each of the wanted normalized texts.

    Texts are fetched in batches from the top, where most matches are.
    """
    matches: list[dict[str, Hit]] = [{} for _ in wanted]
    for start in range(0, max(map(len, hits)), _TEXT_BATCH):
        batch = {
            row: query_hits[start : start + _TEXT_BATCH]
            for row, query_hits in enumerate(hits)
            if len(matches[row]) < len(wanted[row])
        }
        if not batch:
            break
        texts = texts_of(list(dict.fromkeys(hit.id for query_hits in batch.values() for hit in query_hits)))
        for row, query_hits in batch.items():
            for hit in query_hits:
                text = texts[hit.id]
                for match in wanted[row] & {normalize(text.content), normalize(text.text)}:
                    matches[row].setdefault(match, hit)
    return matches


def max_sim(query_QD: NDArray[np.float32], tokens_TD: NDArray[np.float32]) -> float:
    """MaxSim of a query and a document. Avoids BLAS, whose rounding may depend on the number of threads."""
    return float(np.einsum("qd,td->qt", query_QD, tokens_TD).max(axis=1).sum())
