"""Take training examples from a batch of a table by column, without a Python object per row.

Only plain layouts are taken: texts in columns of known names, with teacher scores if the objective needs them. Any
other batch, and one with a value that is unusable or merely unusual, is left to the parser of rows, which also words
the errors. For a batch that both take, the results are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycol.core.validation import MAX_ID_BYTES
from raycol.data.columns import Columns
from raycol.training.example_table import ExampleTable, lists

# Limit on the texts of a batch once a dictionary is decoded, in bytes.
_LARGEST_DECODED = 1 << 26

Lengths = NDArray[np.int64]


class Taken(NamedTuple):
    """The examples of a batch, and the number of documents beyond `n_ways`."""

    table: ExampleTable
    documents_left_out: int


class _Lists(NamedTuple):
    """The values of a column, and how many of them each row has."""

    lengths: Lengths
    values: pa.Array


def take_examples(
    batch: pa.RecordBatch, where: pa.Array, columns: Columns, n_ways: int | None, distils: bool
) -> Taken | None:
    """Return the examples of a batch, or None if its rows must be parsed.

    Args:
        batch: rows of a table.
        where: position of each row, for messages.
        columns: roles of the columns.
        n_ways: maximum number of documents per example.
        distils: whether examples need teacher scores.
    """
    has_names = columns.query and columns.has_texts and not columns.by_position
    if not has_names or bool(columns.scores) != distils or len(set(batch.schema.names)) < len(batch.schema.names):
        return None
    query = _texts(batch.column(columns.query))
    names = [columns.positive] if columns.positive else []
    parts = [_text_lists(batch.column(name), columns.is_list(name)) for name in (*names, *columns.others) if name]
    if query is None or not all(parts):
        return None
    lengths = sum((part.lengths for part in parts if part), np.zeros(len(batch), np.int64))
    if (columns.positive and (parts[0].lengths != 1).any()) or (lengths < 1 + distils).any():  # type: ignore[union-attr]
        return None
    scores = _scores(batch.column(columns.scores), lengths) if columns.scores else None
    if (distils and scores is None) or not _have_ids(batch, columns, lengths):
        return None
    rows = _interleave([part.lengths for part in parts if part], lengths)
    n_documents = lengths.sum()
    if n_ways and lengths.max(initial=0) > n_ways:
        kept = _select(lengths, n_ways, None if columns.has_positive else scores)
        if kept is None:
            return None
        rows, lengths = rows[kept], np.minimum(lengths, n_ways)
        scores = scores[kept] if scores is not None else None
    table = ExampleTable.make(
        pa.concat_arrays([query, *(part.values for part in parts if part)]),
        np.arange(len(batch)),
        lists(lengths, pa.array((rows + len(batch)).astype(np.int32))),
        None if scores is None else lists(lengths, pa.array(scores.astype(np.float32))),
        where,
    )
    return Taken(table, int(n_documents - lengths.sum()))


def _interleave(parts: list[Lengths], lengths: Lengths) -> Lengths:
    """Positions, in the concatenated values of all columns, of the values of the first row, the second, and so on."""
    starts = np.cumsum(lengths) - lengths
    positions = np.empty(lengths.sum(), np.int64)
    first = 0
    for part in parts:
        n = part.sum()
        within = np.arange(n) - np.repeat(np.cumsum(part) - part, part)
        positions[np.repeat(starts, part) + within] = first + np.arange(n)
        starts, first = starts + part, first + n
    return positions


def _select(lengths: Lengths, n_ways: int, scores: NDArray[np.float64] | None) -> Lengths | None:
    """Positions of the documents to keep: the first of each row, and that with the highest of `scores`, if given."""
    if scores is None:
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.flatnonzero(within < n_ways)
    if (lengths != lengths[0]).any():
        return None
    best = scores.reshape(len(lengths), -1).argmax(axis=1)
    kept = np.tile(np.arange(n_ways), (len(lengths), 1))
    kept[:, -1] = np.maximum(best, n_ways - 1)
    positions: Lengths = (kept + lengths[0] * np.arange(len(lengths))[:, None]).ravel()
    return positions


def _texts(column: pa.Array) -> pa.Array | None:
    """The column as large strings if all are UTF-8 and not blank, otherwise None."""
    if pa.types.is_dictionary(column.type):
        if column.null_count or not _is_text(column.type.value_type):
            return None
        if (pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0) > _LARGEST_DECODED:
            return None
        column = column.dictionary_decode()
    if not _is_text(column.type) or column.null_count:
        return None
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if not len(column):
        return column.cast(pa.large_string())
    # `utf8_is_space` agrees with `str.isspace`; it is false for an empty text.
    is_blank = pc.min(pc.binary_length(column)).as_py() == 0 or pc.any(pc.utf8_is_space(column)).as_py()
    return None if is_blank else column.cast(pa.large_string())


def _text_lists(column: pa.Array, is_list: bool) -> _Lists | None:
    """The texts of each row of a column of texts or lists of texts; a row may have none."""
    if _is_list(column.type):
        lengths, values = _flat(column)
    elif is_list:  # serialised lists
        return None
    elif pa.types.is_dictionary(column.type):
        lengths, values = np.ones(len(column), np.int64), column
    else:
        lengths, values = column.is_valid().to_numpy(zero_copy_only=False).astype(np.int64), column.drop_null()
    texts = _texts(values)
    return None if texts is None else _Lists(lengths, texts)


def _flat(column: pa.Array) -> _Lists:
    """Length of each list of a column, 0 for null, and the values of all."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return _Lists(lengths, column.flatten())


def _scores(column: pa.Array, lengths: Lengths) -> NDArray[np.float64] | None:
    """The scores of all documents, if each has one, finite; otherwise None."""
    if not _is_list(column.type) or column.null_count:
        return None
    own, values = _flat(column)
    is_number = pa.types.is_floating(values.type) or pa.types.is_integer(values.type)
    if not is_number or values.null_count or (own != lengths).any():
        return None
    scores = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return scores if np.isfinite(scores).all() else None


def _have_ids(batch: pa.RecordBatch, columns: Columns, lengths: Lengths) -> bool:
    """Whether all ids are valid, and there is one for each document, or for the positive only, or for none."""
    if columns.query_id and (
        _is_list(batch.column(columns.query_id).type) or _n_ids(batch.column(columns.query_id), False) is None
    ):
        return False
    names = (columns.document_ids, columns.positive_ids, *columns.negative_ids)
    total = np.zeros_like(lengths)
    for name in filter(None, names):
        count = _n_ids(batch.column(name), columns.is_list(name))
        if count is None or (name == columns.positive_ids and (count != 1).any()):
            return False
        total += count
    others = (columns.document_ids, *columns.negative_ids)
    return bool((total == lengths).all()) or not any(others)


def _n_ids(column: pa.Array, is_list: bool) -> Lengths | None:
    """Number of ids of each row of a column of ids or lists of ids; None if one may be invalid."""
    if _is_list(column.type):
        lengths, values = _flat(column)
    elif is_list and _is_text(column.type):  # serialised lists
        return None
    else:
        lengths = column.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        values = column.drop_null()
    if values.null_count or not (pa.types.is_integer(values.type) or _is_text(values.type)):
        return None
    if _is_text(values.type) and len(values):
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            return None
        shortest, longest = pc.min_max(pc.binary_length(values)).values()
        if shortest.as_py() == 0 or longest.as_py() > MAX_ID_BYTES:
            return None
    return lengths


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
