"""The training set: examples of all sources, checked and written once as Arrow files that every worker maps.

`texts.arrow` holds each distinct text once. `examples.arrow` has a row an example: `query` and `documents` are rows of
`texts.arrow`, `scores` a teacher's scores of the documents, `source` the number of its source and `where` its place
there. Neither is ever read into memory whole.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel

from raycol.data.arrow_rows import MappedRows, RowWriter
from raycol.data.corpus import refuse
from raycol.data.examples import Example, Source, read_examples
from raycol.data.position import Problem
from raycol.errors import InputError
from raycol.training.config import TrainConfig

TEXTS, EXAMPLES = "texts.arrow", "examples.arrow"

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


class SourceInfo(BaseModel):
    """What a source brought: examples, documents in each, how many were left out."""

    path: str
    weight: float
    examples: int
    n_ways: int
    skipped: int


def write_training_set(config: TrainConfig, folder: Path) -> list[SourceInfo]:
    """Read all sources, check every example against the objective, and write the files.

    Raises:
        InputError: an unusable source or example (unless such are skipped), or one without any example.
    """
    with ExitStack() as stack:
        texts = _Texts(stack.enter_context(RowWriter(folder / TEXTS, _TEXT)))
        rows = stack.enter_context(RowWriter(folder / EXAMPLES, _EXAMPLE))
        return [_write(config, number, source, texts, rows) for number, source in enumerate(config.data)]


def _write(config: TrainConfig, number: int, source: Source, texts: _Texts, rows: RowWriter) -> SourceInfo:
    count, n_ways = 0, config.n_ways or 0
    problems: list[Problem] = []
    if config.split and not source.split:
        source = source.model_copy(update={"split": config.split})
    for example in read_examples(source, config.on_error, problems, config.n_ways):
        n_ways = n_ways or len(example.documents)
        if problem := _problem(config, example, n_ways):
            refuse(Problem(example.where, problem), config.on_error)
            problems.append(Problem(example.where, problem))
            continue
        count += 1
        documents, scores = example.documents[:n_ways], example.scores[:n_ways] if example.scores else None
        if scores and not config.distils:
            documents, scores = documents if example.positive_first else _best_first(documents, scores), None
        rows.add((texts.add(example.query), list(map(texts.add, documents)), scores, number, example.where))
    if not count:
        why = f"; every one was left out, the first was {problems[0]}" if problems else ""
        raise InputError(f"{source.path}: no training examples in it{why}")
    weight = source.weight or float(count)
    return SourceInfo(path=str(source.path), weight=weight, examples=count, n_ways=n_ways, skipped=len(problems))


def _best_first(documents: tuple[str, ...], scores: tuple[float, ...]) -> tuple[str, ...]:
    """The positive is the document that its teacher likes best; it may stand anywhere."""
    best = scores.index(max(scores))
    return (documents[best], *documents[:best], *documents[best + 1 :])


def _problem(config: TrainConfig, example: Example, n_ways: int) -> str | None:
    """What is wrong with an example for this training, if anything."""
    found = len(example.documents)
    if config.distils and example.scores is None:
        return f"has no teacher scores, which {config.objective} learns from; make them with raycol teach"
    if config.distils and found < 2:
        return f"has one document; {config.objective} compares at least 2"
    if found < n_ways:
        return f"has {found} documents; expected {n_ways}, as the first example has; lower --n-ways"
    return None


class _Texts:
    """Writes distinct texts; in memory stays a digest of each."""

    def __init__(self, rows: RowWriter) -> None:
        self._rows = rows
        self._known: dict[int, int] = {}

    def add(self, text: str) -> int:
        """The row of a text."""
        key = xxhash.xxh3_128_intdigest(text.encode())
        row = self._known.get(key)
        if row is None:
            row = self._known[key] = len(self._known)
            self._rows.add((text,))
        return row


@dataclass(frozen=True)
class Row:
    """One example: its texts, and a teacher's scores of the documents."""

    query: str
    documents: list[str]
    scores: list[float] | None


class TrainingSet:
    """The written files, mapped."""

    def __init__(self, folder: Path) -> None:
        self._texts, self._examples = (MappedRows(pa.memory_map(str(folder / name))) for name in (TEXTS, EXAMPLES))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> Row:
        query, documents, scores = self.places(number)
        return Row(self.text(query), [self.text(one) for one in documents], scores)

    def text(self, number: int) -> str:
        """A text by its row."""
        return str(self._texts.cell(number, "text"))

    def where(self, number: int) -> str:
        """Where an example stands in its source."""
        return str(self._examples.cell(number, "where"))

    def column(self, name: str) -> NDArray[np.int64]:
        """`query` or `source` of all examples."""
        return np.concatenate([batch.column(name).to_numpy() for batch in self._examples.batches]).astype(np.int64)

    def positives(self) -> NDArray[np.int64]:
        """The first document of all examples."""
        found = []
        for batch in self._examples.batches:
            documents = batch.column("documents")
            starts = documents.offsets.to_numpy()[:-1]
            found.append(documents.values.to_numpy()[starts])
        return np.concatenate(found).astype(np.int64)

    def places(self, number: int) -> tuple[int, list[int], list[float] | None]:
        """An example by the rows of its query and its documents, and their scores."""
        query, documents, scores = (self._examples.cell(number, name) for name in ("query", "documents", "scores"))
        return query, documents, scores
