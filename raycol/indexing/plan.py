"""The plan of a build: cut the corpus into parts, one per partition, and sample documents.

One pass over the corpus checks every record and records where each part starts, so that any worker can read its part.
The plan depends only on the corpus and the settings, not on the workers. `plan_build` makes the pass in this process
and holds an 8-byte hash of each document's id in memory, and twice that plus a byte during the search for duplicates;
`indexing.plan_ranges` spreads it over workers.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data import BadRecord, CorpusFile, Fields, Passage
from raycol.data.corpus import OnError, empty_corpus_error, has_field, refuse, scan_corpus, source_state
from raycol.data.readers.reader import Position
from raycol.errors import InputError, RaycolError

# Bins per octave in the histogram of text lengths.
_BINS_PER_OCTAVE = 4
_REPORT_EVERY = 10_000
# A part ends early at this many characters, because a worker holds its texts in memory.
_MAX_CHARACTERS = 1 << 26
# Memory per document of the search for duplicate ids, measured.
ID_BYTES = 18
# Hashes compared per NumPy call.
_BLOCK = 1 << 20


class CorpusChangedError(RaycolError):
    """The files of a part differ from what was planned."""


@dataclass(frozen=True)
class Slice:
    """Consecutive records of one file.

    Args:
        file: the file.
        start: position of the first record.
        number: number of records of the corpus before it.
        documents: number of usable documents to read.
        skip: lines or rows of the records among them that are skipped.
    """

    file: CorpusFile
    start: Position
    number: int
    documents: int
    skip: tuple[int, ...] = ()


@dataclass(frozen=True)
class PartitionPlan:
    """The part of a corpus that makes one partition: slices of files, and the hexadecimal XXH3 of their documents."""

    slices: tuple[Slice, ...]
    digest: str

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(slice_.documents for slice_ in self.slices)

    @property
    def location(self) -> str:
        """File and first line (row), for messages."""
        first = self.slices[0]
        return f"{first.file} from {'row' if first.file.is_table else 'line'} {first.start.number} on"


@dataclass(frozen=True)
class BuildPlan:
    """The parts of a build in order, and the skipped records.

    `digest` is the XXH3 of the corpus. `lengths` is a histogram of text lengths: bin n counts the documents of about
    2^(n / 4) characters.
    """

    parts: list[PartitionPlan]
    fields: Fields
    problems: list[BadRecord]
    digest: str
    lengths: NDArray[np.int64] = field(repr=False)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return sum(part.documents for part in self.parts)

    def mean_tokens(self, characters_per_token: float, max_tokens: float) -> float:
        """Approximate mean number of tokens of a document, truncated at `max_tokens`."""
        tokens = 2 ** ((np.arange(len(self.lengths)) + 0.5) / _BINS_PER_OCTAVE) / characters_per_token
        return float(np.average(np.minimum(tokens, max_tokens), weights=self.lengths))


@dataclass(frozen=True)
class FileRange:
    """The records of a file that start at or after a position, and before another one.

    Args:
        file: the file.
        start: bytes of a file of lines, rows of a table; a line that starts before it belongs to another range.
        stop: likewise; None for the end of the file.
    """

    file: CorpusFile
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Problem:
    """An unusable record: its file, its line (row), counted from the start of the range, and the reason."""

    file: CorpusFile
    number: int
    what: str

    def at(self, lines: int) -> BadRecord:
        """Return it as a `BadRecord`, after so many lines of the file."""
        return BadRecord(self.file.where(self.number + lines), self.what)


@dataclass
class RangeScan:
    """What a pass over a range found. Lines are counted from the start of the range, as are records.

    Args:
        parts: cut from it.
        problems: unusable records; no more than one if they are not skipped.
        records: number of records.
        hashes: of the ids of its usable documents, in order; none if ids are made.
        lengths: as in `BuildPlan`.
        has_titles: whether a document has a title.
        first: position of the first record.
        following: position of the first record after the range, in the same file.
    """

    parts: list[PartitionPlan]
    problems: list[Problem]
    records: int
    hashes: array[int]
    lengths: NDArray[np.int64]
    has_titles: bool
    first: Position | None = None
    following: Position | None = None


class _PartBuilder:
    """Cuts a corpus into parts, record by record."""

    def __init__(self, docs_per_partition: int, made_ids: bool) -> None:
        self.parts: list[PartitionPlan] = []
        self._size = docs_per_partition
        self._made_ids = made_ids
        self._slices: list[Slice] = []
        self._open: Slice | None = None
        self._skip: list[int] = []
        self._documents = 0
        self._in_part = 0
        self._characters = 0
        self._digest = xxhash.xxh3_64()

    def add(self, file: CorpusFile, position: Position, number: int, passage: Passage | None) -> None:
        """Add the next record of the corpus; `passage` is None if it is skipped."""
        if self._open is None:
            self._open = Slice(file, position, number, 0)
        if passage is None:
            self._skip.append(position.number)
            return
        self._documents += 1
        self._in_part += 1
        self._characters += len(passage.title) + len(passage.text)
        _update_digest(self._digest, passage, self._made_ids)
        if self._in_part == self._size or self._characters >= _MAX_CHARACTERS:
            self.end_file()
            self.end_part()

    def end_file(self) -> None:
        """End the slice: the next record is in another file or part."""
        if self._open and self._documents:
            self._slices.append(replace(self._open, documents=self._documents, skip=tuple(self._skip)))
        self._open, self._documents, self._skip = None, 0, []

    def end_part(self) -> None:
        """End the part: the next record begins another one."""
        if self._slices:
            self.parts.append(PartitionPlan(tuple(self._slices), self._digest.hexdigest()))
        self._slices, self._digest = [], xxhash.xxh3_64()
        self._in_part = self._characters = 0


def plan_build(
    files: Sequence[CorpusFile],
    fields: Fields,
    docs_per_partition: int,
    on_error: OnError = "fail",
    check: Callable[[Passage], None] | None = None,
    report: Report = no_report,
) -> BuildPlan:
    """Check every record of a corpus and cut it into parts of consecutive documents.

    Args:
        files: the corpus, in order.
        fields: names of the fields.
        docs_per_partition: documents per part.
        on_error: what to do with an unusable record.
        check: called with each passage; raises `InputError` if it is unusable.
        report: receives the progress.

    Raises:
        InputError: an unusable record or a duplicate id (unless skipped), an empty corpus, or a title field that no
            document has.
    """
    scan = scan_range([FileRange(file) for file in files], fields, docs_per_partition, on_error, check, report)
    problems = [problem.at(0) for problem in scan.problems]
    for problem in problems:
        refuse(problem, on_error)
    parts, duplicates = _without_duplicates(scan.parts, fields, scan.hashes, on_error)
    return make_plan(
        files,
        fields,
        parts,
        [*problems, *duplicates],
        scan.lengths,
        [source_state(file) for file in files if fields.encoded],
        has_titles=scan.has_titles,
    )


def scan_range(
    ranges: Iterable[FileRange],
    fields: Fields,
    docs_per_partition: int,
    on_error: OnError,
    check: Callable[[Passage], None] | None = None,
    report: Report = no_report,
    number: int = 0,
) -> RangeScan:
    """Check the records of consecutive ranges of files, and cut them into parts.

    Args:
        ranges: only the first may start after the start of its file.
        fields, docs_per_partition, on_error, check, report: see `plan_build`; "fail" stops at the first problem.
        number: records of the corpus before them, for made ids.

    Raises:
        InputError: a file cannot be read, or lacks a column.
    """
    builder = _PartBuilder(docs_per_partition, fields.make_ids is not None)
    scan = RangeScan(builder.parts, [], 0, array("Q"), np.zeros(64 * _BINS_PER_OCTAVE, dtype=np.int64), False)
    for range_ in ranges:
        file = range_.file
        start = file.reader.position(file, range_.start)
        for position, item in scan_corpus(file, fields, start, number + scan.records):
            if range_.stop is not None and position.offset >= range_.stop:
                scan.following = position
                break
            scan.first = scan.first or position
            passage: Passage | None = None
            problem = item.what if isinstance(item, BadRecord) else ""
            if isinstance(item, Passage):
                try:
                    if check:
                        check(item)
                    passage = item
                except InputError as error:
                    problem = str(error)
            if passage is None:
                scan.problems.append(Problem(file, position.number, problem))
                if on_error == "fail":
                    return scan
            else:
                scan.has_titles = scan.has_titles or bool(passage.title)
                scan.lengths[int(_BINS_PER_OCTAVE * math.log2(max(1, len(passage.content))))] += 1
                if fields.make_ids is None:
                    scan.hashes.append(xxhash.xxh3_64_intdigest(passage.id.encode()))
            builder.add(file, position, scan.records, passage)
            scan.records += 1
            if scan.records % _REPORT_EVERY == 0:
                report(scan.records, None, "reading")
        builder.end_file()
    builder.end_part()
    return scan


def make_plan(
    files: Sequence[CorpusFile],
    fields: Fields,
    parts: list[PartitionPlan],
    problems: list[BadRecord],
    lengths: NDArray[np.int64],
    states: Sequence[str],
    *,
    has_titles: bool,
) -> BuildPlan:
    """Return the plan of parts without duplicate ids; raises as `plan_build`.

    Args:
        files, fields: the corpus.
        parts, problems, lengths: see `BuildPlan`.
        states: of the files (`source_state`), if they hold embeddings, which are not read: these stand for them.
        has_titles: whether a document has a title.
    """
    if not parts:
        raise empty_corpus_error(files[0], problems[0] if problems else None)
    if fields.title and not has_titles and not any(has_field(file, fields.title) for file in files):
        raise InputError(
            f"{files[0]}: no document has a field {fields.title!r} for the title; leave `title_column=` out"
        )
    digest = xxhash.xxh3_128("".join(part.digest for part in parts).encode())
    if fields.encoded:
        digest.update("\n".join([repr(fields), *states]).encode("utf-8", "surrogatepass"))
    return BuildPlan(parts, fields, problems, digest.hexdigest(), lengths)


def _update_digest(digest: xxhash.xxh3_64, passage: Passage, made_ids: bool) -> None:
    """Add a passage to a digest, its strings preceded by their lengths; without its id if that is made by counting."""
    metadata = repr(sorted(passage.metadata.items()))
    strings = ("" if made_ids else passage.id, passage.title, passage.text, metadata)
    digest.update(f"{' '.join(str(len(string)) for string in strings)} ".encode())
    digest.update("".join(strings).encode("utf-8", "surrogatepass"))


def read_part(part: PartitionPlan, fields: Fields, *, tokens: bool = False) -> Iterator[tuple[str, Passage]]:
    """Yield the documents of a part with their file and line (row); with their embeddings if `tokens`.

    Raises:
        RaycolError: the files changed since they were planned; raised after the last document if only contents differ.
    """
    digest = xxhash.xxh3_64()
    n_read = 0
    for number, position, passage in scan_part(part, fields, tokens=tokens):
        _update_digest(digest, passage, fields.make_ids is not None)
        n_read += 1
        yield part.slices[number].file.where(position.number), passage
    if n_read != part.documents or digest.hexdigest() != part.digest:
        raise CorpusChangedError(f"{part.slices[0].file}: the corpus changed during the build; run it again")


def scan_part(part: PartitionPlan, fields: Fields, *, tokens: bool = False) -> Iterator[tuple[int, Position, Passage]]:
    """Yield the documents of a part, each with the number of its slice and its position in the slice's file."""
    for number, slice_ in enumerate(part.slices):
        remaining, skip = slice_.documents, set(slice_.skip)
        for position, item in scan_corpus(slice_.file, fields, slice_.start, slice_.number, tokens=tokens):
            if position.number in skip or not isinstance(item, Passage):
                continue
            yield number, position, item
            remaining -= 1
            if not remaining:
                break


def _without_duplicates(
    parts: list[PartitionPlan], fields: Fields, hashes: array[int], on_error: OnError
) -> tuple[list[PartitionPlan], list[BadRecord]]:
    """Return the parts without documents of duplicate ids, and these documents as problems."""
    hashes_N = np.frombuffer(hashes, dtype=np.uint64)
    candidates = _duplicate_hashes(hashes_N)
    if not candidates:
        return parts, []
    ends = np.cumsum([part.documents for part in parts])
    candidates_by_part: dict[int, set[int]] = {}
    for ordinal in candidates:
        number = int(np.searchsorted(ends, ordinal, side="right"))
        start = int(ends[number]) - parts[number].documents
        candidates_by_part.setdefault(number, set()).add(ordinal - start)
    first: dict[str, str] = {}
    problems: list[BadRecord] = []
    unique = list(parts)
    for number, ordinals in candidates_by_part.items():
        dropped: dict[int, list[int]] = {}
        for ordinal, (slice_number, position, passage) in enumerate(scan_part(parts[number], fields)):
            if ordinal not in ordinals:
                continue
            where = parts[number].slices[slice_number].file.where(position.number)
            problem = duplicate_problem(passage.id, where, first)
            if problem is None:
                continue
            refuse(problem, on_error)
            problems.append(problem)
            dropped.setdefault(slice_number, []).append(position.number)
        if dropped:
            unique[number] = without_records(parts[number], fields, dropped)
    return [part for part in unique if part.slices], problems


def _duplicate_hashes(hashes_N: NDArray[np.uint64]) -> list[int]:
    """Ordinals of all documents whose hash is not unique, ascending. Sorts one copy of the hashes, without indices."""
    return positions_of(repeated_values(hashes_N), hashes_N)


def repeated_values(hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the values that occur more than once, ascending."""
    sorted_N = np.sort(hashes_N)
    return np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])


def positions_of(values_R: NDArray[np.uint64], hashes_N: NDArray[np.uint64]) -> list[int]:
    """Return the ascending positions of the hashes that are among some values, which ascend."""
    positions = []
    for start in range(0, len(hashes_N) if len(values_R) else 0, _BLOCK):
        block = hashes_N[start : start + _BLOCK]
        nearest = values_R[np.minimum(np.searchsorted(values_R, block), len(values_R) - 1)]
        positions += (start + np.flatnonzero(nearest == block)).tolist()
    return positions


def duplicate_problem(id_: str, where: str, first: dict[str, str]) -> BadRecord | None:
    """Return a document as a problem if its id has occurred before; else add the id and its location to `first`."""
    if id_ not in first:
        first[id_] = where
        return None
    return BadRecord(where, f"duplicate id {id_!r}, first on {_shorten(first[id_], where)}")


def _shorten(first: str, second: str) -> str:
    """Return a record's file and line, without the file if it is the same as the second record's."""
    file, _, line = first.rpartition(", ")
    return line if second.startswith(f"{file}, ") else first


def without_records(part: PartitionPlan, fields: Fields, dropped: dict[int, list[int]]) -> PartitionPlan:
    """Return a part without some records (lines or rows) of each slice."""
    slices = [
        replace(
            slice_,
            documents=slice_.documents - len(dropped.get(number, [])),
            skip=(*slice_.skip, *dropped.get(number, [])),
        )
        for number, slice_ in enumerate(part.slices)
    ]
    remaining = PartitionPlan(tuple(slice_ for slice_ in slices if slice_.documents), "")
    digest = xxhash.xxh3_64()
    for _, _, passage in scan_part(remaining, fields):
        _update_digest(digest, passage, fields.make_ids is not None)
    return replace(remaining, digest=digest.hexdigest())


def sample_documents(plan: BuildPlan, size: int, seed: int) -> list[list[int]]:
    """Return a seeded sample of documents, as ascending positions within each part."""
    n = plan.documents
    sample = np.sort(np.random.default_rng(seed).choice(n, min(size, n), replace=False, shuffle=False))
    ends = np.cumsum([part.documents for part in plan.parts])
    starts = np.concatenate([[0], ends[:-1]])
    by_part = np.split(sample, np.searchsorted(sample, ends[:-1]))
    return [(ordinals - start).tolist() for ordinals, start in zip(by_part, starts, strict=True)]
