"""Read queries into texts by id: from JSON Lines, CSV, TSV, Parquet, or a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from raycol.data.cells import read_id
from raycol.data.columns import first_match
from raycol.data.readers.delimited import default_names
from raycol.data.readers.reader import CorpusFile, as_object
from raycol.errors import InputError

_IDS = ("_id", "id", "query_id", "query-id", "qid")
_TEXTS = ("text", "query", "question")


class Query(NamedTuple):
    """A query, and where it was read, for messages. The text is not validated yet."""

    where: str
    id: str
    text: Any


def read_queries(
    source: str | Path | CorpusFile, ids: Collection[str] | None = None, notes: list[str] | None = None
) -> dict[str, str]:
    """Read queries into texts by id.

    Args:
        source: a file, compressed or not; a path is a file of JSON Lines.
        ids, notes: as in `collect_queries`.

    Raises:
        InputError: the file cannot be read, a record has no id, or as `collect_queries`.
    """
    file = source if isinstance(source, CorpusFile) else CorpusFile(str(source), "jsonl")
    return collect_queries(_scan(file), file, ids, notes)


def collect_queries(
    queries: Iterable[Query], source: object, ids: Collection[str] | None = None, notes: list[str] | None = None
) -> dict[str, str]:
    """Return texts by id, in the order of `ids`.

    Args:
        queries: the queries.
        source: where they come from, for messages.
        ids: keep only these queries, the judged ones; the others are not validated. By default all.
        notes: receives the number of the others.

    Raises:
        InputError: a query has no text or is repeated, or one of `ids` is missing.
    """
    texts: dict[str, str] = {}
    others = 0
    for where, id_, text in queries:
        if ids is not None and id_ not in ids:
            others += 1
            continue
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: query {id_!r} has no text")
        if id_ in texts:
            raise InputError(f"{where}: duplicate query id {id_!r}; keep one line for each query")
        texts[id_] = text
    if ids is None:
        return texts
    if missing := next((id_ for id_ in ids if id_ not in texts), None):
        raise InputError(f"{source}: no query {missing!r}, which is judged")
    if notes is not None and others:
        notes.append(f"{others} of {others + len(texts)} queries of {source} have no judgements and are left out")
    return {id_: texts[id_] for id_ in ids}


def _scan(file: CorpusFile) -> Iterator[Query]:
    for position, row in file.rows(lambda names: _select(file, names), default_names(file.format, _is_known)):
        where = file.where(position.number)
        try:
            record = as_object(row)
            name, text = _roles(tuple(record))
            if name is None:
                raise ValueError("no '_id' (or 'id')")
            id_ = read_id(record[name], name)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from None
        yield Query(where, id_, record[text] if text else None)


def _is_known(name: str) -> bool:
    return name.lower() in (*_IDS, *_TEXTS)


def _select(file: CorpusFile, names: list[str]) -> list[str]:
    columns = _roles(tuple(names))
    if None in columns:
        raise InputError(f"{file}: no column for the id or the text of queries among {', '.join(names)}")
    return [name for name in columns if name]


@lru_cache
def _roles(names: tuple[str, ...]) -> tuple[str | None, str | None]:
    """Names of the id and the text among the names of a record's fields."""
    return first_match(_IDS, names), first_match(_TEXTS, names)
