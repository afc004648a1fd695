"""Mining the negatives of a part of the queries, as plain functions: encode, search, choose. No Ray.

A part's queries are encoded together, and its cross-encoder's pairs are batched inside it: so what comes out depends
on the part and the settings, not on who works or beside whom.
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

from raycol.index import Hit, Index
from raycol.mining.candidates import Candidate, NegativeRules, Own, folded, in_turn, possible_hits, text_reason
from raycol.mining.positives import PositiveScorer, Scored
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Text, Texts

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

# How counts by reason begin.
LEFT_OUT = "left out: "
SHORT = "short: "

# Scores pairs of a query and a document: float32 [n].
PairScorer = Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]


@dataclass
class _Choice:
    """A query while its negatives are chosen: its positives by id and score, whose turn it is, what was chosen."""

    query: TrainingQuery
    positives: list[Scored]
    own: Own
    hits: int
    turn: Iterator[Hit]
    left_out: Counter[str]
    seen: set[str] = field(default_factory=set)
    negatives: list[Candidate] = field(default_factory=list)

    def passes(self, text: Text) -> bool:
        """Whether a document may be a negative by its text."""
        reason = text_reason(text, self.own, self.seen)
        self.left_out.update([reason] if reason else [])
        self.seen.add(folded(text.content))
        return reason is None

    def why_short(self, wanted: int) -> str:
        """Why there are too few: what took most of the hits."""
        if self.hits < wanted:
            return "few hits"
        return min(self.left_out, key=lambda reason: (-self.left_out[reason], reason))


@dataclass(frozen=True)
class Miner:
    """What mining a part takes.

    Args:
        index: where negatives come from.
        encoder: the index's.
        texts: of its documents.
        rules: what is asked of negatives.
        from_rank, to_rank: ranks that they may have, from 1.
        keep_short: keep queries of too few, if they have any.
        batch_size: texts encoded at once.
        cross_encoder: leaves out what it scores above the positive less `cross_encoder_margin`.
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
        """The rows of a part, one a query and positive, and counts of what became of it.

        Counts: queries, pairs, rows, negatives; hits, and `left out: REASON` of them; `short: REASON` of queries, by
        what took most of their hits; positives encoded because the index lacks them; pairs scored.
        """
        counts: Counter[str] = Counter(queries=len(queries), pairs=sum(len(query.positives) for query in queries))
        encoded = self._encode_queries(queries)
        found = self.index.search(encoded, self.to_rank, threads=1)
        scorer = PositiveScorer(self.index, self.encoder, self.texts, self.batch_size)
        positives = scorer(queries, encoded, found, counts)
        work = [
            self._begin(query, hits[self.from_rank - 1 :], scored)
            for query, hits, scored in zip(queries, found, positives, strict=True)
        ]
        self._choose(work, counts)
        rows = [row for query in work for row in self._finish(query, counts)]
        counts["rows"] = len(rows)
        counts["negatives"] = sum(len(row["negatives"]) for row in rows)
        return pa.Table.from_pylist(rows, MINED_SCHEMA), counts

    def _encode_queries(self, queries: Sequence[TrainingQuery]) -> list[NDArray[np.float32]]:
        texts = [query.text for query in queries]
        made = self.encoder.encode_query(texts, batch_size=self.batch_size, show_progress_bar=False)
        return [query.float().cpu().numpy() for query in made]

    def _begin(self, query: TrainingQuery, hits: list[Hit], positives: list[Scored]) -> _Choice:
        left_out: Counter[str] = Counter()
        own, lowest = Own.of(query), min(score for _, score in positives)
        possible = possible_hits(hits, own, lowest, self.rules, left_out, split=self.index.manifest.split is not None)
        turn = iter(in_turn(possible, self.rules, query.text))
        return _Choice(query, positives, own, len(hits), turn, left_out)

    def _finish(self, choice: _Choice, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """The rows of a query, and what is counted of it."""
        counts["hits"] += choice.hits
        counts.update({f"{LEFT_OUT}{reason}": n for reason, n in choice.left_out.items()})
        if len(choice.negatives) < self.rules.negatives:
            counts[f"{SHORT}{choice.why_short(self.rules.negatives)}"] += 1
            if not self.keep_short or not choice.negatives:
                return
            counts["short kept"] += 1
        negatives = sorted(choice.negatives, key=lambda candidate: (-candidate.score, candidate.id))
        for positive, (id_, score) in zip(choice.query.positives, choice.positives, strict=True):
            yield _row(choice.query.text, positive, id_, score, negatives)

    def _choose(self, work: Sequence[_Choice], counts: Counter[str]) -> None:
        """Give each query its negatives: the first of those whose turn it is that pass by their texts and scores.

        Looking at a text, and asking the cross-encoder, is what takes time: so it is done for as many as are still
        needed, of all queries together, until there are enough or no more.
        """
        at_most = self._highest_logits(work, counts)
        while asked := [
            (place, hit)
            for place, query in enumerate(work)
            for hit in islice(query.turn, self.rules.negatives - len(query.negatives))
        ]:
            texts = self.texts(list(dict.fromkeys(hit.id for _, hit in asked)))
            passed = [
                (place, Candidate(hit.id, texts[hit.id].content, hit.score))
                for place, hit in asked
                if work[place].passes(texts[hit.id])
            ]
            logits = self._logits([(work[place].query.text, candidate.text) for place, candidate in passed], counts)
            for (place, candidate), logit in zip(passed, logits, strict=True):
                if logit <= at_most[place]:
                    work[place].negatives.append(candidate)
                else:
                    work[place].left_out["cross_encoder"] += 1

    def _highest_logits(self, work: Sequence[_Choice], counts: Counter[str]) -> list[float]:
        """What a negative's logit may be: the lowest of the query's positives, less the margin."""
        own = iter(
            self._logits([(each.query.text, text.text) for each in work for text in each.query.positives], counts)
        )
        return [min(islice(own, len(each.positives))) - self.cross_encoder_margin for each in work]

    def _logits(self, pairs: list[tuple[str, str]], counts: Counter[str]) -> list[float]:
        """The cross-encoder's; all the same where there is none."""
        if self.cross_encoder is None:
            return [0.0] * len(pairs)
        counts["pairs scored"] += len(pairs)
        logits: list[float] = self.cross_encoder(pairs).tolist()
        return logits


def _row(
    query: str, positive: Positive, id_: str | None, score: float, negatives: Sequence[Candidate]
) -> dict[str, Any]:
    """A row. All its documents have ids or none has: half of them would be taken for a mistake (`read_examples`)."""
    return {
        "query_id": positive.query_id,
        "query": query,
        "positive_id": id_,
        "positive": positive.text,
        "negative_ids": [negative.id for negative in negatives] if id_ else None,
        "negatives": [negative.text for negative in negatives],
        "mined_scores": [score, *(negative.score for negative in negatives)],
    }
