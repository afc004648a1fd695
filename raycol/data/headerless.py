"""Training examples without column names: tell a header from data, and infer the role of each column.

Roles follow from the values in the first rows: integers are ids, and so are values that exist as ids in the queries or
documents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from raycol.core.validation import MAX_ID_BYTES
from raycol.data.columns import Role, find_columns, is_known, may_be_name, quote_names
from raycol.data.readers.delimited import is_header, is_number

_INTEGER = re.compile(r"\d+")
# Highest relevance grade expected in judgements.
_HIGHEST_GRADE = 4
_REMEDY = "add a header such as query_id, positive_id, negative_id, or query, positive, negative"

HasId = Callable[[Role, str], bool]


def is_example_header(first: Sequence[str]) -> bool:
    """Whether a first row has the common column names of training examples."""
    if not is_header(first, is_known):
        return False
    try:
        find_columns(tuple(first), allow_positional=False)
    except ValueError:  # a header that lacks a column, or data with a text that is also a common name
        return may_be_header(first)
    return True


def may_be_header(first: Sequence[str]) -> bool:
    """Whether a first row may be a header of unknown names: all fields are single words, none is a number."""
    return all(not field or (may_be_name(field) and not is_number(field)) for field in first)


def refuse_unnamed_ids(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` if columns of unknown names hold integers, which would be read as texts."""
    if not any(map(is_known, names)) and len(names) > 1 and rows and all(map(_are_ids, _columns(rows, names)[:2])):
        raise ValueError(
            f"the columns {quote_names(names)} hold integers, but no name is known; name them query_id, positive_id, "
            "negative_id"
        )


def name_by_position(rows: Sequence[Sequence[str]], has_id: HasId) -> list[str]:
    """Names for unnamed columns: a query, a positive, negatives (each a text or an id) and optionally a score.

    Args:
        rows: the first rows.
        has_id: whether an id is among the queries, or the documents.

    Raises:
        ValueError: too few columns, or the rows are judgements.
    """
    first = rows[0]
    if len(first) < 2:
        raise ValueError(f"a single column of no known name ({quote_names(first)}); {_REMEDY}")
    query, *others = _columns(rows, first)
    for number, column in enumerate([query, *others[:-1]], start=1):
        if _are_scores(column):
            raise ValueError(f"column {number} holds fractions of unknown meaning; {_REMEDY}")
    if _are_judgements(query, others):
        raise ValueError(
            "looks like judgements or a ranking (a query id, a document id and a grade, rank or score); expected "
            "training examples: put judgements into a BEIR folder as qrels/train.tsv; for triples of ids, " + _REMEDY
        )
    query_is_id = _are_ids(query) or _are_known_ids(query, "query", has_id)
    # A last column of integers holds document ids next to ids, and scores next to texts.
    scored = _are_scores(others[-1]) or (_are_ids(others[-1]) and not _are_ids(others[0]))
    scores = [others.pop()] if len(others) > 1 and scored else []
    ids = all(map(_are_ids, others)) or all(_are_known_ids(column, "document", has_id) for column in others)
    suffix = "_id" if ids else ""
    negatives = [f"negative{suffix}_{number}" for number in range(1, len(others))]
    return ["query_id" if query_is_id else "query", f"positive{suffix}", *negatives, *(["score"] if scores else [])]


def _are_judgements(query: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether rows are TREC's four columns, or a query id, a document id and a grade, rank or score."""
    if len(others) == 3 and set(others[0]) in ({"0"}, {"Q0"}):
        return True
    if len(others) != 2 or not _are_ids(query) or not _are_ids(others[0]):
        return False
    last = others[1]
    graded = all(re.fullmatch(rf"-?[0-{_HIGHEST_GRADE}]", grade) for grade in last) and len(set(last)) < len(last)
    seen: Counter[str] = Counter()
    ranks = []
    for query_id in query:
        seen[query_id] += 1
        ranks.append(str(seen[query_id]))
    ranked = max(seen.values()) > 1 and ranks == list(last)
    return graded or ranked or _are_scores(last)


def _columns(rows: Sequence[Sequence[str]], first: Sequence[str]) -> list[list[str]]:
    """Values of each column, from the rows that are as long as the first."""
    complete = [row for row in rows if len(row) == len(first)] or [[""] * len(first)]
    return [list(column) for column in zip(*complete, strict=True)]


def _are_scores(values: Sequence[str]) -> bool:
    """Whether all values are numbers and not all are integers."""
    return all(map(is_number, values)) and not _are_ids(values)


def _are_ids(values: Sequence[str]) -> bool:
    return all(map(_INTEGER.fullmatch, values))


def _are_known_ids(values: Sequence[str], role: Role, has_id: HasId) -> bool:
    """Whether all values may be ids and the first one exists."""
    if any(len(value) > MAX_ID_BYTES or re.search(r"\s", value) for value in values):
        return False
    return has_id(role, values[0])
