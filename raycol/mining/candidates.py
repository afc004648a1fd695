"""Which hits of a search may be negatives of its query, and in which order they are taken. Plain functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xxhash

from raycol.index import Hit
from raycol.index.format.manifest import parent_document_id
from raycol.mining.queries import TrainingQuery
from raycol.mining.texts import Text


@dataclass(frozen=True)
class NegativeRules:
    """What is asked of negatives: settings of `MineConfig` by the same names."""

    negatives: int
    margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0


@dataclass(frozen=True)
class Own:
    """What is no negative of a query: its positives by their ids and texts, and the query itself."""

    query: str
    ids: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, query: TrainingQuery) -> Own:
        """Of a query and its positives."""
        ids = [*query.other_ids, *(positive.id for positive in query.positives if positive.id)]
        texts = [*query.other_texts, *(positive.text for positive in query.positives)]
        return cls(folded(query.text), frozenset(ids), frozenset(map(folded, texts)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that may be a negative, and its score from the index."""

    id: str
    text: str
    score: float


def folded(text: str) -> str:
    """A text without what does not tell it from another one: capitals and white space."""
    return " ".join(text.split()).casefold()


def limits(positive: float, rules: NegativeRules) -> dict[str, float]:
    """The scores that a negative may have at most, by the setting that says so.

    Args:
        positive: the lowest score among the query's positives.
        rules: a relative margin is of the positive's size, so that it is one for scores below zero too.
    """
    found = {}
    if rules.margin is not None:
        found["margin"] = positive - rules.margin
    if rules.relative_margin is not None:
        found["relative_margin"] = positive - abs(positive) * rules.relative_margin
    if rules.max_score is not None:
        found["max_score"] = rules.max_score
    return found


def possible_hits(
    hits: Sequence[Hit],
    own: Own,
    positive: float,
    rules: NegativeRules,
    left_out: Counter[str],
    *,
    split: bool = False,
) -> list[Hit]:
    """The hits that may be negatives by their ids and scores, best first.

    Args:
        hits: of the window of ranks, best first.
        own: what is no negative.
        positive: the lowest score among the query's positives.
        rules: what is asked of the others.
        left_out: receives how many were not taken, by the reason.
        split: documents were split, so an id ends in the number of a passage.
    """
    at_most = limits(positive, rules)

    def reason(hit: Hit) -> str | None:
        if hit.id in own.ids or (split and parent_document_id(hit.id) in own.ids):
            return "positive"
        if rules.min_score is not None and hit.score < rules.min_score:
            return "min_score"
        return next((name for name, limit in at_most.items() if hit.score > limit), None)

    reasons = [reason(hit) for hit in hits]
    left_out.update(filter(None, reasons))
    return [hit for hit, why in zip(hits, reasons, strict=True) if why is None]


def text_reason(text: Text, own: Own, taken: Container[str]) -> str | None:
    """Why a document of this text is no negative, if so; `taken` has the texts of others, folded."""
    bare, whole = folded(text.text), folded(text.content)
    if not whole:
        return "no_text"
    if bare in own.texts or whole in own.texts:
        return "text_of_positive"
    if own.query in (bare, whole):
        return "text_of_query"
    return "repeated_text" if whole in taken else None


def in_turn(hits: Sequence[Hit], rules: NegativeRules, query: str) -> list[Hit]:
    """The order in which hits are tried, until there are enough: by score, or by chance.

    Chance depends on the seed, the query and how many hits there are, on nothing else.
    """
    if rules.sampling == "top":
        return list(hits)
    rng = np.random.default_rng([rules.seed % 2**64, xxhash.xxh3_64_intdigest(query.encode())])
    return [hits[place] for place in rng.permutation(len(hits))]
