"""The files of a mining or scoring job, and how they become the result at once.

An unfinished job is in a store of its own beside the result, `.<name>-unfinished`:

    <fingerprint>/inputs/<hash>/00000.parquet    inputs of a part (rewritten by every run)
    <fingerprint>/result/part-00000.parquet      what a finished part wrote
    <fingerprint>/job.json, 00000000.json ...    settings and records (`distributed/partitioned_job.py`)

In a local folder, `result` is renamed to the result. An object store cannot rename, so several files cannot appear at
once: there the result is one Parquet file with a row group per part. It is uploaded last, and an upload is atomic.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel

from raycol.core.progress import Report
from raycol.distributed.executor import Executor, ModelWorkersConfig, choose_executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker, Settings
from raycol.errors import IndexCorruptError, RaycolError, writing
from raycol.mining.report import MINING_REPORT, SCORING_REPORT
from raycol.storage import Store, StoredFolder, open_store, save_folder
from raycol.storage.checked_files import describe_bytes, fsync_folder
from raycol.storage.object_store import RemoteStore

_COUNTS = b"raycol"
_FORMAT = 2


class MinedPart(PartRecord):
    """A finished part: its Parquet file and its counts."""

    output: StoredFolder
    counts: dict[str, int]

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The Parquet file."""
        return [self.output]


class MiningPlan:
    """The inputs of a job, written to one Parquet file per part.

    Args:
        folder: where the files are written; `begin_job` moves them into the job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: list[int] = []
        """Rows of each part."""
        self._digest = xxhash.xxh3_128()

    @property
    def digest(self) -> str:
        """Hash of all rows."""
        return self._digest.hexdigest()

    def add(self, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, rows_per_part: int) -> None:
        """Write rows, `rows_per_part` to a file."""
        source = iter(rows)
        while part := list(islice(source, rows_per_part)):
            self._digest.update(json.dumps(part).encode())
            with writing(self.folder):
                pq.write_table(pa.Table.from_pylist(part, schema), self.folder / _input_name(len(self.sizes)))
            self.sizes.append(len(part))


@dataclass(frozen=True)
class MiningJob:
    """An unfinished job: its parts, and their inputs. Ray passes it to the workers."""

    parts: PartitionedJob[MinedPart]
    inputs: StoredFolder

    def read_part(self, number: int) -> list[dict[str, Any]]:
        """Return the input rows of a part."""
        rows: list[dict[str, Any]] = pq.read_table(self.input_file(_input_name(number))).to_pylist()
        return rows

    def input_file(self, name: str) -> Path:
        """Return the local path of an input file."""
        return self.inputs.file(self.parts.store, name)

    def write_part(self, number: int, table: pa.Table, counts: Mapping[str, int]) -> MinedPart:
        """Write the rows of a part as Parquet; return its record."""
        counts = dict(sorted(counts.items()))
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({_COUNTS: json.dumps(counts)}), content, compression="zstd")
        name, file = _part_name(number), content.getvalue().to_pybytes()
        self.parts.store.write(f"{self._result}/{name}", file)
        return MinedPart(output=StoredFolder(folder=self._result, files={name: describe_bytes(file)}), counts=counts)

    def run(
        self,
        plan: MiningPlan,
        worker: type[PartWorker[None, MinedPart]],
        config: ModelWorkersConfig,
        arguments: Mapping[str, Any],
        operation: str,
        report: Report,
        executor: Executor | None,
    ) -> tuple[list[MinedPart], int]:
        """Compute the parts that are missing.

        Args:
            plan: the inputs.
            worker: class of the workers.
            config: number and resources of the workers.
            arguments: constructor arguments of the worker, besides those of `_JobWorker`.
            operation: names the work in errors.
            report: receives the progress, in rows.
            executor: runs the workers; None leaves it to `choose_executor`.

        Returns:
            The records of every part, and the number of parts that an earlier run had finished.
        """
        n_parts = len(plan.sizes)
        executor = executor or choose_executor(config, n_parts)
        with executor.session(config, report):
            finished = self.parts.finished_parts(n_parts)
            progress = PartProgress(report, plan.sizes, finished, executor.n_workers(config))
            arguments = {**config.model_arguments, "inputs": self.inputs, **arguments}
            inputs = [None] * n_parts
            records = self.parts.run(worker, config, inputs, finished, arguments, operation, executor, progress)
        return records, len(finished)

    def publish(self, out: str, finished: Sequence[MinedPart], name: str, report: BaseModel) -> None:
        """Turn the finished parts and the report into the result at `out`, and delete the job."""
        store, target, content = self.parts.store, open_store(out), report.model_dump_json(indent=1).encode()
        try:
            files = {name: info for part in finished for name, info in part.output.files.items()}
            store.check_lengths({self._result: files})
        except IndexCorruptError as error:
            raise RaycolError(
                f"{error}, although a worker wrote it; put `out` on storage that all nodes share"
            ) from None
        if isinstance(target, RemoteStore):
            with tempfile.TemporaryDirectory(prefix="raycol-") as folder:
                path = Path(folder) / _part_name(0)
                _join(store, finished, path)
                target.write(name, content)
                target.put(path.name, path)
        else:
            store.write(f"{self._result}/{name}", content)
            with writing(out):
                os.rename(store.location(self._result), target.uri)
                fsync_folder(Path(target.uri).absolute().parent)
        self.discard()

    def discard(self) -> None:
        """Delete the job, and those of other settings, which have no finished part."""
        with suppress(OSError):  # a worker that is about to end may have a file open, which NFS keeps
            self.parts.store.clear()

    @property
    def _result(self) -> str:
        return f"{self.parts.folder}/result"


def is_complete(names: Collection[str]) -> bool:
    """Whether a folder of an object store holds a result: its report, which is written first, is not enough."""
    return bool(set(names) - {MINING_REPORT, SCORING_REPORT})


def begin_job(store: Store, out: str, plan: MiningPlan, settings: Settings) -> MiningJob:
    """Start a job, or resume an interrupted one with the same inputs and settings.

    Args:
        store: of the unfinished jobs.
        out: location of the result, for messages.
        plan: the inputs; its files are moved into the job.
        settings: what else decides the result, by name.

    Raises:
        InputError: a job with other inputs or settings has finished parts for this `out`.
        RaycolError: the store cannot be written.
    """
    settings = {"format": _FORMAT, **settings, "what is read": plan.digest}
    parts = PartitionedJob(store, "", settings, MinedPart)
    parts.refuse_others(out)
    with writing(store):
        inputs = save_folder(store, plan.folder, f"{parts.folder}/inputs")
    parts.begin()
    return MiningJob(parts, inputs)


def total_counts(parts: Iterable[MinedPart]) -> Counter[str]:
    """Return the sum of the parts' counts."""
    return sum((Counter(part.counts) for part in parts), Counter())


def _join(store: Store, parts: Sequence[MinedPart], path: Path) -> None:
    """Write all parts to one local Parquet file, a row group each."""
    writer = None
    try:
        for part in parts:
            (name,) = part.output.files
            with store.open(f"{part.output.folder}/{name}") as source:
                table = pq.ParquetFile(source).read().replace_schema_metadata(None)
            with writing(path.parent):
                writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=max(1, len(table)))
    finally:
        if writer:
            writer.close()


def _input_name(number: int) -> str:
    return f"{number:05d}.parquet"


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"
