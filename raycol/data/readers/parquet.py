"""Rows of Parquet files, from any row on, and only the columns that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycol.data.files import open_file
from raycol.data.position import START, Position
from raycol.errors import InputError

_ROWS = 512
# Bytes of each column that are read ahead.
_BUFFER = 1 << 20
# Bytes of a column in a row group above which it may hold a value too large to repeat for each row.
_LARGE = 1 << 20
# So many bytes of a row group are little.
_CHEAP = 64 << 20


def read_parquet(
    uri: str, choose: Callable[[list[str]], list[str]], start: Position = START
) -> Iterator[tuple[Position, dict[str, Any]]]:
    """Yield rows from `start` with their positions; `choose` picks from the names of columns.

    Lists of numbers come as NumPy arrays, timestamps without a time zone as UTC. An empty file has no rows.

    Raises:
        InputError: no such file, or not Parquet.
    """
    with open_file(uri) as raw:
        if not raw.size():
            return
        # A row group's columns are read as they are needed, not whole: there may be only one in a large file.
        file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BUFFER)
        names = choose(file.schema_arrow.names)
        if shared := _may_repeat_large_values(file, names):
            file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BUFFER, read_dictionary=shared)
        first = 0
        groups: list[int] = []
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            if not groups and first + n_rows <= start.offset:
                first += n_rows
            else:
                groups.append(group)
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=names):
            before = min(max(0, start.offset - first), batch.num_rows)
            rows = records_of(batch, uri) if before < batch.num_rows else {}
            for number in range(before, batch.num_rows):
                position = Position(first + number, first + number + 1)
                yield position, {name: rows[name][number] for name in names}
            first += batch.num_rows


def _may_repeat_large_values(file: pq.ParquetFile, names: list[str]) -> list[str]:
    """Columns of texts that a file may hold once for many rows, and that fill memory where each row gets its own."""
    found = set()
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        for number in range(metadata.num_columns):
            column = metadata.column(number)
            if (
                column.path_in_schema in names
                and column.physical_type == "BYTE_ARRAY"
                and column.total_uncompressed_size > _LARGE
                and column.has_dictionary_page
            ):
                found.add(column.path_in_schema)
    return sorted(found)


def n_rows(uri: str) -> int:
    """How many rows a file has."""
    with open_file(uri) as raw:
        return int(pq.ParquetFile(raw).metadata.num_rows) if raw.size() else 0


def cheap_rows(uri: str, rows: list[int]) -> list[int]:
    """For each row one at or before it for which little of its row group is to be read first; each once."""
    with open_file(uri) as raw:
        metadata = pq.ParquetFile(raw).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    ends = np.cumsum([group.num_rows for group in groups])
    found = set()
    for row in rows:
        number = int(np.searchsorted(ends, row, side="right"))
        group = groups[number]
        cheap = _CHEAP * group.num_rows // max(1, group.total_byte_size)
        found.add(min(row, int(ends[number]) - group.num_rows + cheap))
    return sorted(found)


def records_of(batch: pa.RecordBatch, where: object) -> dict[str, Any]:
    """A batch's columns, each a sequence of Python values; lists of numbers stay arrays.

    Raises:
        InputError: a column holds what Python has no value for.
    """
    records = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            records[name] = _values(column)
        except (ValueError, OverflowError, LookupError) as error:
            raise InputError(f"{where}: column {name!r} of type {column.type} cannot be read ({error})") from None
    return records


def _values(column: pa.Array) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        used = column.indices.unique().drop_null()
        values = dict(zip(used.to_pylist(), _values(column.dictionary.take(used)), strict=True))
        return [None if index is None else values[index] for index in column.indices.to_pylist()]
    if pa.types.is_timestamp(kind) and (kind.tz is None or kind.unit == "ns"):
        unit = "us" if kind.unit == "ns" else kind.unit  # Python has no nanoseconds
        column = column.cast(pa.timestamp(unit, tz=kind.tz or "UTC"), safe=False)
    if _is_list(kind) and _is_number(_innermost(kind)):
        return [as_array(scalar) for scalar in column]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise
        # What is not UTF-8 turns into halves of surrogate pairs, which the checks of a passage refuse.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]


def as_array(scalar: pa.ListScalar) -> Any:
    """Rows of numbers as an array [tokens, dim] (or [n]); as lists where rows differ in length."""
    if not scalar.is_valid:
        return None
    values = scalar.values
    if not _is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    if values.null_count:
        return values.to_pylist()
    n = len(values)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if n and len(flat) % n == 0 and (pa.types.is_fixed_size_list(values.type) or _even(values, len(flat) // n)):
        return flat.reshape(n, -1)
    return values.to_pylist()


def _even(rows: pa.Array, width: int) -> bool:
    return bool((rows.value_lengths().to_numpy(zero_copy_only=False) == width).all())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _innermost(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
