"""Training queries with their positives, each query once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raycol.data.corpus import OnError, refuse
from raycol.data.examples import Example
from raycol.data.qrels import Qrels
from raycol.data.readers.reader import BadRecord


@dataclass(frozen=True, slots=True)
class Positive:
    """A document that answers a query, and the ids of both if they have ids."""

    query_id: str | None
    id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query, its positives, and the ids and texts of other documents that must not become negatives.

    `hits` are those of the systems that searched before the workers start, best first.
    """

    text: str
    positives: list[Positive] = field(default_factory=list)
    other_ids: list[str] = field(default_factory=list)
    other_texts: list[str] = field(default_factory=list)
    hits: list[list[tuple[str, float]]] = field(default_factory=list)


QUERY_SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "query_ids": pa.list_(pa.string()),
        "positive_ids": pa.list_(pa.string()),
        "positives": pa.list_(pa.string()),
        "other_ids": pa.list_(pa.string()),
        "other_texts": pa.list_(pa.string()),
        "hit_ids": pa.list_(pa.list_(pa.string())),
        "hit_scores": pa.list_(pa.list_(pa.float64())),
    }
)


def to_row(query: TrainingQuery) -> dict[str, Any]:
    """Convert a query to a row of `QUERY_SCHEMA`."""
    return {
        "query": query.text,
        "query_ids": [positive.query_id for positive in query.positives],
        "positive_ids": [positive.id for positive in query.positives],
        "positives": [positive.text for positive in query.positives],
        "other_ids": query.other_ids,
        "other_texts": query.other_texts,
        "hit_ids": [[id_ for id_, _ in found] for found in query.hits],
        "hit_scores": [[score for _, score in found] for found in query.hits],
    }


def from_row(row: dict[str, Any]) -> TrainingQuery:
    """Convert a row of `QUERY_SCHEMA` to a query."""
    columns = (row["query_ids"], row["positive_ids"], row["positives"])
    positives = [Positive(*values) for values in zip(*columns, strict=True)]
    hits = [list(zip(*found, strict=True)) for found in zip(row["hit_ids"], row["hit_scores"], strict=True)]
    return TrainingQuery(row["query"], positives, row["other_ids"], row["other_texts"], hits)


def with_positives(examples: Iterable[Example], on_error: OnError, problems: list[BadRecord]) -> Iterator[Example]:
    """Yield the examples except pairs labelled 0, which are appended to `problems`.

    Raises:
        InputError: a label is neither 0 nor 1, unless `on_error` is skip.
    """
    for example in examples:
        try:
            if not example.is_unrelated():
                yield example
                continue
            problem = BadRecord(example.where, "its only document is labelled 0, so it is not a positive")
        except ValueError as error:
            problem = BadRecord(example.where, str(error))
            refuse(problem, on_error)
        problems.append(problem)


def group_queries(examples: Iterable[Example]) -> list[TrainingQuery]:
    """Return the distinct queries of examples, in order of first appearance; negatives in the examples are ignored.

    Queries with the same text are merged, so that a positive of one is not a negative of another. Among documents with
    scores the best one is the positive; the first one, and those with the same score as the best, are never negatives.
    """
    queries: dict[str, TrainingQuery] = {}
    for example in examples:
        query = queries.setdefault(example.query, TrainingQuery(example.query))
        best = example.scores.index(max(example.scores)) if example.scores else 0
        ids = example.document_ids
        query.positives.append(Positive(example.query_id, ids[best] if ids else None, example.documents[best]))
        for position, text in enumerate(example.documents):
            is_tied = example.scores is not None and example.scores[position] == example.scores[best]
            if position != best and (position == 0 or is_tied):
                query.other_ids.extend([ids[position]] if ids else [])
                query.other_texts.append(text)
    return list(queries.values())


def exclude_judged(queries: Iterable[TrainingQuery], judged: Iterable[TrainingQuery]) -> None:
    """Add the positives of other examples to what is never a negative of the same query, matched by its text."""
    by_text = {query.text: query for query in judged}
    for query in queries:
        if other := by_text.get(query.text):
            query.other_ids.extend([*other.other_ids, *(positive.id for positive in other.positives if positive.id)])
            query.other_texts.extend([*other.other_texts, *(positive.text for positive in other.positives)])


def exclude_relevant(queries: Iterable[TrainingQuery], qrels: Qrels) -> None:
    """Add the documents that are judged relevant to what is never a negative of the same query, matched by its ids."""
    for query in queries:
        for query_id in dict.fromkeys(positive.query_id or "" for positive in query.positives):
            query.other_ids.extend(id_ for id_, grade in qrels.get(query_id, {}).items() if grade > 0)
