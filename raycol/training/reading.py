"""Read a slice of a source into tables of examples, validated for the objective. Plain functions, no Ray.

Plain columns of Parquet are taken as they are (`columnar.py`); all else is parsed row by row, with the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from raycol.data.corpus import OnError, refuse
from raycol.data.examples import Example, ExampleHeader, ExampleReader, read_beir
from raycol.data.files import size_of
from raycol.data.readers.parquet import ParquetReader, rows_of
from raycol.data.readers.reader import BadRecord, CorpusFile, Position
from raycol.data.sources import OpenSource
from raycol.training.columnar import take_examples
from raycol.training.config import TrainConfig
from raycol.training.example_table import ExampleTable, TableBuilder

# Keys of `SliceCounts.left_out`, as reports print them.
BEYOND_N_WAYS = "documents beyond `n_ways=`"
LABELLED_ZERO = "pairs labelled 0"
UNUSED_SCORES = "examples' scores (the positive is named)"
TIED_WITH_POSITIVE = "documents scored as high as the positive"

# A table ends after this many parsed rows, or characters of text.
_ROWS, _CHARACTERS = 4096, 1 << 24
# Bytes of a part of the sources, and of a row of a dataset, whose size is unknown.
_PART, _ROW = 1 << 26, 500
# Bytes of a batch of Parquet.
_BATCH = 1 << 24


@dataclass(frozen=True)
class Slice:
    """A part of a source.

    Args:
        source: index of the source.
        file: a file of the source; None for a BEIR folder.
        start: first row of a table.
        n_rows: number of rows of a table; None for all that follow.
    """

    source: int
    file: CorpusFile | None
    start: int = 0
    n_rows: int | None = None


@dataclass(frozen=True)
class ReadSettings:
    """What decides which examples a record becomes.

    Args:
        on_error: what to do with an unusable record.
        n_ways: maximum number of documents per example; None keeps all.
        distils: whether examples need teacher scores.
        objective: name of the objective, for messages.
    """

    on_error: OnError
    n_ways: int | None
    distils: bool
    objective: str

    @classmethod
    def of(cls, config: TrainConfig) -> ReadSettings:
        """The settings of a training."""
        n_ways = None if config.sample_negatives else config.n_ways
        return cls(config.on_error, n_ways, config.distils, config.objective_name)


class SliceCounts(BaseModel):
    """What was read of a source.

    Args:
        read: number of examples, before they are validated for the objective.
        lengths: number of written examples by number of documents.
        left_out: number of other items left out, by kind.
        skipped: number of unusable records.
        skipped_texts: number of unusable records of the files with texts by id.
        first_unread: the first record that was no example.
        first_problem: the first unusable record of any kind.
        parsed: number of examples parsed, also those with an unknown id.
        looked_up: roles of which texts were looked up by id.
    """

    read: int = 0
    lengths: Counter[int] = Counter()
    left_out: Counter[str] = Counter()
    skipped: int = 0
    skipped_texts: int = 0
    first_unread: BadRecord | None = None
    first_problem: BadRecord | None = None
    parsed: int = 0
    looked_up: set[str] = set()

    def add(self, other: SliceCounts) -> None:
        """Add the counts of the next slice of the same source."""
        self.read += other.read
        self.lengths += other.lengths
        self.left_out += other.left_out
        self.skipped += other.skipped
        self.skipped_texts = max(self.skipped_texts, other.skipped_texts)  # each worker reads these files as a whole
        self.first_unread = self.first_unread or other.first_unread
        self.first_problem = self.first_problem or other.first_problem
        self.parsed += other.parsed
        self.looked_up |= other.looked_up


def plan_parts(opened: Sequence[OpenSource]) -> tuple[list[tuple[Slice, ...]], list[int]]:
    """Divide the sources into parts of similar size; return the slices and the bytes of each part."""
    parts: list[list[Slice]] = [[]]
    sizes = [0]
    for number, source in enumerate(opened):
        for part, n_bytes in _slices(number, source):
            if sizes[-1] + n_bytes > _PART and parts[-1]:
                parts.append([])
                sizes.append(0)
            parts[-1].append(part)
            sizes[-1] += n_bytes
    return [tuple(part) for part in parts], sizes


def _slices(number: int, opened: OpenSource) -> Iterator[tuple[Slice, int]]:
    """Yield the slices of a source with their bytes. A table is divided by rows, a file of lines is one slice."""
    if opened.beir:
        yield Slice(number, None), 0
    for file in opened.files:
        if isinstance(file.reader, ParquetReader):
            # Decoding starts at a row group.
            groups = file.reader.row_groups(file) or [(0, 0)]
        elif file.is_table and file.format != "npz":
            n_rows = _PART // _ROW
            n = file.reader.count(file)
            groups = [(min(n_rows, n - start), n_rows * _ROW) for start in range(0, max(1, n), n_rows)]
        else:
            yield Slice(number, file), size_of(file.uri)
            continue
        start = n_rows = n_bytes = 0
        for group_rows, group_bytes in groups:
            n_rows, n_bytes = n_rows + group_rows, n_bytes + group_bytes
            if n_bytes >= _PART:
                yield Slice(number, file, start, n_rows), n_bytes
                start, n_rows, n_bytes = start + n_rows, 0, 0
        if n_rows or not start:
            yield Slice(number, file, start, n_rows), n_bytes


def read_slice(part: Slice, opened: OpenSource, settings: ReadSettings, counts: SliceCounts) -> Iterator[ExampleTable]:
    """Yield the examples of a slice as tables, in order.

    Args:
        part: the slice.
        opened: its source.
        settings: what decides the examples.
        counts: updated in place.

    Raises:
        InputError: the source cannot be read, or a record is unusable and `on_error` is "fail".
    """
    reader = ExampleReader(opened, settings.n_ways)
    builder = TableBuilder()
    for piece in _pieces(part, opened, reader, settings, counts):
        if isinstance(piece, ExampleTable):
            if len(builder):
                yield builder.build()
            yield piece
            continue
        for item in piece:
            _add(item, settings, counts, builder)
            if len(builder) == _ROWS or builder.nbytes >= _CHARACTERS:
                yield builder.build()
    if len(builder):
        yield builder.build()
    counts.parsed += reader.n_parsed
    counts.looked_up |= reader.looked_up
    counts.skipped_texts = len(opened.problems or ())
    if opened.problems:
        counts.first_problem = opened.problems[0]


def _pieces(
    part: Slice, opened: OpenSource, reader: ExampleReader, settings: ReadSettings, counts: SliceCounts
) -> Iterator[ExampleTable | Iterable[Example | BadRecord]]:
    """Yield the examples of a slice: tables of those taken by column, and the items of parsed rows."""
    file = part.file
    if not file:
        yield read_beir(opened, settings.n_ways)
        return
    header = ExampleHeader(file, opened)
    if not isinstance(file.reader, ParquetReader):
        rows = file.rows(header.select, header.infer_names, Position(part.start, part.start + 1))
        yield reader.parse(file, header, islice(rows, part.n_rows))
        return
    left = part.n_rows
    for first, batch in file.reader.batches(file, header.select, part.start, _BATCH):
        batch, left = batch.slice(0, left), None if left is None else left - batch.num_rows
        if batch.num_rows:
            taken = take_examples(
                batch, _where(file, first, len(batch)), header.columns, settings.n_ways, settings.distils
            )
            if taken:
                _count(taken.table, taken.documents_left_out, counts)
                reader.n_parsed += len(taken.table)
                yield taken.table
            else:
                yield reader.parse(file, header, rows_of(batch, file, first))
        if left is not None and left <= 0:
            return


def _where(file: CorpusFile, first: int, n: int) -> pa.Array:
    """`file.where` of rows."""
    numbers = pa.array(np.arange(first + 1, first + n + 1)).cast(pa.string())
    return pc.binary_join_element_wise(file.where(0)[:-1], numbers, "")


def _count(table: ExampleTable, documents_left_out: int, counts: SliceCounts) -> None:
    counts.read += len(table)
    lengths, numbers = np.unique(table.examples.column("documents").value_lengths(), return_counts=True)
    counts.lengths.update(dict(zip(lengths.tolist(), numbers.tolist(), strict=True)))
    counts.left_out[BEYOND_N_WAYS] += documents_left_out


def _add(item: Example | BadRecord, settings: ReadSettings, counts: SliceCounts, builder: TableBuilder) -> None:
    """Validate an example for the objective, count it, and add it to a table."""
    if isinstance(item, BadRecord):
        refuse(item, settings.on_error)
        counts.first_unread = counts.first_unread or item
        _skip(item, counts)
        return
    counts.read += 1
    try:
        if settings.distils:
            documents, scores = _scored_documents(settings, item)
        else:
            documents, scores = _positive_and_negatives(item, counts.left_out), None
    except ValueError as error:
        refuse(BadRecord(item.where, str(error)), settings.on_error)
        _skip(BadRecord(item.where, str(error)), counts)
        return
    counts.left_out[BEYOND_N_WAYS] += item.documents_left_out
    if documents:
        counts.lengths[len(documents)] += 1
        builder.add(item.query, documents, scores, item.where)


def _skip(problem: BadRecord, counts: SliceCounts) -> None:
    counts.skipped += 1
    counts.first_problem = counts.first_problem or problem


def _scored_documents(settings: ReadSettings, example: Example) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The documents and their teacher scores. Raises `ValueError` if distillation cannot use them."""
    if example.scores is None:
        raise ValueError(f"has no teacher scores, which {settings.objective} needs; add them with raycol score")
    if len(example.documents) < 2:
        raise ValueError(f"has one document; {settings.objective} compares at least 2")
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
