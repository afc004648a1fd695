"""Metadata columns: supported types, type inference, validation, and conversion to Arrow tables."""

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

# A timestamp is an instant: microseconds since 1970, UTC.
ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}

# The order matters: bool is a subclass of int, and datetime of date.
_PYTHON_TYPES: tuple[tuple[type, ColumnType], ...] = (
    (bool, "bool"),
    (int, "int64"),
    (float, "double"),
    (str, "string"),
    (datetime.datetime, "timestamp"),
    (datetime.date, "date"),
)


def check_metadata(id_: str, metadata: Any) -> dict[str, Any]:
    """Return a document's metadata as plain Python values; raises `InputError` naming the document."""
    if not isinstance(metadata, Mapping):
        raise InputError(f"document {id_!r}: metadata is a {type(metadata).__name__}; expected a dict")
    return {
        check_column_name(name, f"document {id_!r}: "): _check_value(id_, name, metadata[name]) for name in metadata
    }


def check_column_name(name: Any, where: str = "") -> str:
    """Return a valid column name; raises `InputError`."""
    if not isinstance(name, str) or not name or name == "id" or len(name) > 200 or "\x00" in name:
        raise InputError(
            f"{where}metadata {name!r} is not a column name; expected a string of 1 to 200 characters other than 'id'"
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
        raise InputError(f"{where} is {value}; expected a 64-bit integer")
    if kind == "timestamp":
        if value.tzinfo is None:
            raise InputError(f"{where} is a datetime without a time zone; add one, such as datetime.UTC")
        try:
            return value.astimezone(datetime.UTC)
        except OverflowError:
            raise InputError(f"{where} is {value}; expected a time in the years 1 to 9999 UTC") from None
    if kind == "string":
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{where} is not valid Unicode (half of a surrogate pair)") from None
    return value


def _type_of(value: Any) -> ColumnType | None:
    return next((kind for python, kind in _PYTHON_TYPES if isinstance(value, python)), None)


class ColumnInference:
    """Infers column types: the type of the first value; double for a mix of integers and floats.

    A double rounds integers beyond 2^53.
    """

    def __init__(self) -> None:
        self.columns: dict[str, ColumnType] = {}

    def add(self, id_: str, metadata: Mapping[str, Any]) -> None:
        """Update the column types with one document; raises `InputError` if a value has another type than before."""
        for name, value in metadata.items():
            kind = _type_of(value)
            if kind is None:
                continue
            inferred = self.columns.setdefault(name, kind)
            if {inferred, kind} == {"int64", "double"}:
                self.columns[name] = "double"
            elif inferred != kind:
                raise InputError(
                    f"document {id_!r}: metadata {name!r} is a {kind}; expected {inferred}, as in earlier documents"
                )


def check_columns(id_: str, metadata: Mapping[str, Any], columns: Columns) -> None:
    """Raise `InputError` if a document's metadata does not match the index's columns."""
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
    """Return validated column declarations; raises `InputError`."""
    for name, kind in columns.items():
        check_column_name(name)
        if kind not in get_args(ColumnType):
            raise InputError(f"column {name!r} of type {kind!r}; expected one of {', '.join(get_args(ColumnType))}")
    return dict(columns)  # type: ignore[arg-type]


def schema_of(columns: Columns) -> pa.Schema:
    """Arrow schema of a partition's metadata."""
    return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in columns.items()])


def metadata_table(metadata: Sequence[Mapping[str, Any]], columns: Columns) -> pa.Table:
    """Return validated metadata as an Arrow table, one row per document."""
    arrays = [
        pa.array([_stored(row.get(name), kind) for row in metadata], ARROW_TYPES[kind])
        for name, kind in columns.items()
    ]
    return pa.table(arrays, schema=schema_of(columns))


# Range of datetime.date and datetime.datetime.
_PYTHON_RANGES = {
    ARROW_TYPES["date"]: (pa.int32(), -719162, 2932896),
    ARROW_TYPES["timestamp"]: (pa.int64(), -62135596800000000, 253402300799999999),
}


def check_table(table: pa.Table, n_rows: int) -> pa.Table:
    """Return a table read from a file; raises `pa.ArrowException` if a value is invalid or out of Python's range."""
    if table.num_rows != n_rows:
        raise pa.ArrowInvalid(f"{table.num_rows} rows; expected {n_rows}")
    table.validate(full=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type in _PYTHON_RANGES:
            plain, low, high = _PYTHON_RANGES[column.type]
            limits = pc.min_max(column.cast(plain)).as_py()
            if limits["min"] is not None and not low <= limits["min"] <= limits["max"] <= high:
                raise pa.ArrowInvalid(f"{name} holds a {column.type} outside the years 1 to 9999")
    return table


def _stored(value: Any, kind: ColumnType) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    # Arrow rejects integers that a double cannot represent exactly.
    return float(value) if kind == "double" and value is not None else value
