"""Examples as Arrow tables: their distinct texts, and a row of integers per example.

    texts       text, and id, a hash of it
    examples    query, documents (rows of `texts`), scores (the teacher's), where (position in the source), number

N is the number of examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

TEXTS, EXAMPLES = "texts.arrow", "examples.arrow"

_EXAMPLE = pa.schema(
    [
        ("query", pa.int32()),
        ("documents", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("where", pa.string()),
        ("number", pa.int64()),
    ]
)
# Share of distinct texts above which copying them costs more than it saves.
_DISTINCT = 0.9
# Texts hashed at a time.
_HASHED = 1 << 14

Integers = NDArray[np.int64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class ExampleTable:
    """Examples and the texts that they refer to.

    Args:
        texts: large strings, not necessarily distinct.
        ids: id of each text.
        examples: a row per example; `query` and `documents` are rows of `texts`.
    """

    texts: pa.Array
    ids: Integers
    examples: pa.RecordBatch

    @classmethod
    def make(
        cls, texts: pa.Array, query: Integers, documents: pa.Array, scores: pa.Array | None, where: pa.Array
    ) -> ExampleTable:
        """Return a table of examples without numbers.

        Args:
            texts: the texts.
            query: row of `texts` of each query, [N].
            documents: rows of `texts`, a list per example.
            scores: a list or null per example; None for all null.
            where: position of each example in its source.
        """
        n = len(query)
        columns = [
            pa.array(query, pa.int32()),
            documents,
            pa.nulls(n, pa.list_(pa.float32())) if scores is None else scores,
            where,
            pa.array(np.zeros(n, np.int64)),
        ]
        return cls(texts, text_ids(texts), pa.record_batch(columns, schema=_EXAMPLE))

    def __len__(self) -> int:
        return int(self.examples.num_rows)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(self.texts.nbytes + self.examples.nbytes)

    @property
    def numbers(self) -> Integers:
        """Number of each example, [N]."""
        numbers: Integers = self.examples.column("number").to_numpy()
        return numbers

    def query_ids(self) -> Integers:
        """Id of each example's query, [N]."""
        ids: Integers = self.ids[self.examples.column("query").to_numpy()]
        return ids

    def numbered(self, numbers: Integers) -> ExampleTable:
        """Return the same examples with other numbers."""
        return replace(self, examples=self.examples.set_column(4, "number", pa.array(numbers, pa.int64())))

    def take(self, rows: Integers | slice) -> ExampleTable:
        """Return some examples, with their texts only."""
        if isinstance(rows, slice):
            examples = self.examples.slice(rows.start, rows.stop - rows.start)
        else:
            examples = self.examples.take(pa.array(rows))
        rows_of_texts = _text_rows(examples)
        is_used = np.zeros(len(self.texts), bool)
        is_used[rows_of_texts] = True
        if is_used.all():
            return replace(self, examples=examples)
        used, rows = np.flatnonzero(is_used), np.cumsum(is_used) - 1
        return ExampleTable(self.texts.take(pa.array(used)), self.ids[used], _refer_to(examples, rows[rows_of_texts]))

    def save(self, folder: Path) -> None:
        """Write the two files to a folder."""
        texts = pa.record_batch({"text": self.texts, "id": pa.array(self.ids)})
        for name, batch in ((TEXTS, texts), (EXAMPLES, self.examples)):
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)

    @classmethod
    def open(cls, folder: Path) -> ExampleTable:
        """Open the files of `save`, memory-mapped."""
        texts = map_batch(folder / TEXTS)
        return cls(texts.column("text"), texts.column("id").to_numpy(), map_batch(folder / EXAMPLES))


def join(tables: Sequence[ExampleTable]) -> ExampleTable:
    """Return the examples of all tables, in order, with each text once, unless hardly any occurs twice."""
    texts, ids = pa.concat_arrays([table.texts for table in tables]), np.concatenate([table.ids for table in tables])
    rows = np.arange(len(ids))
    _, firsts, codes = np.unique(ids, return_index=True, return_inverse=True)
    if len(firsts) < _DISTINCT * len(ids):
        texts, ids, rows = texts.take(pa.array(firsts)), ids[firsts], codes
    first = 0
    batches = []
    for table in tables:
        batches.append(_refer_to(table.examples, rows[first + _text_rows(table.examples)]))
        first += len(table.texts)
    (examples,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return ExampleTable(texts, ids, examples)


def _text_rows(examples: pa.RecordBatch) -> Integers:
    """Rows of the texts of the queries, then of the documents."""
    return np.concatenate([examples.column("query").to_numpy(), examples.column("documents").flatten().to_numpy()])


def _refer_to(examples: pa.RecordBatch, rows: NDArray[np.integer]) -> pa.RecordBatch:
    """Return examples with other rows of texts: those of the queries, then those of the documents."""
    n = examples.num_rows
    rows = rows.astype(np.int32)
    lengths = examples.column("documents").value_lengths().to_numpy()
    columns = examples.columns
    columns[0] = pa.array(rows[:n])
    columns[1] = lists(lengths, pa.array(rows[n:]))
    return pa.record_batch(columns, schema=_EXAMPLE)


def lists(lengths: NDArray[np.integer], values: pa.Array) -> pa.Array:
    """Return a list array of these lengths over `values`."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def map_batch(path: Path) -> pa.RecordBatch:
    """Memory-map a file of one record batch."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def text_ids(texts: pa.Array) -> Integers:
    """Return an id of each text: 62 bits of its XXH3, so that two of a billion texts differ but for 1 case in 10."""
    ids = np.empty(len(texts), np.uint64)
    for start in range(0, len(texts), _HASHED):
        contents = texts.slice(start, _HASHED).cast(pa.large_binary()).to_pylist()
        ids[start : start + len(contents)] = [*map(xxhash.xxh3_64_intdigest, contents)]
    return (ids >> np.uint64(2)).astype(np.int64)


def random_keys(numbers: Integers) -> Keys:
    """A random key of each number, which depends on the number only: SplitMix64's finaliser (Steele et al. 2014)."""
    keys = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


class TableBuilder:
    """Collects single examples into a table; each distinct text once."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._examples: list[tuple[int, list[int], Sequence[float] | None, str]] = []
        self.nbytes = 0
        """Size of the texts, in characters."""

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, query: str, documents: Iterable[str], scores: Sequence[float] | None, where: str) -> None:
        """Add an example."""
        self._examples.append((self._row(query), [*map(self._row, documents)], scores, where))

    def _row(self, text: str) -> int:
        row = self._rows.setdefault(text, len(self._rows))
        if row == len(self._rows) - 1:
            self.nbytes += len(text)
        return row

    def build(self) -> ExampleTable:
        """Return the table of the examples, and start a new one."""
        query, documents, scores, where = zip(*self._examples, strict=True)
        table = ExampleTable.make(
            pa.array([*self._rows], pa.large_string()),
            np.array(query),
            pa.array(documents, pa.list_(pa.int32())),
            pa.array(scores, pa.list_(pa.float32())),
            pa.array(where, pa.string()),
        )
        self._rows, self._examples, self.nbytes = {}, [], 0
        return table
