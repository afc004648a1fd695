"""Read selected columns of Parquet files, starting at any row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycol.data.files import open_file
from raycol.data.readers.reader import CorpusFile, InferNames, Position, Reader, Rows, Select
from raycol.errors import InputError

_ROWS, _MAX_ROWS = 512, 1 << 16
# Read-ahead per column, in bytes.
_BUFFER = 1 << 20
# Above this size in a row group, in bytes, a column may hold a value too large to materialise for each row.
_LARGE = 1 << 20
# Bytes of a row group that are cheap to read and discard.
_CHEAP = 64 << 20


class ParquetReader(Reader):
    """Reader of Parquet. Lists of numbers become NumPy arrays; timestamps without a time zone are taken as UTC."""

    suffixes = (".parquet",)
    is_table = True
    has_columns = True

    def rows(self, file: CorpusFile, select: Select, infer_names: InferNames, start: Position) -> Rows:
        """See `Reader`."""
        for first, batch in self.batches(file, select, start.offset):
            yield from rows_of(batch, file, first)

    def batches(
        self, file: CorpusFile, select: Select, start: int = 0, batch_bytes: int = 0
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield record batches of a file, each with the number of its first row, from 0.

        Args:
            file: the file.
            select: chooses the columns to read.
            start: number of the first row to read.
            batch_bytes: size of a batch; by default a few hundred rows.

        Raises:
            InputError: the file is missing, cannot be read or is damaged.
        """
        with open_file(file.uri) as raw:
            if not raw.size():
                return
            # Read row groups incrementally: a large file may be a single row group.
            table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BUFFER)
            names = select(table.schema_arrow.names)
            if large := _large_dictionary_columns(table, names):
                table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=_BUFFER, read_dictionary=large)
            first = 0
            groups: list[int] = []
            largest_row = 1.0
            for group in range(table.num_row_groups):
                metadata = table.metadata.row_group(group)
                if not groups and first + metadata.num_rows <= start:
                    first += metadata.num_rows
                else:
                    groups.append(group)
                    largest_row = max(largest_row, metadata.total_byte_size / max(1, metadata.num_rows))
            n_rows = min(max(_ROWS, int(batch_bytes / largest_row)), _MAX_ROWS)
            for batch in table.iter_batches(n_rows, row_groups=groups, columns=names):
                n_skipped = min(max(0, start - first), batch.num_rows)
                yield first + n_skipped, batch.slice(n_skipped)
                first += batch.num_rows

    def row_groups(self, file: CorpusFile) -> list[tuple[int, int]]:
        """Number of rows and uncompressed bytes of each row group of a file."""
        with open_file(file.uri) as raw:
            if not raw.size():
                return []
            metadata = pq.ParquetFile(raw).metadata
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]

    def divides(self, file: CorpusFile) -> bool:
        """See `Reader`."""
        return True

    def count(self, file: CorpusFile) -> int:
        """See `Reader`."""
        with open_file(file.uri) as raw:
            return int(pq.ParquetFile(raw).metadata.num_rows) if raw.size() else 0

    def sample(self, file: CorpusFile, offsets: Sequence[int]) -> list[Position]:
        """See `Reader`. Rows are moved back to skip little of a row group; no duplicates."""
        with open_file(file.uri) as raw:
            metadata = pq.ParquetFile(raw).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        ends = np.cumsum([group.num_rows for group in groups])
        starts = set()
        for row in offsets:
            number = int(np.searchsorted(ends, row, side="right"))
            group = groups[number]
            n_cheap = _CHEAP * group.num_rows // max(1, group.total_byte_size)
            starts.add(min(row, int(ends[number]) - group.num_rows + n_cheap))
        return [Position(row, row + 1) for row in sorted(starts)]


def _large_dictionary_columns(file: pq.ParquetFile, names: list[str]) -> list[str]:
    """Columns of large dictionary-encoded texts. Decoding would copy a shared text for each row and fill memory."""
    large = set()
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
                large.add(column.path_in_schema)
    return sorted(large)


def rows_of(batch: pa.RecordBatch, where: object, first: int) -> Rows:
    """Yield the rows of a batch as dicts of Python values; lists of numbers become arrays.

    Args:
        batch: the batch.
        where: what is read, for messages.
        first: number of the first row in the table, from 0.

    Raises:
        InputError: a column has a value that Python cannot represent.
    """
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = _values(column)
        except (ValueError, OverflowError, LookupError) as error:
            raise InputError(f"{where}: column {name!r} of type {column.type} cannot be read ({error})") from None
    for row in range(batch.num_rows):
        record = {name: values[row] for name, values in columns.items()}
        yield Position(first + row, first + row + 1), record


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
        # Invalid UTF-8 becomes lone surrogates, which the validation of a passage refuses.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]


def as_array(scalar: pa.ListScalar) -> Any:
    """A list of numbers as an array [n], or a list of rows as an array [n_tokens, dim]; lists if rows are ragged."""
    if not scalar.is_valid:
        return None
    values = scalar.values
    if not _is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    if values.null_count:
        return values.to_pylist()
    n = len(values)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    if n and len(flat) % n == 0 and (pa.types.is_fixed_size_list(values.type) or _have_width(values, len(flat) // n)):
        return flat.reshape(n, -1)
    return values.to_pylist()


def _have_width(rows: pa.Array, width: int) -> bool:
    return bool((rows.value_lengths().to_numpy(zero_copy_only=False) == width).all())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _innermost(kind: pa.DataType) -> pa.DataType:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
