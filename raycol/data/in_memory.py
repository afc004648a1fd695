"""Corpora in memory: written to a temporary file once, which is then read like any other corpus.

Workers read their parts of a corpus from files, in any process, and again after a failure.
"""

from __future__ import annotations

import datetime
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raycol.errors import InputError, RaycolError, writing

_NAME = "the corpus"
# Rows read at a time from datasets that are not in memory.
_BATCH = 1024
_EXPECTED = (
    "expected a path or a URI, dicts (a list or an iterator), or a table: pandas, Arrow, polars, a Hugging Face "
    "Dataset or a Ray Dataset"
)


class StoredCorpus(NamedTuple):
    """A corpus on disk: its location, and the types of date fields, which JSON does not keep."""

    location: str
    types: Mapping[str, str]

    def typed(self, metadata: Iterable[str]) -> tuple[str, ...]:
        """Metadata fields as `NAME:TYPE` if JSON has lost their type."""
        return tuple(f"{name}:{self.types[name]}" if name in self.types else name for name in metadata)


@contextmanager
def stored_corpus(corpus: Any, folder: Path | None = None) -> Iterator[StoredCorpus]:
    """Write a corpus to a temporary file while the block runs; a path or a URI is used as it is.

    Iterators and datasets are read once, a batch at a time.

    Args:
        corpus: a path or a URI; dicts; or a table (pandas, Arrow, polars, a Hugging Face Dataset, a Ray Dataset).
        folder: parent of the temporary folder, by default the system's. Workers on other machines read the
            file, so on a cluster it must be on a shared disk.

    Raises:
        InputError: an unusable record, named by its number.
    """
    if isinstance(corpus, str | Path):
        yield StoredCorpus(str(corpus), {})
        return
    with writing(folder or tempfile.gettempdir()):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".raycol-corpus-", dir=folder)
    with temporary as name:
        tables = _tables(corpus)
        path = Path(name) / ("corpus.json" if tables is None else "corpus.parquet")
        try:
            if tables is None:
                types = _write_objects(path, _objects(corpus))
            else:
                types = {}
                _write_tables(path, tables)
            yield StoredCorpus(str(path), types)
        except RaycolError as error:
            # The file exists only during the call: name the corpus instead.
            message = str(error).replace(str(path), _NAME)
            if message == str(error):
                raise
            raise type(error)(message) from error


def _objects(corpus: Any) -> Iterable[Any]:
    if isinstance(corpus, Mapping):
        splits = all(hasattr(value, "features") for value in corpus.values()) and corpus
        if splits:
            raise InputError(f"{_NAME} has the splits {', '.join(map(str, corpus))}; expected one of them")
        raise InputError(f"{_NAME} is one dict; expected a list of dicts, one for each document")
    if isinstance(corpus, bytes) or not isinstance(corpus, Iterable):
        raise InputError(f"{_NAME} is a {type(corpus).__name__}; {_EXPECTED}")
    return corpus


def _tables(corpus: Any) -> Iterator[pa.Table | pa.RecordBatch] | None:
    """Yield the tables of a tabular corpus; None if it is not tabular."""
    tables: Iterable[pa.Table | pa.RecordBatch] | None = None
    if isinstance(corpus, pa.Table | pa.RecordBatch):
        tables = [corpus]
    elif hasattr(corpus, "iter_batches") and hasattr(corpus, "materialize"):  # a Ray Dataset
        tables = corpus.iter_batches(batch_format="pyarrow", batch_size=None)
    elif hasattr(corpus, "with_format") and hasattr(corpus, "iter"):  # a Hugging Face Dataset or IterableDataset
        tables = corpus.with_format("arrow").iter(batch_size=_BATCH)
    elif hasattr(corpus, "__arrow_c_stream__"):  # pandas, polars, an Arrow reader and others
        tables = pa.RecordBatchReader.from_stream(corpus)
    return None if tables is None else iter(tables)


def _write_tables(path: Path, tables: Iterator[pa.Table | pa.RecordBatch]) -> None:
    first = next(tables, None)
    if first is None:
        raise InputError(f"{_NAME} has no rows; expected at least one document")
    with writing(path), pq.ParquetWriter(path, first.schema) as writer:
        for batch in itertools.chain([first], tables):
            table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
            try:
                writer.write_table(table.cast(first.schema))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
                raise InputError(f"{_NAME}: its batches have different types ({error})") from None


def _write_objects(path: Path, records: Iterable[Any]) -> dict[str, str]:
    """Write dicts as JSON Lines; return the types of the fields with nothing but dates."""
    kinds: dict[str, set[str]] = {}
    with writing(path), path.open("w", encoding="utf-8") as file:
        for number, record in enumerate(records, start=1):
            if not isinstance(record, Mapping):
                raise InputError(f"{_NAME}, record {number}: a {type(record).__name__}; expected a dict")
            try:
                file.write(json.dumps(dict(record), default=_as_json) + "\n")
            except (TypeError, ValueError, RecursionError) as error:
                raise InputError(f"{_NAME}, record {number}: cannot be stored ({error})") from None
            for name, value in record.items():
                if value is not None:
                    kinds.setdefault(name, set()).add(_kind(value))
    return {name: kind for name, values in kinds.items() if len(values) == 1 and (kind := next(iter(values)))}


def _kind(value: Any) -> str:
    """Type of a date for metadata; "" for other values, which JSON keeps."""
    if isinstance(value, datetime.datetime):  # also pandas' Timestamp; a subclass of date
        return "timestamp"
    return "date" if isinstance(value, datetime.date) else ""


def _as_json(value: Any) -> Any:
    """Arrays and numbers of NumPy and torch as lists and numbers, dates in ISO 8601."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"a {type(value).__name__}; expected a text, a number, a date, or lists of numbers")
