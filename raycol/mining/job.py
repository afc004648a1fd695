"""A job over parts whose result is a folder of Parquet files that appears whole or not at all.

While it goes on, everything is in `.<name>-unfinished-<fingerprint>` beside that folder; the fingerprint is made of
all that decides the outcome. Each part is written by the worker that made it, under its number, whole or not at all;
so the same command finds what was finished before. In the end the folder is given its name.

    work/00000.parquet    what the job is given, cut into parts (written anew by every run)
    job.json              what the fingerprint was made of, to tell another command by what it differs in
    part-00000.parquet    finished parts, with counts of what became of them
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel

from raycol.errors import InputError, RaycolError, writing
from raycol.index.storage.files import ChecksumWriter, fsync_folder, save_bytes
from raycol.indexing.config import WorkersConfig
from raycol.indexing.workers import n_workers, on_workers, session
from raycol.progress import Report

_COUNTS = b"raycol"
_FORMAT = 1


def refuse_finished(out: Path) -> None:
    """Raise `InputError` where there is something already."""
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists already; choose another folder, or remove it")


class Plan:
    """What a job is given, written to files that its workers read.

    Args:
        folder: where the files are; not the final place yet.
        sizes: rows of each part.
        digest: a hash of all rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: list[int] = []
        self._digest = xxhash.xxh3_128()

    @property
    def digest(self) -> str:
        """A hash of what was written."""
        return self._digest.hexdigest()

    def add(self, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, per_part: int) -> None:
        """Write rows, so many a part."""
        source = iter(rows)
        while part := list(islice(source, per_part)):
            self._digest.update(json.dumps(part).encode())
            with writing(self.folder):
                pq.write_table(pa.Table.from_pylist(part, schema), self.folder / _work_name(len(self.sizes)))
            self.sizes.append(len(part))


class Planning:
    """A folder beside `out` for a plan while its fingerprint is not known yet; gone afterwards."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out.parent / f".{out.name}-planning-{uuid.uuid4().hex}"

    def __enter__(self) -> Plan:
        for left in _beside(self._out, "planning"):  # by a command that died
            shutil.rmtree(left, ignore_errors=True)
        with writing(self._out):
            self._folder.mkdir(parents=True)
        return Plan(self._folder)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Job:
    """One job's unfinished folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def begin(cls, out: Path, plan: Plan, decides: Mapping[str, object]) -> Job:
        """Begin a job, or go on with one that was interrupted.

        Args:
            out: the folder that there will be.
            plan: what it is given; taken away from where it is.
            decides: what else the outcome depends on, by the names of settings.

        Raises:
            InputError: another command has finished parts there.
        """
        settings = {"format": _FORMAT, **decides, "what is read": plan.digest}
        name = xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True, default=str).encode())
        folder = out.absolute().parent / f".{out.name}-unfinished-{name}"
        for other in _beside(out, "unfinished"):
            if other != folder:
                _give_up(other, out, settings)
        job = cls(folder)
        with writing(out):
            folder.mkdir(exist_ok=True)
            _replace(folder / "job.json", json.dumps(settings, default=str).encode())
            before = folder / f".{uuid.uuid4().hex}"
            if job.work.exists():  # by a run that was interrupted; its files may not have reached the disk
                os.rename(job.work, before)
            os.rename(plan.folder, job.work)
            shutil.rmtree(before, ignore_errors=True)
        return job

    @property
    def work(self) -> Path:
        """Where the job's input is."""
        return self.folder / "work"

    def read_work(self, number: int) -> list[dict[str, Any]]:
        """The input of a part."""
        rows: list[dict[str, Any]] = pq.read_table(self.work / _work_name(number)).to_pylist()
        return rows

    def part(self, number: int) -> Path:
        """The file of a finished part."""
        return self.folder / f"part-{number:05d}.parquet"

    def save_part(self, number: int, table: pa.Table, counts: Mapping[str, int]) -> None:
        """Write a finished part: beside, flushed, then under its name."""
        table = table.replace_schema_metadata({_COUNTS: json.dumps(dict(sorted(counts.items())))})
        beside = self.folder / f".{uuid.uuid4().hex}"
        with writing(self.folder):
            try:
                with ChecksumWriter(beside) as file:
                    pq.write_table(table, file, compression="zstd")
                os.replace(beside, self.part(number))
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            fsync_folder(self.folder)

    def counts(self, number: int) -> Counter[str] | None:
        """What became of a part; None where it is not finished."""
        try:
            with pq.ParquetFile(self.part(number)) as file:
                return Counter(json.loads(file.schema_arrow.metadata[_COUNTS]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def run(
        self,
        plan: Plan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: Mapping[str, Any],
        doing: str,
        report: Report,
    ) -> tuple[list[Counter[str]], int]:
        """Make what was not made before; return the counts of all parts, and how many there were before."""
        with session(config):
            return self._run(plan, actor, config, {"folder": str(self.folder), **arguments}, doing, report)

    def _run(
        self,
        plan: Plan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: dict[str, Any],
        doing: str,
        report: Report,
    ) -> tuple[list[Counter[str]], int]:
        made = {number: counts for number in range(len(plan.sizes)) if (counts := self.counts(number)) is not None}
        before = len(made)
        workers = n_workers(config)

        def tell() -> None:
            working = min(workers, len(plan.sizes) - len(made))
            at_work = f", {working} at work" if working else ""
            note = f"{len(made)} of {len(plan.sizes)} parts{at_work}"
            report(sum(plan.sizes[number] for number in made), sum(plan.sizes), note)

        tell()
        rows = [{"number": number} for number in range(len(plan.sizes)) if number not in made]
        for row in on_workers(actor, config, rows, arguments, doing) if rows else ():
            number = int(row["number"])
            counts = self.counts(number)
            if counts is None:
                raise RaycolError(f"{self.part(number)}: not there though a worker wrote it; is {self.folder} shared?")
            made[number] = counts
            tell()
        return [made[number] for number in range(len(plan.sizes))], before

    def finish(self, out: Path, name: str, report: BaseModel) -> None:
        """Add the report, leave only what the result is made of, and give the folder its name."""
        with writing(out):
            _replace(self.folder / name, report.model_dump_json(indent=1).encode())
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != name and not path.name.startswith("part-"):
                    path.unlink(missing_ok=True)
            fsync_folder(self.folder)
            os.rename(self.folder, out)
            fsync_folder(out.parent)

    def give_up(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _beside(out: Path, what: str) -> list[Path]:
    """Folders of one kind beside a result, by any command."""
    return [Path(found) for found in glob.glob(glob.escape(str(out.absolute().parent / f".{out.name}-{what}-")) + "*")]


def _work_name(number: int) -> str:
    return f"{number:05d}.parquet"


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{uuid.uuid4().hex}")
    save_bytes(beside, content)
    os.replace(beside, path)


def _give_up(other: Path, out: Path, settings: Mapping[str, object]) -> None:
    """Remove what another command left, unless it had finished parts."""
    if not any(other.glob("part-*.parquet")):
        shutil.rmtree(other, ignore_errors=True)
        return
    try:
        theirs = json.loads((other / "job.json").read_bytes())
        ours = json.loads(json.dumps(settings, default=str))
        names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        shown = [f"{name} ({theirs.get(name)!s:.60} there, {ours.get(name)!s:.60} here)" for name in names]
        differs = f", which differs in {', '.join(shown)}"
    except (OSError, ValueError, AttributeError):
        differs = ""
    raise InputError(
        f"{out}: another command was interrupted there{differs}; run that one again to finish it, or remove {other} "
        "to give up what it had done"
    )
