"""Metadata columns: the types that there are, which one a value needs, and documents as Arrow tables."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raycol.errors import InputError

ColumnType = Literal["string", "int64", "double", "bool", "date", "timestamp"]
Columns = Mapping[str, ColumnType]

# A timestamp is an instant: microseconds since 1970 in UTC.
ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}

# In this order: a bool is an int to Python, and a datetime a date.
_PYTHON_TYPES: tuple[tuple[type, ColumnType], ...] = (
    (bool, "bool"),
    (int, "int64"),
    (float, "double"),
    (str, "string"),
    (datetime.datetime, "timestamp"),
    (datetime.date, "date"),
)


def check_metadata(id_: str, metadata: Any) -> dict[str, Any]:
    """Return a document's metadata with NumPy scalars as Python's, or raise `InputError` naming the document."""
    if not isinstance(metadata, Mapping):
        raise InputError(f"document {id_!r}: metadata is a {type(metadata).__name__}; expected a dict")
    return {
        check_column_name(name, f"document {id_!r}: "): _check_value(id_, name, metadata[name]) for name in metadata
    }


def check_column_name(name: Any, where: str = "") -> str:
    """Return the name of a metadata column, or raise `InputError`."""
    if not isinstance(name, str) or not name or name == "id" or len(name) > 200 or "\x00" in name:
        raise InputError(
            f"{where}metadata {name!r} is no column name; expected a string of 1 to 200 characters, other than 'id'"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}metadata {name!r} is not valid Unicode (half of a surrogate pair)") from None
    return name


def _check_value(id_: str, name: str, value: Any) -> Any:
    where = f"document {id_!r}: metadata {name!r}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return None
    kind = _type_of(value)
    if kind is None:
        expected = "str, int, float, bool, date, datetime or None"
        raise InputError(f"{where} is a {type(value).__name__}; expected {expected}")
    if kind == "int64" and not -(2**63) <= value < 2**63:
        raise InputError(f"{where} is {value}; expected an integer of 64 bits")
    if kind == "timestamp":
        if value.tzinfo is None:
            raise InputError(f"{where} is a datetime without a time zone; give it one, for instance datetime.UTC")
        try:
            return value.astimezone(datetime.UTC)
        except OverflowError:
            raise InputError(f"{where} is {value}; expected an instant in the years 1 to 9999 of UTC") from None
    if kind == "string":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} is not valid Unicode (half of a surrogate pair)") from None
    return value


def _type_of(value: Any) -> ColumnType | None:
    return next((kind for python, kind in _PYTHON_TYPES if isinstance(value, python)), None)


class ColumnInference:
    """Column types from the values met: the type of the first, and double where whole numbers meet others.

    Whole numbers beyond 2^53 are then rounded, as a double has it.
    """

    def __init__(self) -> None:
        self.columns: dict[str, ColumnType] = {}

    def add(self, id_: str, metadata: Mapping[str, Any]) -> None:
        """Take account of one document. Raises `InputError` where a value does not go with those before."""
        for name, value in metadata.items():
            kind = _type_of(value)
            if kind is None:
                continue
            known = self.columns.setdefault(name, kind)
            if {known, kind} == {"int64", "double"}:
                self.columns[name] = "double"
            elif known != kind:
                raise InputError(f"document {id_!r}: metadata {name!r} is a {kind}; it was a {known} before")


def check_columns(id_: str, metadata: Mapping[str, Any], columns: Columns) -> None:
    """Raise `InputError` where a document's metadata does not fit the index's columns."""
    for name, value in metadata.items():
        if value is None:
            continue
        kind = _type_of(value)
        if name not in columns:
            known = f"its columns are {', '.join(columns)}" if columns else "it has none"
            raise InputError(f"document {id_!r}: metadata {name!r} is not a column of this index; {known}")
        if kind != columns[name] and (kind, columns[name]) != ("int64", "double"):
            raise InputError(f"document {id_!r}: metadata {name!r} is a {kind}; the column holds {columns[name]}")


def declared_columns(columns: Mapping[str, str]) -> dict[str, ColumnType]:
    """Check column types that a caller declares."""
    for name, kind in columns.items():
        check_column_name(name)
        if kind not in get_args(ColumnType):
            raise InputError(f"column {name!r} of type {kind!r}; expected one of {', '.join(get_args(ColumnType))}")
    return dict(columns)  # type: ignore[arg-type]


def schema_of(columns: Columns) -> pa.Schema:
    """The Arrow schema of a partition's documents.parquet."""
    return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])


def metadata_table(metadata: Sequence[Mapping[str, Any]], columns: Columns) -> pa.Table:
    """Checked metadata as a table, one row a document."""
    arrays = [
        pa.array([_stored(row.get(name), kind) for row in metadata], ARROW_TYPES[kind])
        for name, kind in columns.items()
    ]
    return pa.table(arrays, schema=schema_of(columns))


# What datetime.date and datetime.datetime hold.
_PYTHON_RANGES = {
    ARROW_TYPES["date"]: (pa.int32(), -719162, 2932896),
    ARROW_TYPES["timestamp"]: (pa.int64(), -62135596800000000, 253402300799999999),
}


def check_table(table: pa.Table, n_rows: int) -> pa.Table:
    """Return a table that was read; raise `pa.ArrowException` where it holds what its types, or Python, do not."""
    if table.num_rows != n_rows:
        raise pa.ArrowInvalid(f"{table.num_rows} rows where {n_rows} are promised")
    table.validate(full=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type in _PYTHON_RANGES:
            plain, low, high = _PYTHON_RANGES[column.type]
            found = pc.min_max(column.cast(plain)).as_py()
            if found["min"] is not None and not low <= found["min"] <= found["max"] <= high:
                raise pa.ArrowInvalid(f"{name} holds a {column.type} beyond the years 1 to 9999")
    return table


def _stored(value: Any, kind: ColumnType) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    # Arrow takes no whole number that a double does not hold exactly.
    return float(value) if kind == "double" and value is not None else value
