"""A job over parts whose result is a folder of Parquet files that appears whole or not at all.

While it goes on, everything is in `.<name>-unfinished-<fingerprint>` beside that folder; the fingerprint is made of
all that decides the outcome. Each part is written by the worker that made it, under its number, whole or not at all;
so the same command finds what was finished before. In the end the folder is given its name; in an object store, whose
objects have none to give, the parts become one file (`place.py`, `remote_place.py`).

    work/00000.parquet    what the job is given, cut into parts (written anew by every run)
    job.json              what the fingerprint was made of, to tell another command by what it differs in
    part-00000.parquet    finished parts, with counts of what became of them
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
from raycol.mining.workspace import Place, beside, part_name, place_for, unfinished

_COUNTS = b"raycol"
_RECORD = "job.json"
_FORMAT = 1
_LOCK = ".lock"


class MiningPlan:
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
    """A folder for a plan while its fingerprint is not known yet, beside a local `out`; gone afterwards."""

    def __init__(self, out: str) -> None:
        self._out = out
        self._held = ExitStack()
        name = f"planning-{uuid.uuid4().hex}"
        if is_uri(out):
            self._folder = Path(tempfile.gettempdir()) / f"raycol-{name}"
        else:
            self._folder = Path(out).parent / f".{Path(out).name}-{name}"

    def __enter__(self) -> MiningPlan:
        for left in [] if is_uri(self._out) else beside(self._out, "planning"):
            if left.suffix != _LOCK and not is_locked(Path(f"{left}{_LOCK}")):  # by a command that died
                _remove_plan(left)
        with writing(self._out):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(file_lock(Path(f"{self._folder}{_LOCK}"), "planning"))
            self._folder.mkdir()
        return MiningPlan(self._folder)

    def __exit__(self, *_: object) -> None:
        _remove_plan(self._folder)
        self._held.close()


def _remove_plan(folder: Path) -> None:
    """Remove a folder of a plan, and then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(f"{folder}{_LOCK}").unlink(missing_ok=True)


class MiningJob:
    """One unfinished job, by where its files are."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def begin(cls, out: str, plan: MiningPlan, decides: Mapping[str, object]) -> MiningJob:
        """Begin a job, or go on with one that was interrupted.

        Args:
            out: the folder that there will be.
            plan: what it is given; taken away from where it is.
            decides: what else the outcome depends on, by the names of settings.

        Raises:
            InputError: another command has finished parts there.
            RaycolError: it cannot be written there.
        """
        settings = {"format": _FORMAT, **decides, "what is read": plan.digest}
        name = xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True, default=str).encode())
        place = place_for(out, name)
        for other in unfinished(out):
            if other.location != place.location:
                _give_up(other, out, settings)
        place.begin(_RECORD, json.dumps(settings, default=str).encode(), plan.folder)
        return cls(place)

    def read_work(self, number: int) -> list[dict[str, Any]]:
        """The input of a part."""
        rows: list[dict[str, Any]] = pq.read_table(self.place.work(_work_name(number))).to_pylist()
        return rows

    def save_part(self, number: int, table: pa.Table, counts: Mapping[str, int]) -> None:
        """Write a finished part."""
        table = table.replace_schema_metadata({_COUNTS: json.dumps(dict(sorted(counts.items())))})
        self.place.save(part_name(number), table)

    def counts(self, number: int) -> Counter[str] | None:
        """What became of a part; None where it is not finished."""
        try:
            with self.place.open(part_name(number)) as file:
                return Counter(json.loads(file.schema_arrow.metadata[_COUNTS]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def run(
        self,
        plan: MiningPlan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: Mapping[str, Any],
        doing: str,
        report: Report,
        executor: Executor,
    ) -> tuple[list[Counter[str]], int]:
        """Make what was not made before; return the counts of all parts, and how many there were before."""
        with self.place.at_work(), executor.session(config):
            placed = {"folder": self.place.location, **arguments}
            return self._run(plan, actor, config, placed, doing, report, executor)

    def _run(
        self,
        plan: MiningPlan,
        actor: Callable[..., Any],
        config: WorkersConfig,
        arguments: dict[str, Any],
        doing: str,
        report: Report,
        executor: Executor,
    ) -> tuple[list[Counter[str]], int]:
        made = {number: counts for number in range(len(plan.sizes)) if (counts := self.counts(number)) is not None}
        before = len(made)
        workers = executor.n_workers(config)

        def tell() -> None:
            working = min(workers, len(plan.sizes) - len(made))
            at_work = f", {working} at work" if working else ""
            note = f"{len(made)} of {len(plan.sizes)} parts{at_work}"
            report(sum(plan.sizes[number] for number in made), sum(plan.sizes), note)

        tell()
        rows = [{"number": number} for number in range(len(plan.sizes)) if number not in made]
        for row in executor.run(actor, config, rows, arguments, doing) if rows else ():
            number = int(row["number"])
            counts = self.counts(number)
            if counts is None:
                raise RaycolError(
                    f"{self.place}: lacks {part_name(number)} though a worker wrote it; do all nodes reach that place?"
                )
            made[number] = counts
            tell()
        return [made[number] for number in range(len(plan.sizes))], before

    def finish(self, out: str, name: str, report: BaseModel) -> None:
        """Add the report, and make what there is the result."""
        self.place.finish(out, name, report.model_dump_json(indent=1).encode())

    def give_up(self) -> None:
        """Leave nothing behind."""
        self.place.remove()


def _work_name(number: int) -> str:
    return f"{number:05d}.parquet"


def _give_up(other: Place, out: str, settings: Mapping[str, object]) -> None:
    """Remove what another command left, unless it had finished parts."""
    if other.is_at_work():
        raise InputError(f"{out}: another command is at work on it in {other}; wait until it ends, or stop it")
    if not other.parts():
        other.remove()
        return
    try:
        theirs = json.loads(other.read(_RECORD))
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
