"""Mining the negatives of a part of the queries, as plain functions: encode, search, choose. No Ray.

A part's queries are encoded together, and its cross-encoder's pairs are batched inside it: so what comes out depends
on the part and the settings, not on who works or beside whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raycol.index import Hit, Index
from raycol.index.pooling import token_pooling
from raycol.mining.candidates import Candidate, Own, Rules, find_candidates, folded, in_turn
from raycol.mining.queries import Positive, TrainingQuery
from raycol.mining.texts import Text, Texts

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

# Queries that are searched for and chosen for together: bounds the texts that are held.
_BLOCK = 32
# Where documents were split, so many passages of one are looked for at a time.
_PASSAGES = 32

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
    rules: Rules
    from_rank: int
    to_rank: int
    keep_short: bool
    batch_size: int
    cross_encoder: PairScorer | None = None
    cross_encoder_margin: float = 0.0

    def __call__(self, queries: Sequence[TrainingQuery]) -> tuple[pa.Table, Counter[str]]:
        """The rows of a part, one a query and positive, and counts of what became of it.

        Counts: queries, pairs, rows, negatives; hits, and `left out: REASON` of them; `short: REASON` of queries, by
        what took most of their hits; positives encoded because the index lacks them.
        """
        counts: Counter[str] = Counter(queries=len(queries), pairs=sum(len(query.positives) for query in queries))
        encoded = self._encode([query.text for query in queries])
        rows = []
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            rows += self._mine(queries[block], encoded[block], counts)
        counts["rows"] = len(rows)
        counts["negatives"] = sum(len(row["negatives"]) for row in rows)
        return pa.Table.from_pylist(rows, MINED_SCHEMA), counts

    def _encode(self, queries: list[str]) -> list[NDArray[np.float32]]:
        made = self.encoder.encode_query(queries, batch_size=self.batch_size, show_progress_bar=False)
        return [query.float().cpu().numpy() for query in made]

    def _mine(
        self, queries: Sequence[TrainingQuery], encoded: list[NDArray[np.float32]], counts: Counter[str]
    ) -> list[dict[str, Any]]:
        found = self.index.search(encoded, self.to_rank, threads=1)
        window = [hits[self.from_rank - 1 :] for hits in found]
        texts = self.texts(list(dict.fromkeys(hit.id for hits in found for hit in hits)))
        scores = self._score_positives(queries, encoded, found, texts, counts)
        left_out: list[Counter[str]] = []
        turns = []
        for query, hits, positive_scores in zip(queries, window, scores, strict=True):
            own = Own.of(query)
            reasons: Counter[str] = Counter()
            lowest = min(score for _, score in positive_scores)
            turns.append(
                in_turn(find_candidates(hits, texts, own, lowest, self.rules, reasons), self.rules, query.text)
            )
            left_out.append(reasons)
        chosen = self._choose(queries, turns, left_out, counts)
        rows, wanted = [], self.rules.negatives
        for query, hits, positive_scores, negatives, reasons in zip(
            queries, window, scores, chosen, left_out, strict=True
        ):
            counts["hits"] += len(hits)
            counts.update({f"{LEFT_OUT}{reason}": n for reason, n in reasons.items()})
            if len(negatives) < wanted:
                counts[f"{SHORT}{_why(len(hits), wanted, reasons)}"] += 1
                if not self.keep_short or not negatives:
                    continue
                counts["short kept"] += 1
            pairs = zip(query.positives, positive_scores, strict=True)
            rows += [_row(query.text, positive, *found_as, negatives) for positive, found_as in pairs]
        return rows

    def _choose(
        self,
        queries: Sequence[TrainingQuery],
        turns: list[list[Candidate]],
        left_out: list[Counter[str]],
        counts: Counter[str],
    ) -> list[list[Candidate]]:
        """The negatives of each query, best first: the first of those whose turn it is that the cross-encoder passes.

        It is asked of as many as are still needed, all queries' together, until there are enough or no more.
        """
        wanted, cross_encoder = self.rules.negatives, self.cross_encoder
        if cross_encoder is None:
            return [_best_first(turn[:wanted]) for turn in turns]

        def logits(pairs: list[tuple[str, str]]) -> list[float]:
            counts["pairs scored"] += len(pairs)
            return cross_encoder(pairs).tolist()  # type: ignore[no-any-return]

        own = iter(logits([(query.text, each.text) for query in queries for each in query.positives]))
        at_most = [min(islice(own, len(query.positives))) - self.cross_encoder_margin for query in queries]
        chosen: list[list[Candidate]] = [[] for _ in queries]
        waiting = [iter(turn) for turn in turns]
        while asked := [
            (place, candidate)
            for place, turn in enumerate(waiting)
            for candidate in islice(turn, wanted - len(chosen[place]))
        ]:
            found = logits([(queries[place].text, candidate.text) for place, candidate in asked])
            for (place, candidate), logit in zip(asked, found, strict=True):
                if logit <= at_most[place]:
                    chosen[place].append(candidate)
                else:
                    left_out[place]["cross_encoder"] += 1
        return [_best_first(each) for each in chosen]

    def _score_positives(
        self,
        queries: Sequence[TrainingQuery],
        encoded: list[NDArray[np.float32]],
        found: list[list[Hit]],
        texts: Mapping[str, Text],
        counts: Counter[str],
    ) -> list[list[tuple[str | None, float]]]:
        """The id and score of every positive: the index's where it has it, else the score of its text, encoded.

        The index has it where it knows the id, or where a hit has its text.
        """
        by_id = self._score_known(queries, encoded)
        by_text = [{folded(texts[hit.id].content): hit for hit in reversed(hits)} for hits in found]
        scores: list[list[tuple[str | None, float] | None]] = []
        lacking = []
        for place, query in enumerate(queries):
            scores.append([])
            for positive in query.positives:
                hit = by_text[place].get(folded(positive.text))
                if positive.id in by_id[place]:
                    scores[-1].append((positive.id, by_id[place][positive.id]))
                elif hit:
                    scores[-1].append((positive.id or hit.id, hit.score))
                else:
                    scores[-1].append(None)
                    lacking.append((place, positive.text))
        counts["positives encoded"] += len(lacking)
        made = self._score_texts(lacking, encoded)
        return [
            [
                each or (positive.id, made[place, positive.text])
                for each, positive in zip(of_query, query.positives, strict=True)
            ]
            for place, (of_query, query) in enumerate(zip(scores, queries, strict=True))
        ]

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
            names = [[f"{id_}#{number}" for id_ in of_one for number in numbers] for of_one in waiting]
            ranked = self.index.rerank(encoded, names, on_unknown="ignore", threads=1)
            for place, hits in enumerate(ranked):
                there = set()
                for hit in hits:
                    parent = hit.id.rpartition("#")[0]
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


def _best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.id))


def _why(hits: int, wanted: int, reasons: Counter[str]) -> str:
    """Why a query has too few negatives: what took most of its hits."""
    if hits < wanted:
        return "few hits"
    return min(reasons, key=lambda reason: (-reasons[reason], reason))


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
