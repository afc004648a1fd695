"""Scores of positives, by the index that negatives come from: so the scores of both can be compared."""

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
from raycol.mining.candidates import folded
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Hits that are looked at, at a time, where a positive is known by its text only.
_LOOKED_AT = 16
# Where documents were split, so many passages of one are looked for at a time.
_PASSAGES = 32

# The id of a positive, if it has one, and its score.
Scored = tuple[str | None, float]


@dataclass(frozen=True)
class PositiveScorer:
    """Scores positives: by the index where it has them, else as it would if it had.

    Args:
        index: with documents.
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
        found: list[list[Hit]],
        counts: Counter[str],
    ) -> list[list[Scored]]:
        """The id and score of every positive: the index's where it has it, else the score of its text, encoded.

        The index has it where it knows the id, or where a hit has its text.
        """
        by_id = self._score_known(queries, encoded)
        without = [
            {folded(positive.text) for positive in query.positives if positive.id not in known}
            for query, known in zip(queries, by_id, strict=True)
        ]
        by_text = self._hits_of_texts(without, found)
        lacking = [
            (place, positive.text)
            for place, query in enumerate(queries)
            for positive in query.positives
            if positive.id not in by_id[place] and folded(positive.text) not in by_text[place]
        ]
        counts["positives encoded"] += len(lacking)
        made = self._score_texts(lacking, encoded)

        def score(place: int, positive: Positive) -> Scored:
            if positive.id in by_id[place]:
                return positive.id, by_id[place][positive.id]
            if hit := by_text[place].get(folded(positive.text)):
                return positive.id or hit.id, hit.score
            return positive.id, made[place, positive.text]

        return [[score(place, positive) for positive in query.positives] for place, query in enumerate(queries)]

    def _hits_of_texts(self, wanted: list[set[str]], found: list[list[Hit]]) -> list[dict[str, Hit]]:
        """For each query the best hit of each of some texts, folded. They are near the top, most of them."""
        here: list[dict[str, Hit]] = [{} for _ in wanted]
        for start in range(0, max(map(len, found)), _LOOKED_AT):
            looking = {
                place: hits[start : start + _LOOKED_AT]
                for place, hits in enumerate(found)
                if len(here[place]) < len(wanted[place])
            }
            if not looking:
                break
            texts = self.texts(list(dict.fromkeys(hit.id for hits in looking.values() for hit in hits)))
            for place, hits in looking.items():
                for hit in hits:
                    text = texts[hit.id]
                    for same in wanted[place] & {folded(text.content), folded(text.text)}:
                        here[place].setdefault(same, hit)
        return here

    def _score_known(
        self, queries: Sequence[TrainingQuery], encoded: list[NDArray[np.float32]]
    ) -> list[dict[str | None, float]]:
        """For each query the scores of those positives that the index has under their ids."""
        ids = [list(dict.fromkeys(each.id for each in query.positives if each.id)) for query in queries]
        if self.index.manifest.split is None:
            ranked = self.index.rerank(encoded, ids, on_unknown="ignore", threads=1)
            return [{hit.id: hit.score for hit in hits} for hits in ranked]
        scores: list[dict[str | None, float]] = [{} for _ in queries]
        # Of a document that was split the passage counts that answers best. They are numbered.
        waiting, first = ids, 0
        while any(waiting):
            numbers = range(first, first + _PASSAGES)
            names = [[passage_id(id_, number) for id_ in of_one for number in numbers] for of_one in waiting]
            ranked = self.index.rerank(encoded, names, on_unknown="ignore", threads=1)
            for place, hits in enumerate(ranked):
                there = set()
                for hit in hits:
                    parent = parent_document_id(hit.id)
                    there.add(parent)
                    scores[place][parent] = max(hit.score, scores[place].get(parent, hit.score))
                waiting[place] = [id_ for id_ in waiting[place] if id_ in there]
            first += _PASSAGES
        return scores

    def _score_texts(
        self, wanted: Sequence[tuple[int, str]], encoded: list[NDArray[np.float32]]
    ) -> dict[tuple[int, str], float]:
        """MaxSim of queries, by their places, and texts, pooled as the index's documents are."""
        texts = sorted({text for _, text in wanted})
        if not texts:
            return {}
        made = self.encoder.encode_document(texts, batch_size=self.batch_size, show_progress_bar=False)
        pool = token_pooling(self.index.manifest.pool_factor)
        tokens = {}
        for text, tokens_TD in zip(texts, made, strict=True):
            array_TD = tokens_TD.float().cpu().numpy()
            tokens[text] = pool(array_TD) if pool else array_TD
        return {(place, text): max_sim(encoded[place], tokens[text]) for place, text in wanted}


def max_sim(query_QD: NDArray[np.float32], tokens_TD: NDArray[np.float32]) -> float:
    """The score of a document that is not in the index. Not by BLAS, whose rounding may depend on its threads."""
    return float(np.einsum("qd,td->qt", query_QD, tokens_TD).max(axis=1).sum())
