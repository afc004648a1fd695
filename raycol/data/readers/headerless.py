"""Training examples whose columns have no names: whether a first line is names or data, and what each column is.

A column's values decide, those of the file's first rows: whole numbers are ids, and so is what the lookups have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from raycol.data.columns import find_columns, is_known, is_name, list_names
from raycol.data.corpus import MAX_ID_BYTES
from raycol.data.lookup import Role
from raycol.data.readers.delimited import is_header, is_number

_WHOLE = re.compile(r"\d+")
# The highest grade that judgements have.
_HIGHEST_GRADE = 4
_REMEDY = "put a header above it, such as query_id, positive_id, negative_id, or query, positive, negative"

Has = Callable[[Role, str], bool]


def names_examples(first: Sequence[str]) -> bool:
    """Whether a first row names columns of training examples by their usual names."""
    if not is_header(first, is_known):
        return False
    try:
        find_columns(tuple(first), positions=False)
    except ValueError:  # names of which one is missing, or a text that is a usual name
        return reads_as_names(first)
    return True


def reads_as_names(first: Sequence[str]) -> bool:
    """Whether a first row may be names, if unusual ones: single words, none of them a number."""
    return all(not field or (is_name(field) and not is_number(field)) for field in first)


def refuse_nameless_ids(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Raise `ValueError` where columns of unknown names hold whole numbers, which would be taken for texts."""
    if not any(map(is_known, names)) and len(names) > 1 and rows and all(map(_are_ids, _columns(rows, names)[:2])):
        raise ValueError(
            f"the columns {list_names(names)} hold whole numbers, but none is known by its name; name them query_id, "
            "positive_id, negative_id"
        )


def name_by_position(rows: Sequence[Sequence[str]], has: Has) -> list[str]:
    """Names for columns without any: a query, a positive and negatives, each a text or an id, and perhaps a score.

    Args:
        rows: the first ones.
        has: whether the lookup of queries or of documents has an id.

    Raises:
        ValueError: too few columns, or rows that are judgements.
    """
    first = rows[0]
    if len(first) < 2:
        raise ValueError(f"one column and no known name ({list_names(first)}); {_REMEDY}")
    query, *others = _columns(rows, first)
    for number, column in enumerate([query, *others[:-1]], start=1):
        if _are_scores(column):
            raise ValueError(f"column {number} holds fractions, and no name tells what they are; {_REMEDY}")
    if _are_judgements(query, others):
        raise ValueError(
            "reads as judgements or a ranking (a query id, a document id and a grade, rank or score); expected "
            "training examples: judgements belong into a BEIR folder as qrels/train.tsv; if these are triples of ids, "
            + _REMEDY
        )
    query_is_id = _are_ids(query) or _are_found(query, "query", has)
    # A last column of whole numbers is a document's id beside ids, a score beside texts.
    scored = _are_scores(others[-1]) or (_are_ids(others[-1]) and not _are_ids(others[0]))
    scores = [others.pop()] if len(others) > 1 and scored else []
    ids = all(map(_are_ids, others)) or all(_are_found(column, "document", has) for column in others)
    suffix = "_id" if ids else ""
    negatives = [f"negative{suffix}_{number}" for number in range(1, len(others))]
    return ["query_id" if query_is_id else "query", f"positive{suffix}", *negatives, *(["score"] if scores else [])]


def _are_judgements(query: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether rows are one of TREC's four columns, or ids of a query and a document with a grade, rank or score."""
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
    """The values of each column, of rows that are as long as the first."""
    whole = [row for row in rows if len(row) == len(first)] or [[""] * len(first)]
    return [list(column) for column in zip(*whole, strict=True)]


def _are_scores(values: Sequence[str]) -> bool:
    """Whether values are numbers, and not all of them whole."""
    return all(map(is_number, values)) and not _are_ids(values)


def _are_ids(values: Sequence[str]) -> bool:
    return all(map(_WHOLE.fullmatch, values))


def _are_found(values: Sequence[str], role: Role, has: Has) -> bool:
    """Whether values may be ids, and the first of them is one."""
    if any(len(value) > MAX_ID_BYTES or re.search(r"\s", value) for value in values):
        return False
    return has(role, values[0])
