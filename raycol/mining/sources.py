"""Where the negatives of a part come from: hits and the positives' scores of each system. Plain functions, no Ray.

An index is searched here. The other systems have searched before the workers start (`raycol/mining/searches.py`), and
their hits come with the queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raycol.index import Hit, Index
from raycol.mining.candidates import normalize
from raycol.mining.positives import PositiveScorer, ScoredPositive, hits_by_text
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.systems import MinedSystem
from raycol.mining.texts import Texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Of each query: its hits from rank 1, best first, and its positives' ids and scores.
Found = tuple[list[Hit], list[ScoredPositive]]


@dataclass(frozen=True)
class Source(ABC):
    """A system as a source of negatives.

    Args:
        system: its window of ranks, rules and weight.
        texts: of its documents.
    """

    system: MinedSystem
    texts: Texts

    @property
    def is_split(self) -> bool:
        """Whether its hits are passages of split documents, whose ids end in the passage's number."""
        return False

    @abstractmethod
    def find(self, queries: Sequence[TrainingQuery], counts: Counter[str]) -> list[Found]:
        """Return the hits and positives of each query; adds to the counts."""


@dataclass(frozen=True)
class IndexSource(Source):
    """An index, searched with its encoder.

    Args:
        system, texts: see `Source`.
        index: the index.
        encoder: the index's.
        batch_size: texts encoded at once.
    """

    index: Index
    encoder: MultiVectorEncoder
    batch_size: int

    @property
    def is_split(self) -> bool:
        """See `Source`."""
        return self.index.manifest.split is not None

    def find(self, queries: Sequence[TrainingQuery], counts: Counter[str]) -> list[Found]:
        """Encode and search; counts "positives encoded", which the index lacks."""
        encoded = self._encode([query.text for query in queries])
        hits = self.index.search(encoded, self.system.to_rank, threads=1)
        scorer = PositiveScorer(self.index, self.encoder, self.texts, self.batch_size)
        return list(zip(hits, scorer(queries, encoded, hits, counts), strict=True))

    def _encode(self, texts: list[str]) -> list[NDArray[np.float32]]:
        embeddings = self.encoder.encode_query(texts, batch_size=self.batch_size, show_progress_bar=False)
        return [query.float().cpu().numpy() for query in embeddings]


@dataclass(frozen=True)
class RunSource(Source):
    """A system whose hits come with the queries. A positive that is not among them scores -inf: below all of them.

    Args:
        system, texts: see `Source`.
        number: position of the hits in `TrainingQuery.hits`.
    """

    number: int

    def find(self, queries: Sequence[TrainingQuery], counts: Counter[str]) -> list[Found]:
        """Match the positives with the hits, by id or else by text."""
        hits = [[Hit(id_, score) for id_, score in query.hits[self.number]] for query in queries]
        by_id = [{hit.id: hit for hit in query_hits} for query_hits in hits]
        unmatched = [
            {normalize(positive.text) for positive in query.positives if positive.id not in found}
            for query, found in zip(queries, by_id, strict=True)
        ]
        by_text = hits_by_text(unmatched, hits, self.texts)

        def score(row: int, positive: Positive) -> ScoredPositive:
            hit = by_id[row].get(positive.id or "") or by_text[row].get(normalize(positive.text))
            return (positive.id or hit.id, hit.score) if hit else (positive.id, -inf)

        positives = [[score(row, positive) for positive in query.positives] for row, query in enumerate(queries)]
        return list(zip(hits, positives, strict=True))
