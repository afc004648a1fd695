"""A resumable job over parts, whose result is a folder of Parquet files that appears whole or not at all.

An unfinished job lives in `.<name>-unfinished-<fingerprint>` beside the result; the fingerprint covers everything that
decides the result. The worker that computes a part writes it under the part's number, atomically, so that the same
command finds it after a crash. At the end the folder is renamed to the result (`workspace.py`); an object store cannot
rename, so there the parts are joined into one file (`remote_workspace.py`).

    work/00000.parquet    inputs of a part (rewritten by every run)
    job.json              what the fingerprint covers, to report how another command differs
    part-00000.parquet    a finished part; its metadata holds the part's counts
"""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel

from raycol.core.locks import file_lock, is_locked
from raycol.core.progress import Report
from raycol.core.uris import is_uri
from raycol.distributed.executor import Executor, WorkersConfig
from raycol.errors import InputError, RaycolError, writing
from raycol.mining.opening import unfinished_workspaces, workspace_for
from raycol.mining.workspace import Workspace, part_name, sibling_folders

_COUNTS = b"raycol"
_RECORD = "job.json"
_FORMAT = 1
_LOCK = ".lock"


class MiningPlan:
    """The inputs of a job, written to one Parquet file per part.

    Args:
        folder: where the files are written; `MiningJob.begin` moves them into the workspace.
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


class PlanFolder:
    """A temporary folder for a plan, until its fingerprint is known: beside a local `out`, deleted on exit."""

    def __init__(self, out: str) -> None:
        self._out = out
        self._lock = ExitStack()
        name = f"planning-{uuid.uuid4().hex}"
        if is_uri(out):
            self._folder = Path(tempfile.gettempdir()) / f"raycol-{name}"
        else:
            self._folder = Path(out).parent / f".{Path(out).name}-{name}"

    def __enter__(self) -> MiningPlan:
        for stale in [] if is_uri(self._out) else sibling_folders(self._out, "planning"):
            if stale.suffix != _LOCK and not is_locked(Path(f"{stale}{_LOCK}")):  # of a command that died
                _remove_plan(stale)
        with writing(self._out):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(file_lock(Path(f"{self._folder}{_LOCK}"), "planning"))
            self._folder.mkdir()
        return MiningPlan(self._folder)

    def __exit__(self, *_: object) -> None:
        _remove_plan(self._folder)
        self._lock.close()


def _remove_plan(folder: Path) -> None:
    """Delete the folder of a plan, and then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}{_LOCK}").unlink(missing_ok=True)


class MiningJob:
    """An unfinished job in its workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @classmethod
    def begin(cls, out: str, plan: MiningPlan, settings: Mapping[str, object]) -> MiningJob:
        """Start a job, or resume an interrupted one with the same inputs and settings.

        Args:
            out: folder or URI of the result.
            plan: the inputs; its files are moved into the workspace.
            settings: what else decides the result, by name.

        Raises:
            InputError: a job with other inputs or settings has finished parts for this `out`.
            RaycolError: the workspace cannot be written.
        """
        record = {"format": _FORMAT, **settings, "what is read": plan.digest}
        fingerprint = xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True, default=str).encode())
        workspace = workspace_for(out, fingerprint)
        for other in unfinished_workspaces(out):
            if other.location != workspace.location:
                _discard(other, out, record)
        workspace.begin(_RECORD, json.dumps(record, default=str).encode(), plan.folder)
        return cls(workspace)

    def read_part(self, number: int) -> list[dict[str, Any]]:
        """Return the input rows of a part."""
        rows: list[dict[str, Any]] = pq.read_table(self.workspace.input_file(_input_name(number))).to_pylist()
        return rows

    def save_part(self, number: int, table: pa.Table, counts: Mapping[str, int]) -> None:
        """Write a finished part."""
        table = table.replace_schema_metadata({_COUNTS: json.dumps(dict(sorted(counts.items())))})
        self.workspace.save(part_name(number), table)

    def counts(self, number: int) -> Counter[str] | None:
        """Return the counts of a part; None if it is not finished."""
        try:
            with self.workspace.open(part_name(number)) as file:
                return Counter(json.loads(file.schema_arrow.metadata[_COUNTS]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def run(
        self,
        plan: MiningPlan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: Mapping[str, Any],
        stage: str,
        report: Report,
        executor: Executor,
    ) -> tuple[list[Counter[str]], int]:
        """Compute the parts that are missing.

        Args:
            plan: the inputs.
            actor: class of the workers.
            config: how many workers to run, and what each reserves.
            arguments: of the actor, beside the location of the workspace.
            stage: names the work in errors.
            report: receives the progress, in rows.
            executor: runs the workers.

        Returns:
            The counts of every part, and the number of parts that an earlier run had finished.
        """
        with self.workspace.lock(), executor.session(config):
            return self._run(
                plan, actor, config, {"folder": self.workspace.location, **arguments}, stage, report, executor
            )

    def _run(
        self,
        plan: MiningPlan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: dict[str, Any],
        stage: str,
        report: Report,
        executor: Executor,
    ) -> tuple[list[Counter[str]], int]:
        n_parts = len(plan.sizes)
        finished = {number: counts for number in range(n_parts) if (counts := self.counts(number)) is not None}
        reused = len(finished)
        workers = executor.n_workers(config)

        def report_progress() -> None:
            busy = min(workers, n_parts - len(finished))
            note = f"{len(finished)} of {n_parts} parts{f', {busy} running' if busy else ''}"
            report(sum(plan.sizes[number] for number in finished), sum(plan.sizes), note)

        report_progress()
        rows = [{"number": number} for number in range(n_parts) if number not in finished]
        for row in executor.run(actor, config, rows, arguments, stage) if rows else ():
            number = int(row["number"])
            counts = self.counts(number)
            if counts is None:
                raise RaycolError(
                    f"{self.workspace}: {part_name(number)} is missing although a worker wrote it; put `out` on "
                    "storage that all nodes share"
                )
            finished[number] = counts
            report_progress()
        return [finished[number] for number in range(n_parts)], reused

    def finish(self, out: str, name: str, report: BaseModel) -> None:
        """Write the report as JSON, and turn the workspace into the result."""
        self.workspace.finish(out, name, report.model_dump_json(indent=1).encode())

    def discard(self) -> None:
        """Delete the workspace."""
        self.workspace.remove()


def _input_name(number: int) -> str:
    return f"{number:05d}.parquet"


def _discard(other: Workspace, out: str, record: Mapping[str, object]) -> None:
    """Delete another command's workspace. Raises `InputError` if that command runs or has finished parts."""
    if other.is_locked():
        raise InputError(f"{out}: another command is running on it in {other}; wait until it ends, or stop it")
    if not other.parts():
        other.remove()
        return
    try:
        theirs = json.loads(other.read(_RECORD))
        ours = json.loads(json.dumps(record, default=str))
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        values = [f"{name} ({theirs.get(name)!s:.60} there, {ours.get(name)!s:.60} here)" for name in names]
        differs = f", which differs in {', '.join(values)}"
    except (OSError, ValueError, AttributeError):
        differs = ""
    raise InputError(
        f"{out}: another command was interrupted there{differs}; repeat that command to finish it, or remove {other} "
        "to discard its parts"
    )
