"""Mine the negatives of a part of the queries: search, choose. Plain functions, no Ray.

A part's queries are encoded together, and the cross-encoder's pairs are batched within the part, so that the result
depends only on the part and the settings, not on the number of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.data.text_store import Text
from raycol.index import Hit
from raycol.mining.candidates import (
    Candidate,
    Exclusions,
    eligible_hits,
    next_system,
    normalize,
    sampling_order,
    text_rejection,
)
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.sources import Found, Source

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
SYSTEMS_SCHEMA = MINED_SCHEMA.append(pa.field("mined_by", pa.list_(pa.string())))
"""Of negatives that do not come from an index alone: `mined_by` names the system of each."""

# Prefixes of the counts by reason.
LEFT_OUT = "left out: "
SHORT = "short: "
MINED_BY = "mined by: "

# Scores pairs of a query and a document: float32 [n].
PairScorer = Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]


@dataclass
class _Selection:
    """The state of choosing a query's negatives.

    Args:
        query: the query.
        positives: ids of its positives, and their scores by the first system.
        exclusions: what is never a negative of it.
        weights: of the systems.
        n_hits: hits in the windows of ranks.
        candidates: the eligible hits of each system not tried yet, in the order in which they are tried.
        left_out: rejected hits by reason.
        taken: negatives by system, those that are being tried included.
        seen: normalized texts of the candidates tried so far.
        negatives: the negatives chosen so far.
    """

    query: TrainingQuery
    positives: list[tuple[str | None, float]]
    exclusions: Exclusions
    weights: Sequence[float]
    n_hits: int
    candidates: dict[int, Iterator[Hit]]
    left_out: Counter[str]
    taken: Counter[int] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    negatives: list[Candidate] = field(default_factory=list)

    def draw(self, n: int) -> list[tuple[int, Hit]]:
        """Return the next candidates, at most `n`, each with the number of its system."""
        drawn: list[tuple[int, Hit]] = []
        while len(drawn) < n and self.candidates:
            system = next_system(self.taken, self.weights, self.candidates)
            if hit := next(self.candidates[system], None):
                self.taken[system] += 1
                drawn.append((system, hit))
            else:
                del self.candidates[system]
        return drawn

    def reject(self, system: int, reason: str) -> None:
        """Count a rejected candidate."""
        self.left_out[reason] += 1
        self.taken[system] -= 1

    def accepts(self, system: int, text: Text) -> bool:
        """Whether a document may be a negative by its text; counts the rejection if not."""
        if reason := text_rejection(text, self.exclusions, self.seen):
            self.reject(system, reason)
        self.seen.add(normalize(text.content))
        return reason is None

    def why_short(self, wanted: int) -> str:
        """The reason that rejected most of the hits, for a query with too few negatives."""
        if self.n_hits < wanted or not self.left_out:  # a pool leaves out the others
            return "few hits"
        return min(self.left_out, key=lambda reason: (-self.left_out[reason], reason))

    def mixed(self) -> list[Candidate]:
        """Return the negatives: those of each system by score, mixed by weight, so that every prefix is mixed."""
        ordered = sorted(self.negatives, key=lambda candidate: (-candidate.score, candidate.id))
        queues = {number: [each for each in ordered if each.system == number] for number in sorted(self.taken)}
        taken, mixed = Counter[int](), list[Candidate]()
        while queues := {number: queue for number, queue in queues.items() if queue}:
            number = next_system(taken, self.weights, queues)
            taken[number] += 1
            mixed.append(queues[number].pop(0))
        return mixed


@dataclass(frozen=True)
class Miner:
    """Mines the negatives of a part of the queries.

    Args:
        sources: where negatives come from, at least one.
        keep_short: keep queries with fewer negatives than wanted, if they have any.
        schema: of the rows.
        cross_encoder: rejects candidates that it scores above the lowest positive less `cross_encoder_margin`.
    """

    sources: Sequence[Source]
    keep_short: bool
    schema: pa.Schema = MINED_SCHEMA
    cross_encoder: PairScorer | None = None
    cross_encoder_margin: float = 0.0

    @property
    def _wanted(self) -> int:
        return self.sources[0].system.rules.negatives

    def __call__(self, queries: Sequence[TrainingQuery]) -> tuple[pa.Table, Counter[str]]:
        """Return rows of the schema, one per query and positive, and counts.

        Counts: "queries", "pairs", "rows", "negatives", "hits"; "left out: REASON" of hits; "short: REASON" of
        queries, by the reason that rejected most of their hits; "short kept"; "positives encoded", which the index
        lacks; "pairs scored" by the cross-encoder; "mined by: SYSTEM" of negatives.
        """
        counts: Counter[str] = Counter(queries=len(queries), pairs=sum(len(query.positives) for query in queries))
        found = [source.find(queries, counts) for source in self.sources]
        selections = [self._begin(*each) for each in zip(queries, zip(*found, strict=True), strict=True)]
        self._choose(selections, counts)
        rows = [row for selection in selections for row in self._finish(selection, counts)]
        counts["rows"] = len(rows)
        counts["negatives"] = sum(len(row["negatives"]) for row in rows)
        if self.schema != MINED_SCHEMA:
            counts.update(f"{MINED_BY}{name}" for row in rows for name in row["mined_by"])
        return pa.Table.from_pylist(rows, self.schema), counts

    def _begin(self, query: TrainingQuery, found: Sequence[Found]) -> _Selection:
        left_out: Counter[str] = Counter()
        exclusions, n_hits, candidates = Exclusions.of(query), 0, {}
        for number, (source, (hits, positives)) in enumerate(zip(self.sources, found, strict=True)):
            window = hits[source.system.from_rank - 1 : source.system.to_rank]
            n_hits += len(window)
            lowest, rules = min(score for _, score in positives), source.system.rules
            eligible = eligible_hits(window, exclusions, lowest, rules, left_out, split=source.is_split)
            candidates[number] = iter(sampling_order(eligible, rules, query.text))
        ids = [
            next(filter(None, ids), None) for ids in zip(*([id_ for id_, _ in each] for _, each in found), strict=True)
        ]
        scored = [(id_, score) for id_, (_, score) in zip(ids, found[0][1], strict=True)]
        weights = [source.system.weight for source in self.sources]
        return _Selection(query, scored, exclusions, weights, n_hits, candidates, left_out)

    def _finish(self, selection: _Selection, counts: Counter[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query, and add to the counts."""
        counts["hits"] += selection.n_hits
        counts.update({f"{LEFT_OUT}{reason}": n for reason, n in selection.left_out.items()})
        if len(selection.negatives) < self._wanted:
            counts[f"{SHORT}{selection.why_short(self._wanted)}"] += 1
            if not self.keep_short or not selection.negatives:
                return
            counts["short kept"] += 1
        negatives = selection.mixed()
        mined_by = [self.sources[negative.system].system.name for negative in negatives]
        for positive, (id_, score) in zip(selection.query.positives, selection.positives, strict=True):
            yield {**_row(selection.query.text, positive, id_, score, negatives), "mined_by": mined_by}

    def _choose(self, selections: Sequence[_Selection], counts: Counter[str]) -> None:
        """Choose each query's negatives: the first candidates that pass by their texts and cross-encoder logits.

        Fetching texts and running the cross-encoder dominate the cost, so each round tries only as many candidates as
        are still missing, for all queries together, until every query has enough or no more candidates.
        """
        limits = self._logit_limits(selections, counts)
        while batch := [
            (row, system, hit)
            for row, selection in enumerate(selections)
            for system, hit in selection.draw(self._wanted - len(selection.negatives))
        ]:
            texts = [
                source.texts(list(dict.fromkeys(hit.id for _, system, hit in batch if system == number)))
                for number, source in enumerate(self.sources)
            ]
            accepted = [
                (row, Candidate(hit.id, texts[system][hit.id].content, hit.score, system))
                for row, system, hit in batch
                if selections[row].accepts(system, texts[system][hit.id])
            ]
            logits = self._logits(
                [(selections[row].query.text, candidate.text) for row, candidate in accepted], counts
            )
            for (row, candidate), logit in zip(accepted, logits, strict=True):
                if logit <= limits[row]:
                    selections[row].negatives.append(candidate)
                else:
                    selections[row].reject(candidate.system, "cross_encoder")

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
        "mined_scores": [score if isfinite(score) else None, *(negative.score for negative in negatives)],
    }
