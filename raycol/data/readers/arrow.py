"""Write rows to an Arrow file one by one, and read single rows from a memory-mapped one."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

# A record batch ends after this many rows, or characters of text.
_ROWS, _CHARACTERS = 4096, 1 << 24


class RowWriter:
    """Writes rows to a file, buffering them in memory until a record batch is full or the `with` block ends."""

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
        """Write a row: one value for each field of the schema."""
        self._batch.append(row)
        self._characters += sum(len(value) for value in row if isinstance(value, str))
        if len(self._batch) == _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(pa.record_batch([*zip(*self._batch, strict=True)], schema=self._schema))
        self._batch, self._characters = [], 0


class MappedRows:
    """Random access to the rows of a memory-mapped file, without caching."""

    def __init__(self, mapped: pa.NativeFile) -> None:
        reader = pa.ipc.open_file(mapped)
        self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self.batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cell(self, row: int, column: str) -> Any:
        """Value of a column in a row."""
        batch = bisect_right(self._ends, row)
        start = self._ends[batch - 1] if batch else 0
        return self.batches[batch].column(column)[row - start].as_py()
