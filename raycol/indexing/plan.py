"""The plan of a build: which records of the corpus make which partition, and which documents are sampled.

One pass over the corpus checks every record and notes where each partition starts, so that any worker can
read its own part. The plan depends on the corpus and the settings alone, never on who works. Memory holds the hash of
each document's id, eight bytes; twice, and a byte more, while repeated ones are looked for.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import TypeAdapter

from raycol.core.progress import Report, no_report
from raycol.data import BadRecord, CorpusFile, Fields, Passage
from raycol.data.corpus import OnError, empty_corpus_error, has_field, refuse, scan_corpus, source_state
from raycol.data.position import Position
from raycol.errors import InputError, RaycolError

# Documents are counted by the length of their text, in steps of a quarter of an octave.
_STEPS_AN_OCTAVE = 4
_REPORT_EVERY = 10_000
# A part ends early where its texts are as long as this together: a worker holds them.
_MOST_CHARACTERS = 1 << 26
# What looking for repeated ids takes a document, as measured.
ID_BYTES = 18
# Hashes of ids that are compared at once.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Slice:
    """Consecutive records of one file.

    Args:
        file: where they are.
        start: where the first one starts.
        number: how many records of the corpus come before it.
        documents: how many usable documents to read from there.
        skip: numbers (lines or rows) of the records among them that are left out.
    """

    file: CorpusFile
    start: Position
    number: int
    documents: int
    skip: tuple[int, ...] = ()


@dataclass(frozen=True)
class PartitionPlan:
    """What makes one partition: slices of one file or more, and the XXH3 of their documents in hexadecimal."""

    slices: tuple[Slice, ...]
    digest: str

    @property
    def documents(self) -> int:
        """How many documents."""
        return sum(piece.documents for piece in self.slices)

    def to_json(self) -> str:
        """As a worker gets it."""
        return _PART.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> PartitionPlan:
        """Undo `to_json`."""
        return _PART.validate_json(text)


_PART = TypeAdapter(PartitionPlan)


@dataclass(frozen=True)
class BuildPlan:
    """A build's partitions in order, what is in them, and what was left out.

    `lengths` counts documents by the length of their text: entry n those of about 2^(n / 4) characters.
    """

    parts: list[PartitionPlan]
    fields: Fields
    problems: list[BadRecord]
    digest: str
    lengths: NDArray[np.int64] = field(repr=False)

    @property
    def documents(self) -> int:
        """How many documents."""
        return sum(part.documents for part in self.parts)

    def mean_tokens(self, characters_a_token: float, longest: float) -> float:
        """About how many tokens a document has, where none may have more than `longest`."""
        tokens = 2 ** ((np.arange(len(self.lengths)) + 0.5) / _STEPS_AN_OCTAVE) / characters_a_token
        return float(np.average(np.minimum(tokens, longest), weights=self.lengths))


class _Cutter:
    """Cuts a corpus into parts, record by record."""

    def __init__(self, docs_per_partition: int) -> None:
        self.parts: list[PartitionPlan] = []
        self._size = docs_per_partition
        self._slices: list[Slice] = []
        self._open: Slice | None = None
        self._skip: list[int] = []
        self._documents = 0
        self._in_part = 0
        self._characters = 0
        self._digest = xxhash.xxh3_64()

    def add(self, file: CorpusFile, position: Position, number: int, passage: Passage | None) -> None:
        """Take the next record; None for one that is left out."""
        if self._open is None:
            self._open = Slice(file, position, number, 0)
        if passage is None:
            self._skip.append(position.number)
            return
        self._documents += 1
        self._in_part += 1
        self._characters += len(passage.title) + len(passage.text)
        _digest(self._digest, passage)
        if self._in_part == self._size or self._characters >= _MOST_CHARACTERS:
            self.end_file()
            self.end_part()

    def end_file(self) -> None:
        """The next record is in another file."""
        if self._open and self._documents:
            self._slices.append(replace(self._open, documents=self._documents, skip=tuple(self._skip)))
        self._open, self._documents, self._skip = None, 0, []

    def end_part(self) -> None:
        """The next record begins a part."""
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
        fields: which fields are what.
        docs_per_partition: documents a part.
        on_error: what to do with a record that cannot be used.
        check: looks at each passage; raises `InputError` where it cannot be used.
        report: is told how it goes.

    Raises:
        InputError: an unusable record or a repeated id (unless skipped), or an empty corpus.
    """
    cutter = _Cutter(docs_per_partition)
    problems: list[BadRecord] = []
    hashes = array("Q")
    lengths = np.zeros(64 * _STEPS_AN_OCTAVE, dtype=np.int64)
    number = 0
    titled = False
    for file in files:
        for position, item in scan_corpus(file, fields, number=number):
            passage: Passage | None = None
            problem = item if isinstance(item, BadRecord) else None
            if isinstance(item, Passage):
                try:
                    if check:
                        check(item)
                    passage = item
                except InputError as error:
                    problem = BadRecord(file.where(position.number), str(error))
            if problem:
                refuse(problem, on_error)
                problems.append(problem)
            if passage:
                titled = titled or bool(passage.title)
                lengths[int(_STEPS_AN_OCTAVE * math.log2(max(1, len(passage.content))))] += 1
                if fields.make_ids is None:
                    hashes.append(xxhash.xxh3_64_intdigest(passage.id.encode()))
            cutter.add(file, position, number, passage)
            number += 1
            if number % _REPORT_EVERY == 0:
                report(number, None, "reading")
        cutter.end_file()
    cutter.end_part()
    parts, repeats = _without_repeats(cutter.parts, fields, hashes, on_error)
    problems += repeats
    if not parts:
        raise empty_corpus_error(files[0], problems[0] if problems else None)
    if fields.title and not titled and not any(has_field(file, fields.title) for file in files):
        raise InputError(
            f"{files[0]}: no document has a field {fields.title!r} for the title; leave --title-column out"
        )
    whole = xxhash.xxh3_128("".join(part.digest for part in parts).encode())
    if fields.encoded:  # embeddings were not read: what stands for them is which field of which files they are
        whole.update("\n".join([repr(fields), *map(source_state, files)]).encode("utf-8", "surrogatepass"))
    return BuildPlan(parts, fields, problems, whole.hexdigest(), lengths)


def _digest(digest: xxhash.xxh3_64, passage: Passage) -> None:
    """Take in a passage, each part kept apart from the next by its length."""
    metadata = repr(sorted(passage.metadata.items()))
    strings = (passage.id, passage.title, passage.text, metadata)
    digest.update(f"{' '.join(str(len(string)) for string in strings)} ".encode())
    digest.update("".join(strings).encode("utf-8", "surrogatepass"))


def read_part(part: PartitionPlan, fields: Fields, *, tokens: bool = False) -> Iterator[tuple[str, Passage]]:
    """The passages of a part, each with where it stands; with their embeddings if `tokens`.

    Raises:
        RaycolError: the files are no longer what was planned; after the last passage, where only contents differ.
    """
    digest = xxhash.xxh3_64()
    found = 0
    for number, position, passage in _scan_part(part, fields, tokens=tokens):
        _digest(digest, passage)
        found += 1
        yield part.slices[number].file.where(position.number), passage
    if found != part.documents or digest.hexdigest() != part.digest:
        raise RaycolError(f"{part.slices[0].file}: the corpus changed during the build; run it again")


def _scan_part(
    part: PartitionPlan, fields: Fields, *, tokens: bool = False
) -> Iterator[tuple[int, Position, Passage]]:
    """The passages of a part as they are now, with the number of their slice and where in its file they stand."""
    for number, piece in enumerate(part.slices):
        left, skip = piece.documents, set(piece.skip)
        for position, item in scan_corpus(piece.file, fields, piece.start, piece.number, tokens=tokens):
            if position.number in skip or not isinstance(item, Passage):
                continue
            yield number, position, item
            left -= 1
            if not left:
                break


def _without_repeats(
    parts: list[PartitionPlan], fields: Fields, hashes: array[int], on_error: OnError
) -> tuple[list[PartitionPlan], list[BadRecord]]:
    """The parts without documents whose id stood before; and these, as problems."""
    hashes_N = np.frombuffer(hashes, dtype=np.uint64)
    suspects = _shared(hashes_N)
    if not suspects:
        return parts, []
    ends = np.cumsum([part.documents for part in parts])
    by_part: dict[int, list[int]] = {}
    for suspect in suspects:
        number = int(np.searchsorted(ends, suspect, side="right"))
        by_part.setdefault(number, []).append(suspect - (int(ends[number]) - parts[number].documents))
    first: dict[str, str] = {}
    problems: list[BadRecord] = []
    kept = list(parts)
    for number, positions in by_part.items():
        wanted = set(positions)
        drop: dict[int, list[int]] = {}
        for place, (piece, position, passage) in enumerate(_scan_part(parts[number], fields)):
            if place not in wanted:
                continue
            where = parts[number].slices[piece].file.where(position.number)
            if passage.id not in first:
                first[passage.id] = where
                continue
            problem = BadRecord(where, f"the id {passage.id!r} stands on {_shorten(first[passage.id], where)} already")
            refuse(problem, on_error)
            problems.append(problem)
            drop.setdefault(piece, []).append(position.number)
        if drop:
            kept[number] = _dropping(parts[number], fields, drop)
    return [part for part in kept if part.slices], problems


def _shared(hashes_N: NDArray[np.uint64]) -> list[int]:
    """Every document that shares its hash with another, in the order of the corpus. Sorts one copy, and no indices."""
    sorted_N = np.sort(hashes_N)
    repeated_R = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    del sorted_N
    found = []
    for start in range(0, len(hashes_N) if len(repeated_R) else 0, _BLOCK):
        block = hashes_N[start : start + _BLOCK]
        nearest = repeated_R[np.minimum(np.searchsorted(repeated_R, block), len(repeated_R) - 1)]
        found += (start + np.flatnonzero(nearest == block)).tolist()
    return found


def _shorten(first: str, second: str) -> str:
    """Where the first one stands, without the file if it is that of the second."""
    file, _, place = first.rpartition(", ")
    return place if second.startswith(f"{file}, ") else first


def _dropping(part: PartitionPlan, fields: Fields, drop: dict[int, list[int]]) -> PartitionPlan:
    """A part without some records of each slice."""
    slices = [
        replace(
            piece, documents=piece.documents - len(drop.get(number, [])), skip=(*piece.skip, *drop.get(number, []))
        )
        for number, piece in enumerate(part.slices)
    ]
    smaller = PartitionPlan(tuple(piece for piece in slices if piece.documents), "")
    digest = xxhash.xxh3_64()
    for _, _, passage in _scan_part(smaller, fields):
        _digest(digest, passage)
    return replace(smaller, digest=digest.hexdigest())


def sample_documents(plan: BuildPlan, size: int, seed: int) -> list[list[int]]:
    """Seeded documents, as positions within each part, ascending."""
    n = plan.documents
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(size, n), replace=False, shuffle=False))
    ends = np.cumsum([part.documents for part in plan.parts])
    pieces = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    starts = np.concatenate([[0], ends[:-1]])
    return [(piece - start).tolist() for piece, start in zip(pieces, starts, strict=True)]
