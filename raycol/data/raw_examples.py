"""Parse the training examples of one record: validate its cells and align ids and scores with the documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raycol.data.cells import read_id, read_ids, read_scores, read_text, read_texts
from raycol.data.columns import EXPECTED, Columns


@dataclass(frozen=True, slots=True)
class RawExample:
    """An example as read from a record, before ids are resolved: texts that are None are looked up by id."""

    query: str | None = None
    query_id: str | None = None
    documents: tuple[str, ...] | None = None
    document_ids: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    positive_first: bool = True


def parse_examples(record: dict[str, Any], columns: Columns) -> list[RawExample]:
    """The examples of a record, one per positive. Raises `ValueError` if the record is unusable."""
    if columns.by_position:
        for name in columns.names():
            if name != columns.scores and not isinstance(record.get(name), str | None):
                raise ValueError(
                    f"{name!r} is {record[name]!r:.100}, which is not a text, and no column name is known; "
                    f"expected {EXPECTED}"
                )
    query = read_text(record.get(columns.query), columns.query) if columns.query else None
    query_id = None
    if columns.query_id and (query is None or record.get(columns.query_id) is not None):
        query_id = read_id(record.get(columns.query_id), columns.query_id)
    texts = _texts(record, columns) if columns.has_texts else None
    ids = _ids(record, columns, texts)
    groups = texts or ids or [()]
    n_positives, n_documents = len(groups), len(groups[0])
    if not n_documents:
        raise ValueError(f"no documents in {', '.join(map(repr, columns.names()))}; expected at least one")
    scores = None
    if columns.by_position and texts and query and all(map(str.isdecimal, (query, *texts[0]))):
        raise ValueError(
            f"holds integers ({query}, {texts[0][0]}), but no column name marks them as ids; name the columns "
            "query_id, positive_id, negative_id, or map them in 'columns'"
        )
    if columns.scores and (labeled := _split_by_label(record, columns, texts)):
        return [RawExample(query, query_id, documents) for documents in labeled]
    if columns.scores:
        if n_positives > 1:
            raise ValueError(f"{columns.scores!r} of {n_positives} positives; expected a single positive")
        scores = _scores(record.get(columns.scores), columns, n_documents)
    return [
        RawExample(
            query,
            query_id,
            texts[number] if texts else None,
            ids[number] if ids else None,
            scores,
            columns.has_positive,
        )
        for number in range(n_positives)
    ]


def _split_by_label(record: dict[str, Any], columns: Columns, texts: _Groups | None) -> _Groups | None:
    """Groups of a list of documents labelled 0 or 1: each positive with all negatives. None for other layouts."""
    labels = record.get(str(columns.scores))
    if not texts or len(texts) < 2 or columns.others or not isinstance(labels, list | tuple | np.ndarray):
        return None
    documents = [positive for positive, *_ in texts]
    if len(labels) != len(documents) or any(label not in (0, 1) for label in labels):
        return None
    negatives = [text for text, label in zip(documents, labels, strict=True) if not label]
    positives = [text for text, label in zip(documents, labels, strict=True) if label]
    if not positives:
        raise ValueError(f"{columns.scores!r} has no 1; expected a positive")
    return [(positive, *negatives) for positive in positives]


# Documents (texts or ids) for each positive of a record: the positive, then the others.
_Groups = list[tuple[str, ...]]


def _texts(record: dict[str, Any], columns: Columns) -> _Groups:
    def read(name: str) -> list[str]:
        return read_texts(record.get(name), name, is_list=columns.is_list(name))

    others = [text for name in columns.others for text in read(name)]
    if not columns.positive:
        return [tuple(others)]
    positives = read(columns.positive)
    if not positives:
        raise ValueError(f"{columns.positive!r} is {record.get(columns.positive)!r}; expected a non-empty string")
    return [(positive, *others) for positive in positives]


def _ids(record: dict[str, Any], columns: Columns, texts: _Groups | None) -> _Groups | None:
    """Ids of the documents. With texts, ids are optional: None unless every document has one."""

    def read(name: str | None) -> list[str]:
        return read_ids(record.get(name), name, is_list=columns.is_list(name)) if name else []

    positives = read(columns.positive_ids)
    negatives = [id_ for name in columns.negative_ids for id_ in read(name)]
    documents = read(columns.document_ids) or [*positives, *negatives]
    if texts is None:
        n_positives = len(positives) if columns.positive_ids else 1
        n_documents = len(documents)
    else:
        n_positives = len(texts)
        n_documents = len(texts[0]) + n_positives - 1
        if len(documents) in (0, len(positives)) and n_documents > len(positives):
            return None
        if len(documents) != n_documents or (positives and len(positives) != n_positives):
            raise ValueError(f"{len(documents)} ids for {n_documents} documents; expected one id for each")
    if not columns.has_positive:
        return [tuple(documents)]
    return [(positive, *documents[n_positives:]) for positive in documents[:n_positives]]


def _scores(value: Any, columns: Columns, n_documents: int) -> tuple[float, ...]:
    name = str(columns.scores)
    scores = read_scores(value, name)
    if columns.has_positive and len(scores) == n_documents - 1:
        # Margins of the positive over each negative: losses depend on score differences only.
        return (0.0, *(-margin for margin in scores))
    if len(scores) != n_documents:
        margins = f", or {n_documents - 1} margins of the first over the others" if columns.has_positive else ""
        raise ValueError(f"{name!r} has {len(scores)} scores for {n_documents} documents; expected one each{margins}")
    return tuple(scores)
