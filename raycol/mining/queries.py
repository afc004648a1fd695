"""Training queries with their positives, each query once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raycol.data.corpus import OnError, refuse
from raycol.data.examples import Example
from raycol.data.position import BadRecord


@dataclass(frozen=True, slots=True)
class Positive:
    """A document that answers a query, and the ids of both where there are any."""

    query_id: str | None
    id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query, all its positives, and the ids and texts of what else is no negative of it."""

    text: str
    positives: list[Positive] = field(default_factory=list)
    other_ids: list[str] = field(default_factory=list)
    other_texts: list[str] = field(default_factory=list)


QUERY_SCHEMA = pa.schema(
    {
        "query": pa.string(),
        "query_ids": pa.list_(pa.string()),
        "positive_ids": pa.list_(pa.string()),
        "positives": pa.list_(pa.string()),
        "other_ids": pa.list_(pa.string()),
        "other_texts": pa.list_(pa.string()),
    }
)


def to_row(query: TrainingQuery) -> dict[str, Any]:
    """A query as a row of `QUERY_SCHEMA`."""
    return {
        "query": query.text,
        "query_ids": [positive.query_id for positive in query.positives],
        "positive_ids": [positive.id for positive in query.positives],
        "positives": [positive.text for positive in query.positives],
        "other_ids": query.other_ids,
        "other_texts": query.other_texts,
    }


def from_row(row: dict[str, Any]) -> TrainingQuery:
    """Undo `to_row`."""
    columns = (row["query_ids"], row["positive_ids"], row["positives"])
    positives = [Positive(*values) for values in zip(*columns, strict=True)]
    return TrainingQuery(row["query"], positives, row["other_ids"], row["other_texts"])


def with_positives(examples: Iterable[Example], on_error: OnError, problems: list[BadRecord]) -> Iterator[Example]:
    """Examples but pairs labelled 0, which are noted among the problems.

    Raises:
        InputError: a label does not tell whether a pair is a positive, unless such are skipped.
    """
    for example in examples:
        try:
            if not example.is_unrelated():
                yield example
                continue
            problem = BadRecord(example.where, "its only document is labelled 0, so that it is no positive")
        except ValueError as error:
            problem = BadRecord(example.where, str(error))
            refuse(problem, on_error)
        problems.append(problem)


def group_queries(examples: Iterable[Example]) -> list[TrainingQuery]:
    """The queries of examples, in the order in which they come first; negatives that they have do not matter.

    Queries of one text become one, with the positives of all: whatever answers a question is no negative of it, also
    where it is asked twice. Of documents with scores the best is the positive; the first, and those as good as the
    best, may be positives too.
    """
    found: dict[str, TrainingQuery] = {}
    for example in examples:
        query = found.setdefault(example.query, TrainingQuery(example.query))
        best = example.scores.index(max(example.scores)) if example.scores else 0
        ids = example.document_ids
        query.positives.append(Positive(example.query_id, ids[best] if ids else None, example.documents[best]))
        for place, text in enumerate(example.documents):
            is_as_good = example.scores is not None and example.scores[place] == example.scores[best]
            if place != best and (place == 0 or is_as_good):
                query.other_ids.extend([ids[place]] if ids else [])
                query.other_texts.append(text)
    return list(found.values())
