"""Plan a large corpus in ranges of its files, on workers: the same plan with any number of them.

The ranges depend only on the files and their sizes. A worker plans a range as if it were the whole corpus
(`plan.scan_range`), and records the result; a repeated command reads the records of ranges that have not changed. The
driver adds up lines and records, so that every message names the right one, and gets by without the ids: workers write
their hashes to files, which `duplicates` compares.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, repeat
from types import MappingProxyType

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from raycol.core.memory import release_memory
from raycol.core.progress import Report
from raycol.core.validation import MAX_ID_BYTES
from raycol.core.version import __version__
from raycol.data import BadRecord, CorpusFile, Fields
from raycol.data.corpus import OnError, refuse
from raycol.data.files import sizes_and_states
from raycol.data.readers.parquet import ParquetReader
from raycol.data.readers.reader import Position
from raycol.distributed.executor import Executor, WorkersConfig
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker
from raycol.errors import InputError, writing
from raycol.index.format.columns import Columns, ColumnType
from raycol.index.format.manifest import BUILDS
from raycol.indexing.config import EncodingConfig
from raycol.indexing.duplicates import IdHashes, RangeIds, repeated_ids, save_hashes
from raycol.indexing.metadata import PASSAGE_NUMBER_BYTES, MetadataCheck
from raycol.indexing.plan import (
    BuildPlan,
    FileRange,
    PartitionPlan,
    Problem,
    duplicate_problem,
    make_plan,
    scan_range,
    without_records,
)
from raycol.storage import Store, StoredFolder

# Stored bytes of a range, and most files in one. Embeddings are not read, and take most of the bytes of a document.
RANGE_BYTES = 64 << 20
_ENCODED = 32
_RANGE_FILES = 4096
# Memory of a task that reads a part again.
_PART_BYTES = 1 << 29
# Counts changes of what a range records.
_PLAN_VERSION = 1
# Threads that read the footers of large Parquet files.
_READERS = 16


@dataclass(frozen=True)
class CorpusRange:
    """Consecutive ranges of files, which a worker plans; `state` identifies them and the contents of their files."""

    files: tuple[FileRange, ...]
    state: str

    @property
    def continues(self) -> bool:
        """Whether it starts within a file, so that its lines are not counted from the start of the file."""
        return self.files[0].start > 0 and not self.files[0].file.is_table


class PlannedRange(PartRecord):
    """The plan of a range. Lines and records are counted from its start, as in `RangeScan`.

    Args:
        state: of the range when it was planned.
        parts, problems, records, lengths, has_titles, first, following: see `RangeScan`.
        columns: inferred from its documents.
        hashes: the file of its ids' hashes; None if there are none.
        failure: why it cannot be read; else empty.
    """

    state: str
    parts: list[PartitionPlan] = Field([])
    problems: list[Problem] = Field([])
    records: int = 0
    lengths: list[int] = Field([])
    has_titles: bool = False
    first: Position | None = None
    following: Position | None = None
    columns: dict[str, ColumnType] = Field({})
    hashes: IdHashes | None = None
    failure: str = ""

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The hashes."""
        return [self.hashes.stored] if self.hashes else []


def cut_corpus(files: Sequence[CorpusFile], *, encoded: bool = False) -> list[CorpusRange]:
    """Cut a corpus into ranges of about `RANGE_BYTES`: parts of large files that divide, or several small files.

    Args:
        files: the corpus.
        encoded: whether it holds embeddings; then ranges are larger.

    Raises:
        InputError: a file cannot be read.
    """
    on_disk = [file for file in files if file.reader.suffixes]
    if len(on_disk) < len(files):  # datasets, whose libraries read them as a whole
        return [CorpusRange(tuple(map(FileRange, files)), "")]
    sizes, states = sizes_and_states([file.uri for file in files])
    range_bytes = RANGE_BYTES * (_ENCODED if encoded else 1)
    large = [file for file, size in zip(files, sizes, strict=True) if size > range_bytes]
    with ThreadPoolExecutor(_READERS) as pool:
        stops = dict(zip(large, pool.map(_stops, large, repeat(range_bytes)), strict=True))
    ranges: list[CorpusRange] = []
    small: list[tuple[FileRange, str]] = []
    small_bytes = 0

    def end_small() -> None:
        nonlocal small_bytes
        if small:
            ranges.append(_range([file for file, _ in small], [state for _, state in small]))
        small.clear()
        small_bytes = 0

    for file, size, state in zip(files, sizes, states, strict=True):
        if inner := stops.get(file):
            end_small()
            bounds = [0, *inner]
            ranges += [
                _range([FileRange(file, start, stop)], [state])
                for start, stop in zip(bounds, [*inner, None], strict=True)
            ]
            continue
        if small and (small_bytes + size > range_bytes or len(small) == _RANGE_FILES):
            end_small()
        small.append((FileRange(file), state))
        small_bytes += size
    end_small()
    return ranges


def _range(files: Sequence[FileRange], states: Sequence[str]) -> CorpusRange:
    described = json.dumps([[asdict(file), state] for file, state in zip(files, states, strict=True)])
    return CorpusRange(tuple(files), xxhash.xxh3_128_hexdigest(described.encode("utf-8", "surrogatepass")))


def _stops(file: CorpusFile, range_bytes: int) -> list[int]:
    """Positions within a large file at which ranges start; none if it does not divide."""
    reader = file.reader
    if not reader.divides(file):
        return []
    if isinstance(reader, ParquetReader):
        groups = reader.row_groups(file)
        row_bytes = sum(n_bytes for _, n_bytes in groups) / max(1, sum(rows for rows, _ in groups))
        ends, stops = accumulate(rows for rows, _ in groups), [0]
        for end in list(ends)[:-1]:
            if (end - stops[-1]) * row_bytes >= range_bytes:
                stops.append(end)
        return stops[1:]
    size = reader.count(file)
    n_ranges = -(-size // range_bytes)
    return [number * size // n_ranges for number in range(1, n_ranges)]


class RangePlanner(PartWorker[CorpusRange, PlannedRange]):
    """Plans ranges, and records those without errors.

    Args:
        job: the planning; its store is the index.
        settings: what decides the plans.
    """

    def __init__(self, job: PartitionedJob[PlannedRange], settings: _Settings) -> None:
        super().__init__(job)
        self._settings = settings

    def describe(self, number: int, input_: CorpusRange) -> str:
        """The first file of the range, and where it starts."""
        first = input_.files[0]
        return f"{first.file}{f' from {first.start}' if first.start else ''}"

    def work(self, number: int, input_: CorpusRange) -> PlannedRange:
        """Plan a range. What must be planned again once the corpus is corrected is not recorded."""
        planned = self.compute(number, input_)
        if not planned.failure and not (planned.problems and self._settings.on_error == "fail"):
            self.job.save(number, planned)
        release_memory()
        return planned

    def compute(self, number: int, input_: CorpusRange) -> PlannedRange:
        """Plan a range, and write the hashes of its ids."""
        return self._settings.plan(self.job, number, input_)


@dataclass(frozen=True)
class _Settings:
    """What decides the plan of a range; `split` is whether documents will be split, the rest as in `plan_build`."""

    fields: Fields
    docs_per_partition: int
    on_error: OnError
    split: bool

    def plan(
        self,
        job: PartitionedJob[PlannedRange],
        number: int,
        range_: CorpusRange,
        records: int = 0,
        columns: Columns = MappingProxyType({}),
    ) -> PlannedRange:
        """Plan a range, and write the hashes of its ids.

        Args:
            job: whose folder the hashes are written to.
            number: of the range.
            range_: the range.
            records: records of the corpus before it.
            columns: of their documents.
        """
        check = MetadataCheck(self.fields, split=self.split, earlier=columns)
        try:
            scan = scan_range(range_.files, self.fields, self.docs_per_partition, self.on_error, check, number=records)
        except InputError as error:
            return PlannedRange(state=range_.state, failure=str(error))
        hashes = save_hashes(job.store, job.folder, f"{number:08d}", scan.hashes) if scan.hashes else None
        return PlannedRange(
            state=range_.state,
            parts=scan.parts,
            problems=scan.problems,
            records=scan.records,
            lengths=scan.lengths.tolist(),
            has_titles=scan.has_titles,
            first=scan.first,
            following=scan.following,
            columns=check.columns,
            hashes=hashes,
        )


def plan_corpus(
    config: EncodingConfig,
    files: Sequence[CorpusFile],
    ranges: Sequence[CorpusRange],
    fields: Fields,
    split: bool,
    store: Store,
    base: int,
    report: Report,
    executor: Executor,
) -> tuple[BuildPlan, Columns]:
    """Plan a corpus on workers; return the plan and the metadata columns, as `plan_build` and `MetadataCheck` would.

    Parts end with their ranges, so that those of a corpus in several ranges are others than those of `plan_build`.

    Args:
        config: settings of the build.
        files, ranges: the corpus, and what `cut_corpus` made of it.
        fields: names of its fields.
        split: whether documents will be split.
        store: the index, which keeps the records of ranges until the build is complete.
        base: the version that the build starts from.
        report: receives the progress.
        executor: runs the workers, one a CPU.

    Raises:
        InputError: as `plan_build`.
    """
    settings = _Settings(fields, config.docs_per_partition, config.on_error, split)
    decides = {
        **json.loads(json.dumps(asdict(settings))),
        "range_bytes": RANGE_BYTES,
        "raycol": __version__,
        "plan": _PLAN_VERSION,
    }
    job = PartitionedJob(store, _prefix(base), decides, PlannedRange)
    workers = WorkersConfig(resources={"CPU": 1.0, **config.placing})
    with writing(store):
        job.begin()
    finished = {
        number: record
        for number, record in job.finished_parts(len(ranges)).items()
        if record.state == ranges[number].state
    }
    progress = PartProgress(report, [1] * len(ranges), finished, executor.n_workers(workers), "planning", "ranges")
    progress.start()
    missing = {number: range_ for number, range_ in enumerate(ranges) if number not in finished}
    arguments = {"job": job, "settings": settings}
    merged = _Merge(settings, job)
    waiting: dict[int, PlannedRange] = dict(finished)
    done = 0

    def take() -> None:
        """Merge the ranges that follow those merged so far, in order: the first problem of the corpus is raised."""
        nonlocal done
        while done in waiting:
            merged.add(done, ranges[done], waiting.pop(done))
            done += 1

    try:
        take()
        for number, planned in executor.run(RangePlanner, workers, missing, arguments, "the plan"):
            waiting[number] = planned
            take()
            progress.add(number, planned)
        parts, duplicates = merged.without_duplicates(executor, workers)
    except InputError:
        if not job.finished_parts(len(ranges)):
            forget_plans(store, base)
        raise
    states = [range_.state for range_ in ranges] if fields.encoded else []
    check = MetadataCheck(fields, split=split, earlier=merged.columns)
    plan = make_plan(
        files, fields, parts, [*merged.problems, *duplicates], merged.lengths, states, has_titles=merged.has_titles
    )
    return plan, check.finish(files[0])


def forget_plans(store: Store, base: int) -> None:
    """Delete the records of all ranges, and their folder if that leaves it empty.

    Args:
        store: the index.
        base: the version that the builds start from.
    """
    parent, _, start = _prefix(base).rpartition("/")
    with writing(store):
        store.remove_all([f"{parent}/{name}" for name in store.names(parent) if name.startswith(start)])
    store.remove_empty_folder(parent)
    store.remove_if_empty()


def _prefix(base: int) -> str:
    return f"{BUILDS}/{base:08d}-plan-"


class _Merge:
    """Joins the plans of ranges, in the order of the corpus."""

    def __init__(self, settings: _Settings, job: PartitionedJob[PlannedRange]) -> None:
        self.parts: list[PartitionPlan] = []
        self.problems: list[BadRecord] = []
        self.columns: dict[str, ColumnType] = {}
        self.lengths: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self.has_titles = False
        self._settings, self._job = settings, job
        self._records = 0
        # The record that follows the last range in the same file, with its line in the file.
        self._following: Position | None = None
        # Hashes of each range that has any, and its first and last part.
        self._hashes: list[tuple[IdHashes, int, int]] = []

    def add(self, number: int, range_: CorpusRange, planned: PlannedRange) -> None:
        """Add the next range. Raises `InputError` if it cannot be read, or at a problem that is not skipped."""
        _check_read(planned)
        columns = _joined(self.columns, planned.columns)
        fields = self._settings.fields
        last_id = f"{fields.make_ids}{self._records + planned.records}" if fields.make_ids is not None else ""
        too_long = len(last_id.encode()) > MAX_ID_BYTES - PASSAGE_NUMBER_BYTES
        mixed = any(kind == "double" and not fields.metadata[name] for name, kind in self.columns.items())
        named = planned.problems and self._records and (mixed or fields.make_ids is not None)
        if columns is None or named or too_long:
            # Which records are unusable depends on earlier columns, and on the length of made ids; messages name ids
            # and types.
            planned = self._settings.plan(self._job, number, range_, self._records, self.columns)
            _check_read(planned)
            columns = planned.columns
        self.columns = columns
        known, lines = planned.first or planned.following, 0
        if range_.continues and known and self._following:
            lines = self._following.number - known.number
        for problem in planned.problems:
            refuse(bad := problem.at(lines), self._settings.on_error)
            self.problems.append(bad)
        first_part = len(self.parts)
        self.parts += [_moved(part, lines, self._records) for part in planned.parts]
        if planned.hashes:
            self._hashes.append((planned.hashes, first_part, len(self.parts)))
        self._records += planned.records
        self.lengths = self.lengths + np.array(planned.lengths)
        self.has_titles = self.has_titles or planned.has_titles
        following = planned.following
        self._following = replace(following, number=following.number + lines) if following else None

    def without_duplicates(
        self, executor: Executor, workers: WorkersConfig
    ) -> tuple[list[PartitionPlan], list[BadRecord]]:
        """Return the parts without documents of duplicate ids, and these documents as problems."""
        ranges = [RangeIds(hashes, first, tuple(self.parts[first:end])) for hashes, first, end in self._hashes]
        first: dict[str, str] = {}
        problems: list[BadRecord] = []
        dropped: dict[int, dict[int, list[int]]] = {}
        for repeated in repeated_ids(
            self._job.store, self._job.folder, ranges, self._settings.fields, executor, workers
        ):
            where = self.parts[repeated.part].slices[repeated.slice].file.where(repeated.number)
            if problem := duplicate_problem(repeated.id, where, first):
                refuse(problem, self._settings.on_error)
                problems.append(problem)
                dropped.setdefault(repeated.part, {}).setdefault(repeated.slice, []).append(repeated.number)
        calls = {number: (self.parts[number], self._settings.fields, dropped[number]) for number in dropped}
        memory = dict.fromkeys(calls, _PART_BYTES)
        for number, part in executor.call(without_records, calls, "the plan", workers, memory):
            self.parts[number] = part
        return [part for part in self.parts if part.slices], problems


def _check_read(planned: PlannedRange) -> None:
    """Raise `InputError` if a range could not be read."""
    if planned.failure:
        raise InputError(planned.failure)


def _joined(columns: Columns, more: Columns) -> dict[str, ColumnType] | None:
    """Return the columns of documents of `columns` and later ones of `more`; None if some of these do not fit."""
    joined = dict(columns)
    for name, kind in more.items():
        before = joined.setdefault(name, kind)
        if {before, kind} == {"int64", "double"}:
            joined[name] = "double"
        elif before != kind:
            return None
    return joined


def _moved(part: PartitionPlan, lines: int, records: int) -> PartitionPlan:
    """Return a part of a range that starts after so many lines of its file and records of the corpus."""
    slices = [
        replace(
            slice_,
            start=replace(slice_.start, number=slice_.start.number + lines),
            number=slice_.number + records,
            skip=tuple(number + lines for number in slice_.skip),
        )
        for slice_ in part.slices
    ]
    return replace(part, slices=tuple(slices))
