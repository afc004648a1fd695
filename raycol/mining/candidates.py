"""Select the hits of a search that may be negatives of its query. Plain functions, no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import xxhash

from raycol.data.text_store import Text
from raycol.index import Hit
from raycol.index.format.manifest import parent_document_id
from raycol.mining.queries import TrainingQuery
from raycol.mining.systems import NegativeRules


@dataclass(frozen=True)
class Exclusions:
    """What is never a negative of a query: its positives by id and by text, and its own text. Texts are normalized."""

    query: str
    ids: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, query: TrainingQuery) -> Exclusions:
        """Return the exclusions of a query."""
        ids = [*query.other_ids, *(positive.id for positive in query.positives if positive.id)]
        texts = [*query.other_texts, *(positive.text for positive in query.positives)]
        return cls(normalize(query.text), frozenset(ids), frozenset(map(normalize, texts)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that may be a negative, and its score by the system that found it, which is named by its number."""

    id: str
    text: str
    score: float
    system: int = 0


def normalize(text: str) -> str:
    """Return a text case-folded and with white space collapsed; texts that normalize to the same are duplicates."""
    return " ".join(text.split()).casefold()


def score_limits(positive: float, rules: NegativeRules) -> dict[str, float]:
    """Upper bounds of a negative's score, by the setting that imposes each.

    Args:
        positive: the lowest score of the query's positives; -inf if the system ranks one below all its hits.
        rules: the relative margin is a share of the absolute score, so that it also works for negative scores.
    """
    limits = {}
    if rules.margin is not None:
        limits["margin"] = positive - rules.margin
    if rules.relative_margin is not None:
        limits["relative_margin"] = positive - (abs(positive) * rules.relative_margin if positive > -inf else 0)
    if rules.max_score is not None:
        limits["max_score"] = rules.max_score
    return limits


def eligible_hits(
    hits: Sequence[Hit],
    exclusions: Exclusions,
    positive: float,
    rules: NegativeRules,
    left_out: Counter[str],
    *,
    split: bool = False,
) -> list[Hit]:
    """Return the hits that qualify as negatives by id and score, best first.

    Args:
        hits: of the window of ranks, best first.
        exclusions: of the query.
        positive: the lowest score of the query's positives.
        rules: bounds of a negative's score.
        left_out: incremented for each rejected hit, by reason.
        split: whether the index holds passages of split documents, whose ids end in the passage's number.
    """
    limits = score_limits(positive, rules)

    def rejection(hit: Hit) -> str | None:
        if hit.id in exclusions.ids or (split and parent_document_id(hit.id) in exclusions.ids):
            return "positive"
        if rules.min_score is not None and hit.score < rules.min_score:
            return "min_score"
        return next((name for name, limit in limits.items() if hit.score > limit), None)

    rejections = [rejection(hit) for hit in hits]
    left_out.update(filter(None, rejections))
    return [hit for hit, reason in zip(hits, rejections, strict=True) if reason is None]


def text_rejection(text: Text, exclusions: Exclusions, seen: Container[str]) -> str | None:
    """Return why a document of this text is rejected, or None; `seen` holds normalized texts of earlier candidates."""
    bare, whole = normalize(text.text), normalize(text.content)
    if not whole:
        return "no_text"
    if bare in exclusions.texts or whole in exclusions.texts:
        return "text_of_positive"
    if exclusions.query in (bare, whole):
        return "text_of_query"
    return "repeated_text" if whole in seen else None


def sampling_order(hits: Sequence[Hit], rules: NegativeRules, query: str) -> list[Hit]:
    """Return hits in the order in which they are tried: by score, or the best `pool` of them shuffled.

    The shuffle depends only on the seed, the query and the number of hits.
    """
    if rules.sampling == "top":
        return list(hits)
    pool = hits[: rules.pool]
    rng = np.random.default_rng([rules.seed % 2**64, xxhash.xxh3_64_intdigest(query.encode())])
    return [pool[position] for position in rng.permutation(len(pool))]


def next_system(taken: Mapping[int, int], weights: Sequence[float], available: Collection[int]) -> int:
    """Return which of the available systems gives the next negative, so that shares follow the weights.

    Args:
        taken: negatives of each system so far.
        weights: of the systems.
        available: numbers of those that have candidates left, at least one.
    """
    return min(available, key=lambda system: ((taken.get(system, 0) + 1) / weights[system], system))
