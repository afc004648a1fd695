"""Rows in an Arrow file: written one by one, and read one by one from where the file is mapped into memory."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

# Rows of a record batch; it ends also after so many characters of text.
_ROWS, _CHARACTERS = 4096, 1 << 24


class RowWriter:
    """Writes rows to a file; what a row holds is in memory until its batch is full, or the `with` block ends."""

    def __init__(self, file: Path | IO[bytes], schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(file) if isinstance(file, Path) else file, schema)
        self._schema = schema
        self._batch: list[tuple[Any, ...]] = []
        self._characters = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: tuple[Any, ...]) -> None:
        """Write a row, with a value for each field of the schema."""
        self._batch.append(row)
        self._characters += sum(len(value) for value in row if isinstance(value, str))
        if len(self._batch) == _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(pa.record_batch([*zip(*self._batch, strict=True)], schema=self._schema))
        self._batch, self._characters = [], 0


class MappedRows:
    """Rows of a file that is mapped: each is read by itself, and none is kept."""

    def __init__(self, mapped: pa.NativeFile) -> None:
        reader = pa.ipc.open_file(mapped)
        self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self.batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cell(self, row: int, column: str) -> Any:
        """One value."""
        number = bisect_right(self._ends, row)
        start = self._ends[number - 1] if number else 0
        return self.batches[number].column(column)[row - start].as_py()
