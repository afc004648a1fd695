"""The training set: the examples of all sources, validated and written once as Arrow files that workers memory-map.

`texts.arrow` has a row per distinct text. `examples.arrow` has a row per example: `query` and `documents` are rows of
`texts.arrow`, `scores` are the teacher's scores of the documents, `source` is the index of the source, `where` the
position in the source for error messages. Neither file is ever read into memory as a whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel

from raycol.data.corpus import refuse
from raycol.data.examples import Example, ExampleSource, read_examples
from raycol.data.readers.reader import BadRecord
from raycol.errors import InputError
from raycol.training.config import TrainConfig

TEXTS, EXAMPLES = "texts.arrow", "examples.arrow"

# Keys of `SourceInfo.left_out`, as reports print them.
BEYOND_N_WAYS = "documents beyond `n_ways=`"
LABELLED_ZERO = "pairs labelled 0"
UNUSED_SCORES = "examples' scores (the positive is named)"
TIED_WITH_POSITIVE = "documents scored as high as the positive"

_EXAMPLE = pa.schema(
    [
        ("query", pa.int64()),
        ("documents", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
        ("source", pa.int16()),
        ("where", pa.string()),
    ]
)
_TEXT = pa.schema([("text", pa.large_string())])
# A record batch ends after this many rows, or characters of text.
_ROWS, _CHARACTERS = 4096, 1 << 24


class SourceInfo(BaseModel):
    """Statistics of one source.

    Args:
        path: path, URI or hub name.
        weight: sampling weight, relative to the other sources.
        examples: number of training examples.
        n_ways: documents per example in a batch.
        skipped: number of unusable records.
        short: number of examples with fewer than `n_ways` documents, which are padded.
        left_out: number of other items left out, by kind.
    """

    path: str
    weight: float
    examples: int
    n_ways: int
    skipped: int
    short: int = 0
    left_out: dict[str, int] = {}

    def remarks(self) -> list[str]:
        """Phrases for reports on what was left out or padded."""
        counts = {"unusable records": self.skipped, **self.left_out}
        phrases = [f"{n:,} {kind} left out" for kind, n in counts.items() if n]
        if self.short:
            phrases.append(f"{self.short:,} examples with fewer than {self.n_ways} documents padded (`n_ways=`)")
        return phrases


def write_training_set(config: TrainConfig, folder: Path) -> list[SourceInfo]:
    """Read all sources, validate every example for the objective, and write the files.

    Raises:
        InputError: a source is unusable or has no examples, or an example is unusable and `on_error` is "fail".
    """
    with ExitStack() as stack:
        texts = _Texts(stack.enter_context(_RowWriter(folder / TEXTS, _TEXT)))
        rows = stack.enter_context(_RowWriter(folder / EXAMPLES, _EXAMPLE))
        return [_write(config, number, source, texts, rows) for number, source in enumerate(config.data)]


def _write(config: TrainConfig, number: int, source: ExampleSource, texts: _Texts, rows: _RowWriter) -> SourceInfo:
    lengths: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    problems: list[BadRecord] = []
    if config.split and not source.split:
        source = source.model_copy(update={"split": config.split})
    for example in read_examples(source, config.on_error, problems, config.n_ways):
        try:
            if config.distils:
                documents, scores = _scored_documents(config, example)
            else:
                documents, scores = _positive_and_negatives(example, left_out), None
        except ValueError as error:
            refuse(BadRecord(example.where, str(error)), config.on_error)
            problems.append(BadRecord(example.where, str(error)))
            continue
        left_out[BEYOND_N_WAYS] += example.documents_left_out
        if documents:
            lengths[len(documents)] += 1
            rows.add((texts.add(example.query), list(map(texts.add, documents)), scores, number, example.where))
    n_examples = lengths.total()
    if not n_examples:
        reasons = [
            *(f"the first problem is {problem}" for problem in problems[:1]),
            *(f"{n} {kind}" for kind, n in left_out.items() if n),
        ]
        why = f"; all records were left out: {', '.join(reasons)}" if reasons else ""
        raise InputError(f"{source.path}: no training examples{why}")
    n_ways = max(lengths)
    return SourceInfo(
        path=str(source.path),
        weight=source.weight or float(n_examples),
        examples=n_examples,
        n_ways=n_ways,
        skipped=len(problems),
        short=n_examples - lengths[n_ways],
        left_out={kind: n for kind, n in left_out.items() if n},
    )


def _scored_documents(config: TrainConfig, example: Example) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The documents and their teacher scores. Raises `ValueError` if distillation cannot use them."""
    if example.scores is None:
        raise ValueError(f"has no teacher scores, which {config.objective_name} needs; add them with raycol score")
    if len(example.documents) < 2:
        raise ValueError(f"has one document; {config.objective_name} compares at least 2")
    return example.documents, example.scores


def _positive_and_negatives(example: Example, left_out: Counter[str]) -> tuple[str, ...]:
    """Return the positive followed by the negatives; empty if the example is a pair labelled 0.

    Unless the example names its positive, the highest-scored document is the positive. Documents that tie with
    the positive are not used as negatives.

    Args:
        example: an example.
        left_out: counter of left-out items, updated in place.

    Raises:
        ValueError: all documents have the same score.
    """
    documents, scores = example.documents, example.scores
    if scores is None:
        return documents
    if example.is_unrelated():
        left_out[LABELLED_ZERO] += 1
        return ()
    if len(documents) + example.documents_left_out == 1:
        return documents
    if example.positive_first:
        left_out[UNUSED_SCORES] += 1
        return documents
    best = max(scores)
    negatives = tuple(text for text, score in zip(documents, scores, strict=True) if score < best)
    if len(documents) > 1 and not negatives:
        raise ValueError(
            f"all {len(documents)} documents have the score {best:g}; expected a positive with a higher score"
        )
    left_out[TIED_WITH_POSITIVE] += len(documents) - 1 - len(negatives)
    return (documents[scores.index(best)], *negatives)


class _Texts:
    """Writer of distinct texts; keeps only their digests in memory."""

    def __init__(self, rows: _RowWriter) -> None:
        self._rows = rows
        self._row_by_digest: dict[int, int] = {}

    def add(self, text: str) -> int:
        """Write a text unless it was written before; return its row."""
        digest = xxhash.xxh3_128_intdigest(text.encode())
        row = self._row_by_digest.get(digest)
        if row is None:
            row = self._row_by_digest[digest] = len(self._row_by_digest)
            self._rows.add((text,))
        return row


@dataclass(frozen=True)
class TrainingRow:
    """The texts of one example, and the teacher's scores of its documents, if any."""

    query: str
    documents: list[str]
    scores: list[float] | None


class TrainingSet:
    """The memory-mapped files of a training set."""

    def __init__(self, folder: Path) -> None:
        self._texts, self._examples = (_MappedRows(folder / name) for name in (TEXTS, EXAMPLES))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> TrainingRow:
        query, documents, scores = self.text_rows(number)
        return TrainingRow(self.text(query), [self.text(one) for one in documents], scores)

    def text(self, row: int) -> str:
        """The text at a row of `texts.arrow`."""
        return str(self._texts.cell(row, "text"))

    def where(self, number: int) -> str:
        """Position of an example in its source, for error messages."""
        return str(self._examples.cell(number, "where"))

    def column(self, name: str) -> NDArray[np.int64]:
        """The column `query` or `source`, [n_examples]."""
        return np.concatenate([batch.column(name).to_numpy() for batch in self._examples.batches]).astype(np.int64)

    def positives(self) -> NDArray[np.int64]:
        """Text row of each example's first document, [n_examples]."""
        first_documents = []
        for batch in self._examples.batches:
            documents = batch.column("documents")
            starts = documents.offsets.to_numpy()[:-1]
            first_documents.append(documents.values.to_numpy()[starts])
        return np.concatenate(first_documents).astype(np.int64)

    def best_documents(self) -> NDArray[np.int64]:
        """Text row of each example's document with the highest score, the first of several, [n_examples]."""
        best = []
        for batch in self._examples.batches:
            documents, scores = batch.column("documents"), batch.column("scores")
            starts, values = scores.offsets.to_numpy()[:-1], scores.values.to_numpy()
            highest = np.repeat(np.maximum.reduceat(values, starts), np.diff(scores.offsets.to_numpy()))
            positions = np.flatnonzero(values == highest)
            best.append(documents.values.to_numpy()[positions[np.searchsorted(positions, starts)]])
        return np.concatenate(best).astype(np.int64)

    def text_rows(self, number: int) -> tuple[int, list[int], list[float] | None]:
        """Text rows of an example's query and documents, and the scores of the documents."""
        query, documents, scores = (self._examples.cell(number, name) for name in ("query", "documents", "scores"))
        return query, documents, scores


class _RowWriter:
    """Writes rows to a file, buffering them in memory until a record batch is full or the `with` block ends."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(path), schema)
        self._schema = schema
        self._batch: list[tuple[Any, ...]] = []
        self._characters = 0

    def __enter__(self) -> _RowWriter:
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


class _MappedRows:
    """Random access to the rows of a file, which is memory-mapped; nothing is cached."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self.batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def cell(self, row: int, column: str) -> Any:
        """Value of a column in a row."""
        batch = bisect_right(self._ends, row)
        start = self._ends[batch - 1] if batch else 0
        return self.batches[batch].column(column)[row - start].as_py()
