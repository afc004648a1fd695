"""Write a training set, as two resumable jobs over parts (`distributed/partitioned_job.py`).

    read      slices of the sources -> runs: at most 128 MB of examples, validated, sorted by a random key
    shuffle   all runs of a source -> shards: the examples of a range of keys

Keys are a hash of the query: the shards are the same for any number of workers, and all examples of a source's query
are in one shard. A part holds one run or one shard in memory. A shard keeps the order of its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from raycol.core.progress import Report, no_report
from raycol.core.uris import is_uri
from raycol.data import corpus_files
from raycol.data.corpus import source_state
from raycol.data.examples import no_examples_error
from raycol.data.files import HUB, folder_state, path_kind
from raycol.data.sources import ExampleSource, OpenSource
from raycol.distributed.executor import IN_PROCESS, Executor, WorkersConfig
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker, differences
from raycol.errors import InputError, writing
from raycol.storage import Store, StoredFolder, absolute, open_store, save_folder
from raycol.storage.checked_files import is_content_name
from raycol.storage.store import LOCK, UNFINISHED
from raycol.training.config import TrainConfig
from raycol.training.dataset import PREPARED, PreparedSet, Shard, SourceInfo
from raycol.training.example_table import ExampleTable, Keys, join, random_keys
from raycol.training.reading import ReadSettings, Slice, SliceCounts, plan_parts, read_slice

S = TypeVar("S", bound=ExampleSource)

_FORMAT = 1
# Bytes of a run and of a shard, about.
_SHARD = 1 << 27
# Average examples of a shard, at least, so that none is empty.
_MIN_EXAMPLES = 64
_KEYS = "keys.npy"
# Settings of a source that decide its examples.
_OF_EXAMPLES = {*ExampleSource.model_fields} - {"weight"}
# Names of the folders of the jobs, less the fingerprint.
_READ, _SHUFFLE = "read-", "shuffle-"


class Run(BaseModel):
    """Examples of a source, sorted by key."""

    model_config = ConfigDict(frozen=True)

    source: int
    examples: int
    bytes: int
    stored: StoredFolder


class ReadPart(PartRecord):
    """The runs of a part, and what was read of each source."""

    runs: tuple[Run, ...]
    counts: dict[int, SliceCounts]

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The runs."""
        return [run.stored for run in self.runs]


class ShardPart(PartRecord):
    """A written shard."""

    shard: Shard

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The shard."""
        return [self.shard.stored]


class ShardRange(NamedTuple):
    """The examples of a source with the keys of one of `n` equal ranges."""

    source: int
    number: int
    n: int


def write_training_set(
    config: TrainConfig, location: str | Path, executor: Executor = IN_PROCESS, report: Report = no_report
) -> PreparedSet:
    """Read all sources, validate every example for the objective, and write the shards; or open a finished set.

    Resumes an interrupted command.

    Args:
        config: the settings.
        location: folder or URI of the training set.
        executor: where the workers run if the data have several parts.
        report: receives the progress.

    Raises:
        InputError: a source is unusable or has no examples, an example is unusable and `on_error` is "fail", or the
            folder holds a training set, or an unfinished one, of other data or settings.
        RaycolError: a worker failed, or the folder cannot be written.
    """
    store = open_store(str(location))
    settings = _settings(config, data_states(config))
    # A finished set is not locked: several trainings may open it at once.
    if finished := _finished(store, settings):
        return finished
    with store.lock("preparing the training set"):
        return _finished(store, settings) or _write(config, store, settings, executor, report)


def have_same_set(configs: Sequence[TrainConfig]) -> bool:
    """Whether trainings have the same training set, of the same files."""
    first, *others = (_settings(config, []) for config in configs)
    return all(other == first for other in others)


def _finished(store: Store, settings: dict[str, Any]) -> PreparedSet | None:
    """The finished training set in a store, if any. Raises `InputError` if it is of other data or settings."""
    prepared = PreparedSet.read(store)
    if prepared and (differs := differences(prepared.settings, settings)):
        raise InputError(
            f"{store}: holds a training set that differs in {differs}; pass the same data and settings, or choose "
            "another folder"
        )
    return prepared


def _write(
    config: TrainConfig, store: Store, settings: dict[str, Any], executor: Executor, report: Report
) -> PreparedSet:
    sources = [_source(config, number) for number in range(len(config.data))]
    parts, sizes = plan_parts([OpenSource(source, config.on_error, []) for source in sources])
    read = PartitionedJob(store, _READ, settings, ReadPart)
    shuffle = PartitionedJob(store, _SHUFFLE, settings, ShardPart)
    for job in (read, shuffle):
        job.refuse_others(store)
    if len(parts) == 1:
        executor, report = IN_PROCESS, no_report
    opened = sources if executor.in_process else [with_absolute_paths(source) for source in sources]
    arguments: dict[str, Any] = {"sources": opened, "settings": [*map(ReadSettings.of, config.by_source)]}
    try:
        with executor.session(WorkersConfig(), report):
            records = _run(read, ReadWorker, parts, sizes, arguments, "reading the examples", executor, report)
            infos = [
                _check_source(source, config.n_ways, [one.counts[number] for one in records if number in one.counts])
                for number, source in enumerate(sources)
            ]
            runs = [run for record in records for run in record.runs]
            ranges = _ranges(runs)
            sizes, arguments = [_SHARD] * len(ranges), {"runs": runs}
            shards = _run(shuffle, ShuffleWorker, ranges, sizes, arguments, "shuffling the examples", executor, report)
    except InputError:  # repeating the command would fail again
        with writing(store):
            read.remove()
        raise
    prepared = PreparedSet(settings=settings, sources=tuple(infos), shards=tuple(one.shard for one in shards))
    with writing(store):
        prepared.write(store)
        read.remove()
        shuffle.remove()
    return prepared


def is_of_training_set(name: str) -> bool:
    """Whether a name at the top of a folder may be of a training set, or of one that is being written."""
    is_job = name.startswith((_READ, _SHUFFLE))
    return is_content_name(name) or is_job or name in (PREPARED, LOCK) or UNFINISHED in name


def _settings(config: TrainConfig, states: list[str]) -> dict[str, Any]:
    """What decides the content of a training set, with the state of its files."""
    sources = [with_absolute_paths(_source(config, number)) for number in range(len(config.data))]
    distils = [one.distils for one in config.by_source]
    return {
        "format": _FORMAT,
        "data": [source.model_dump(mode="json", include=_OF_EXAMPLES, exclude_none=True) for source in sources],
        "the data's files": states,
        "n_ways": config.n_ways,
        **({"sample_negatives": True} if config.sample_negatives else {}),
        "on_error": config.on_error,
        "teacher scores": distils if len({*distils}) > 1 else distils[0],
    }


def data_states(config: TrainConfig) -> list[str]:
    """State of the files of the data, a string per location; comparing it detects a change."""
    locations = [
        str(location) for one in config.data for location in (one.path, one.queries, one.documents) if location
    ]
    return [f"{location} {location_state(location)}" for location in locations]


def location_state(location: str) -> str:
    """State of the files of a location; empty if it is not known without reading them."""
    try:
        if path_kind(location) == "folder":
            return folder_state(location, "*")
        return " ".join(source_state(file) for file in corpus_files(location))
    except InputError:  # a model on the hub, a glob of lookup files
        return ""


def _source(config: TrainConfig, number: int) -> ExampleSource:
    source = config.data[number]
    return source.model_copy(update={"split": config.split}) if config.split and not source.split else source


def absolute_input(path: str) -> str:
    """Return the location of data as processes with other working directories open it."""
    return path if path.startswith(HUB) or is_uri(path) else absolute(path)


def with_absolute_paths(source: S) -> S:
    """Return a source as processes with other working directories open it."""
    paths = {name: getattr(source, name) for name in ("path", "queries", "documents")}
    return source.model_copy(update={name: absolute_input(path) for name, path in paths.items() if path is not None})


def _run(
    job: PartitionedJob[Any],
    worker: type[PartWorker[Any, Any]],
    inputs: Sequence[Any],
    sizes: Sequence[int],
    arguments: Mapping[str, Any],
    operation: str,
    executor: Executor,
    report: Report,
) -> list[Any]:
    """Run a job, or the rest of an interrupted one; return the records of all parts."""
    workers = WorkersConfig()
    if not job.exists():
        job.begin()
    finished = job.finished_parts(len(inputs))
    progress = PartProgress(report, sizes, finished, executor.n_workers(workers), operation)
    return job.run(worker, workers, inputs, finished, arguments, operation, executor, progress)


def _check_source(source: ExampleSource, n_ways: int | None, parts: Sequence[SliceCounts]) -> SourceInfo:
    """Return the statistics of a source from those of its slices, in order. Raises `InputError` if it is unusable."""
    counts = SliceCounts()
    for part in parts:
        counts.add(part)
    if counts.parsed:
        OpenSource(source, "skip", None).check_used(counts.looked_up)  # type: ignore[arg-type]
    if not counts.read:
        raise no_examples_error(source, counts.first_unread)
    n_examples = counts.lengths.total()
    left_out = {kind: n for kind, n in counts.left_out.items() if n}
    if not n_examples:
        reasons = [
            *(f"the first problem is {problem}" for problem in [counts.first_problem] if problem),
            *(f"{n} {kind}" for kind, n in left_out.items()),
        ]
        why = f"; all records were left out: {', '.join(reasons)}" if reasons else ""
        raise InputError(f"{source.path}: no training examples{why}")
    n_ways = min(max(counts.lengths), n_ways or max(counts.lengths))
    return SourceInfo(
        path=str(source.path),
        weight=source.weight or float(n_examples),
        examples=n_examples,
        n_ways=n_ways,
        skipped=counts.skipped + counts.skipped_texts,
        short=sum(n for length, n in counts.lengths.items() if length < n_ways),
        left_out=left_out,
    )


class ReadWorker(PartWorker[tuple[Slice, ...], ReadPart]):
    """Reads slices of the sources into runs.

    Args:
        job: the job.
        sources: the sources.
        settings: what decides the examples of each source.
    """

    def __init__(
        self, job: PartitionedJob[ReadPart], sources: Sequence[ExampleSource], settings: Sequence[ReadSettings]
    ) -> None:
        super().__init__(job)
        self._settings = settings
        self._open_source = lru_cache(maxsize=None)(
            lambda number: OpenSource(sources[number], settings[number].on_error, [])
        )

    def describe(self, number: int, input_: tuple[Slice, ...]) -> str:
        """Describe a part for error messages."""
        return f"part {number} of the examples"

    def compute(self, number: int, input_: tuple[Slice, ...]) -> ReadPart:
        """Read the slices of a part, in order, and write their runs."""
        runs: list[Run] = []
        counts: dict[int, SliceCounts] = {}
        tables: list[ExampleTable] = []
        first = number << 32

        def flush(source: int) -> None:
            nonlocal first
            if tables:
                table = join(tables)
                runs.append(self._write(source, table.numbered(np.arange(first, first + len(table)))))
                first += len(table)
                tables.clear()

        for position, part in enumerate(input_):
            read = SliceCounts()
            for table in read_slice(part, self._open_source(part.source), self._settings[part.source], read):
                tables.append(table)
                if sum(one.nbytes for one in tables) >= _SHARD:
                    flush(part.source)
            counts.setdefault(part.source, SliceCounts()).add(read)
            if position + 1 == len(input_) or input_[position + 1].source != part.source:
                flush(part.source)
        return ReadPart(runs=tuple(runs), counts=counts)

    def _write(self, source: int, table: ExampleTable) -> Run:
        """Write a run: the examples in the order of their keys, and the keys."""
        keys = random_keys(table.query_ids())
        order = np.argsort(keys, kind="stable")
        store = self.job.store
        with writing(store), store.workspace(0) as folder:
            table.take(order).save(folder)
            np.save(folder / _KEYS, keys[order])
            stored = save_folder(store, folder, f"{self.job.folder}/runs")
        return Run(source=source, examples=len(table), bytes=table.nbytes, stored=stored)


class ShuffleWorker(PartWorker[ShardRange, ShardPart]):
    """Joins the examples of a range of keys from all runs of a source.

    Args:
        job: the job.
        runs: the runs of all sources.
    """

    def __init__(self, job: PartitionedJob[ShardPart], runs: Sequence[Run]) -> None:
        super().__init__(job)
        self._runs = runs
        self._run = lru_cache(maxsize=None)(self._open_run)

    def describe(self, number: int, input_: ShardRange) -> str:
        """Describe a shard for error messages."""
        return f"shard {number} of the training set"

    def compute(self, number: int, input_: ShardRange) -> ShardPart:
        """Write a shard, its examples in the order of their source."""
        bounds = [(index << 64) // input_.n for index in (input_.number, input_.number + 1)]
        tables = []
        for position, run in enumerate(self._runs):
            if run.source == input_.source:
                table, keys = self._run(position)
                start, stop = (
                    len(keys) if one >> 64 else int(np.searchsorted(keys, np.uint64(one))) for one in bounds
                )
                if stop > start:
                    tables.append(table.take(slice(start, stop)))
        table = join(tables)
        table = table.take(np.argsort(table.numbers))
        store = self.job.store
        with writing(store), store.workspace(0) as folder:
            table.save(folder)
            stored = save_folder(store, folder, "")
        return ShardPart(shard=Shard(source=input_.source, examples=len(table), stored=stored))

    def _open_run(self, position: int) -> tuple[ExampleTable, Keys]:
        folder = self._runs[position].stored.open(self.job.store)
        return ExampleTable.open(folder), np.load(folder / _KEYS, mmap_mode="r")


def _ranges(runs: Sequence[Run]) -> list[ShardRange]:
    """The shards of all sources, those of a source one after the other."""
    ranges = []
    for source in sorted({run.source for run in runs}):
        own = [run for run in runs if run.source == source]
        n = round(sum(run.bytes for run in own) / _SHARD)
        n = max(1, min(n, sum(run.examples for run in own) // _MIN_EXAMPLES))
        ranges += [ShardRange(source, index, n) for index in range(n)]
    return ranges
