"""The training set: examples of all sources, checked and written once as Arrow files that every worker maps.

`texts.arrow` holds each distinct text once. `examples.arrow` has a row an example: `query` and `documents` are rows of
`texts.arrow`, `scores` a teacher's scores of the documents, `source` the number of its source and `where` its place
there. Neither is ever read into memory whole.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel

from raycol.data.corpus import refuse
from raycol.data.examples import Example, ExampleSource, read_examples
from raycol.data.position import BadRecord
from raycol.data.readers.arrow import MappedRows, RowWriter
from raycol.errors import InputError
from raycol.training.config import TrainConfig

TEXTS, EXAMPLES = "texts.arrow", "examples.arrow"

# What is left out of examples, as reports name it.
BEYOND = "documents beyond --n-ways"
UNRELATED = "pairs labelled 0"
UNUSED = "examples' scores (the positive is named)"
AS_GOOD = "documents scored as high as the positive"

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
    """What a source brought.

    Args:
        path: where it is.
        weight: how often batches are taken from it, beside the others.
        examples: that are trained on.
        n_ways: documents of an example, in its batch.
        skipped: records that could not be used.
        short: examples of fewer documents, which are filled up.
        left_out: how many of what else was left out, by what it is.
    """

    path: str
    weight: float
    examples: int
    n_ways: int
    skipped: int
    short: int = 0
    left_out: dict[str, int] = {}

    def remarks(self) -> list[str]:
        """Sentences on what was left out or filled up, for a report."""
        counts = {"records that cannot be used": self.skipped, **self.left_out}
        found = [f"{n:,} {what} left out" for what, n in counts.items() if n]
        if self.short:
            found.append(f"{self.short:,} examples of fewer than {self.n_ways} documents filled up (--n-ways)")
        return found


def write_training_set(config: TrainConfig, folder: Path) -> list[SourceInfo]:
    """Read all sources, check every example against the objective, and write the files.

    Raises:
        InputError: an unusable source or example (unless such are skipped), or one without any example.
    """
    with ExitStack() as stack:
        texts = _Texts(stack.enter_context(RowWriter(folder / TEXTS, _TEXT)))
        rows = stack.enter_context(RowWriter(folder / EXAMPLES, _EXAMPLE))
        return [_write(config, number, source, texts, rows) for number, source in enumerate(config.data)]


def _write(config: TrainConfig, number: int, source: ExampleSource, texts: _Texts, rows: RowWriter) -> SourceInfo:
    lengths: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    problems: list[BadRecord] = []
    if config.split and not source.split:
        source = source.model_copy(update={"split": config.split})
    for example in read_examples(source, config.on_error, problems, config.n_ways):
        try:
            if config.distils:
                documents, scores = _scored(config, example)
            else:
                documents, scores = _positive_and_negatives(example, left_out), None
        except ValueError as error:
            refuse(BadRecord(example.where, str(error)), config.on_error)
            problems.append(BadRecord(example.where, str(error)))
            continue
        left_out[BEYOND] += example.documents_left_out
        if documents:
            lengths[len(documents)] += 1
            rows.add((texts.add(example.query), list(map(texts.add, documents)), scores, number, example.where))
    count = lengths.total()
    if not count:
        found = [
            *(f"the first was {problem}" for problem in problems[:1]),
            *(f"{n} {what}" for what, n in left_out.items() if n),
        ]
        why = f"; every one was left out: {', '.join(found)}" if found else ""
        raise InputError(f"{source.path}: no training examples in it{why}")
    n_ways = max(lengths)
    return SourceInfo(
        path=str(source.path),
        weight=source.weight or float(count),
        examples=count,
        n_ways=n_ways,
        skipped=len(problems),
        short=count - lengths[n_ways],
        left_out={what: n for what, n in left_out.items() if n},
    )


def _scored(config: TrainConfig, example: Example) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The documents and their scores, for an objective that learns from scores. Raises `ValueError`."""
    if example.scores is None:
        raise ValueError(f"has no teacher scores, which {config.objective} learns from; make them with raycol score")
    if len(example.documents) < 2:
        raise ValueError(f"has one document; {config.objective} compares at least 2")
    return example.documents, example.scores


def _positive_and_negatives(example: Example, left_out: Counter[str]) -> tuple[str, ...]:
    """The positive, then its negatives; nothing if the example has no positive.

    Scores say which document is the positive, unless it is known. Documents that are scored as high as the positive
    are no negatives.

    Args:
        example: an example.
        left_out: counts what is left out.

    Raises:
        ValueError: the scores do not tell which one it is.
    """
    documents, scores = example.documents, example.scores
    if scores is None:
        return documents
    if example.is_unrelated():
        left_out[UNRELATED] += 1
        return ()
    if len(documents) + example.documents_left_out == 1:
        return documents
    if example.positive_first:
        left_out[UNUSED] += 1
        return documents
    best = max(scores)
    negatives = tuple(text for text, score in zip(documents, scores, strict=True) if score < best)
    if len(documents) > 1 and not negatives:
        raise ValueError(
            f"all {len(documents)} documents are scored {best:g}, so that none is known to be the positive"
        )
    left_out[AS_GOOD] += len(documents) - 1 - len(negatives)
    return (documents[scores.index(best)], *negatives)


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
class TrainingRow:
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

    def __getitem__(self, number: int) -> TrainingRow:
        query, documents, scores = self.places(number)
        return TrainingRow(self.text(query), [self.text(one) for one in documents], scores)

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
