"""Mine the negatives of a part of the queries: encode, search, choose. Plain functions, no Ray.

A part's queries are encoded together, and the cross-encoder's pairs are batched within the part, so that the result
depends only on the part and the settings, not on the number of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.data.text_store import Text
from raycol.index import Hit, Index
from raycol.mining.candidates import (
    Candidate,
    Exclusions,
    NegativeRules,
    eligible_hits,
    normalize,
    sampling_order,
    text_rejection,
)
from raycol.mining.positives import PositiveScorer, ScoredPositive
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

MINED_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "query": pa.string(),
        "positive_id": pa.string(),
        "positive": pa.string(),
        "negative_ids": pa.list_(pa.string()),
        "negatives": pa.list_(pa.string()),
        "mined_scores": pa.list_(pa.float32()),
    }
)

# Prefixes of the counts by reason.
LEFT_OUT = "left out: "
SHORT = "short: "

# Scores pairs of a query and a document: float32 [n].
PairScorer = Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]


@dataclass
class _Selection:
    """The state of choosing a query's negatives.

    Args:
        query: the query.
        positives: ids and scores of its positives.
        exclusions: what is never a negative of it.
        n_hits: hits in the window of ranks.
        candidates: the eligible hits not tried yet, in the order in which they are tried.
        left_out: rejected hits by reason.
        seen: normalized texts of the candidates tried so far.
        negatives: the negatives chosen so far.
    """

    query: TrainingQuery
    positives: list[ScoredPositive]
    exclusions: Exclusions
    n_hits: int
    candidates: Iterator[Hit]
    left_out: Counter[str]
    seen: set[str] = field(default_factory=set)
    negatives: list[Candidate] = field(default_factory=list)

    def accepts(self, text: Text) -> bool:
        """Whether a document may be a negative by its text; counts the rejection if not."""
        reason = text_rejection(text, self.exclusions, self.seen)
        self.left_out.update([reason] if reason else [])
        self.seen.add(normalize(text.content))
        return reason is None

    def why_short(self, wanted: int) -> str:
        """The reason that rejected most of the hits, for a query with too few negatives."""
        if self.n_hits < wanted:
            return "few hits"
        return min(self.left_out, key=lambda reason: (-self.left_out[reason], reason))


@dataclass(frozen=True)
class Miner:
    """Mines the negatives of a part of the queries.

    Args:
        index: where negatives come from.
        encoder: the index's.
        texts: of the index's documents.
        rules: which hits qualify as negatives.
        from_rank, to_rank: window of ranks, from 1, both inclusive.
        keep_short: keep queries with fewer negatives than wanted, if they have any.
        batch_size: texts encoded at once.
        cross_encoder: rejects candidates that it scores above the lowest positive less `cross_encoder_margin`.
    """

    index: Index
    encoder: MultiVectorEncoder
    texts: Texts
    rules: NegativeRules
    from_rank: int
    to_rank: int
    keep_short: bool
    batch_size: int
    cross_encoder: PairScorer | None = None
    cross_encoder_margin: float = 0.0

    def __call__(self, queries: Sequence[TrainingQuery]) -> tuple[pa.Table, Counter[str]]:
        """Return rows of `MINED_SCHEMA`, one per query and positive, and counts.

        Counts: "queries", "pairs", "rows", "negatives", "hits"; "left out: REASON" of hits; "short: REASON" of
        queries, by the reason that rejected most of their hits; "short kept"; "positives encoded", which the index
        lacks; "pairs scored" by the cross-encoder.
        """
        counts: Counter[str] = Counter(queries=len(queries), pairs=sum(len(query.positives) for query in queries))
        encoded = self._encode_queries(queries)
        hits = self.index.search(encoded, self.to_rank, threads=1)
        scorer = PositiveScorer(self.index, self.encoder, self.texts, self.batch_size)
        positives = scorer(queries, encoded, hits, counts)
        selections = [
            self._begin(query, query_hits[self.from_rank - 1 :], scored)
            for query, query_hits, scored in zip(queries, hits, positives, strict=True)
        ]
        self._choose(selections, counts)
        rows = [row for selection in selections for row in self._finish(selection, counts)]
        counts["rows"] = len(rows)
        counts["negatives"] = sum(len(row["negatives"]) for row in rows)
        return pa.Table.from_pylist(rows, MINED_SCHEMA), counts

    def _encode_queries(self, queries: Sequence[TrainingQuery]) -> list[NDArray[np.float32]]:
        texts = [query.text for query in queries]
        embeddings = self.encoder.encode_query(texts, batch_size=self.batch_size, show_progress_bar=False)
        return [query.float().cpu().numpy() for query in embeddings]

    def _begin(self, query: TrainingQuery, hits: list[Hit], positives: list[ScoredPositive]) -> _Selection:
        left_out: Counter[str] = Counter()
        exclusions, lowest = Exclusions.of(query), min(score for _, score in positives)
        split = self.index.manifest.split is not None
        eligible = eligible_hits(hits, exclusions, lowest, self.rules, left_out, split=split)
        candidates = iter(sampling_order(eligible, self.rules, query.text))
        return _Selection(query, positives, exclusions, len(hits), candidates, left_out)

    def _finish(self, selection: _Selection, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query, and add to the counts."""
        counts["hits"] += selection.n_hits
        counts.update({f"{LEFT_OUT}{reason}": n for reason, n in selection.left_out.items()})
        if len(selection.negatives) < self.rules.negatives:
            counts[f"{SHORT}{selection.why_short(self.rules.negatives)}"] += 1
            if not self.keep_short or not selection.negatives:
                return
            counts["short kept"] += 1
        negatives = sorted(selection.negatives, key=lambda candidate: (-candidate.score, candidate.id))
        for positive, (id_, score) in zip(selection.query.positives, selection.positives, strict=True):
            yield _row(selection.query.text, positive, id_, score, negatives)

    def _choose(self, selections: Sequence[_Selection], counts: Counter[str]) -> None:
        """Choose each query's negatives: the first candidates that pass by their texts and cross-encoder logits.

        Fetching texts and running the cross-encoder dominate the cost, so each round tries only as many candidates as
        are still missing, for all queries together, until every query has enough or no more candidates.
        """
        limits = self._logit_limits(selections, counts)
        while batch := [
            (row, hit)
            for row, selection in enumerate(selections)
            for hit in islice(selection.candidates, self.rules.negatives - len(selection.negatives))
        ]:
            texts = self.texts(list(dict.fromkeys(hit.id for _, hit in batch)))
            accepted = [
                (row, Candidate(hit.id, texts[hit.id].content, hit.score))
                for row, hit in batch
                if selections[row].accepts(texts[hit.id])
            ]
            logits = self._logits(
                [(selections[row].query.text, candidate.text) for row, candidate in accepted], counts
            )
            for (row, candidate), logit in zip(accepted, logits, strict=True):
                if logit <= limits[row]:
                    selections[row].negatives.append(candidate)
                else:
                    selections[row].left_out["cross_encoder"] += 1

    def _logit_limits(self, selections: Sequence[_Selection], counts: Counter[str]) -> list[float]:
        """Upper bound of a negative's logit for each query: the lowest logit of its positives, less the margin."""
        pairs = [(each.query.text, positive.text) for each in selections for positive in each.query.positives]
        logits = iter(self._logits(pairs, counts))
        return [min(islice(logits, len(each.positives))) - self.cross_encoder_margin for each in selections]

    def _logits(self, pairs: list[tuple[str, str]], counts: Counter[str]) -> list[float]:
        """Logits of the cross-encoder; zeros without one, which every candidate passes."""
        if self.cross_encoder is None:
            return [0.0] * len(pairs)
        counts["pairs scored"] += len(pairs)
        logits: list[float] = self.cross_encoder(pairs).tolist()
        return logits


def _row(
    query: str, positive: Positive, id_: str | None, score: float, negatives: Sequence[Candidate]
) -> dict[str, Any]:
    """A row of `MINED_SCHEMA`. Either all its documents have ids or none, as `read_examples` requires."""
    return {
        "query_id": positive.query_id,
        "query": query,
        "positive_id": id_,
        "positive": positive.text,
        "negative_ids": [negative.id for negative in negatives] if id_ else None,
        "negatives": [negative.text for negative in negatives],
        "mined_scores": [score, *(negative.score for negative in negatives)],
    }
