"""What tests/index/test_faults.py kills, starves and races: a process that forks a child for each trial.

Run as `python -m tests.index.fault_worker FOLDER`. A line of JSON on stdin is a task: its name in `TASKS`, an empty
folder, and arguments. A line on stdout is the answer. The end of the input ends the process.

The process itself imports and loads kernels, no more: faiss (OpenMP) and Arrow's readers only run in its children. So
forking is safe, and a child is at work at once.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from raycol.errors import ConflictError, InputError, RaycolError
from raycol.index import Document, Index
from tests.index.disk_model import Disk, Tree, write_tree

T = TypeVar("T")

LANES = 2
_CHILD_S = 100
_LANE_S = 500

# ---- Small indexes, what they hold, and what is done to them


def make_documents(numbers: Iterable[int], seed: int = 0) -> list[Document]:
    """Documents of two or three tokens; a number and a seed make the same document everywhere."""
    return [_make_document(number, seed) for number in numbers]


def _make_document(number: int, seed: int) -> Document:
    tokens_TD = np.random.default_rng([seed, number]).standard_normal((2 + number % 2, 8), dtype=np.float32)
    return Document(f"d{number}", tokens_TD, {"n": number, "lang": "en" if number % 3 else None})


def create_small(root: Path, seed: int = 0) -> Index:
    """An index of two partitions of six documents, d0 to d11."""
    return Index.create(root, make_documents(range(12), seed), n_centroids=8, partition_tokens=15)


def create_worn(root: Path) -> Index:
    """The same at version 2: a document is deleted from each partition."""
    index = create_small(root)
    index.delete(["d1", "d7"])
    return index


@dataclass(frozen=True)
class State:
    """What an index shows of itself: its version, every document byte for byte, and what it answers."""

    version: int
    documents: dict[str, tuple[bytes, str]]
    answers: list[list[tuple[str, float]]]

    def __str__(self) -> str:
        return f"version {self.version} of {len(self.documents)} documents"

    def holds_what(self, other: State | None) -> bool:
        """Whether the other holds and answers the same, whatever its version."""
        return other is not None and (self.documents, self.answers) == (other.documents, other.answers)


def state(index: Index) -> State:
    """What an open index shows."""
    queries = [document.embeddings for document in make_documents([0, 100])]
    ids = sorted(hit.id for hit in index.exact(queries[:1], k=10_000)[0])
    assert len(ids) == len(index)
    return State(
        index.version,
        {id_: (index.reconstruct(id_).tobytes(), str(row)) for id_, row in zip(ids, index.metadata(ids), strict=True)},
        [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=4, n_probe=3, n_rescore=5)],
    )


def state_at(root: Path) -> State | None:
    """What the index at a path shows; None where there is none."""
    index = _open_at(root)
    return state(index) if index else None


def _open_at(root: Path) -> Index | None:
    try:
        return Index.open(root)
    except InputError as error:
        if "no such folder" in str(error) or "no manifests/" in str(error):
            return None
        raise


@dataclass(frozen=True)
class Operation:
    """A change to an index: what is there before, the change, and what its caller does after a failure.

    `prepare` runs in the process that forks, and forks for all it does. `refusal` is what a repetition is refused with
    where the first attempt had succeeded after all. `trains` tells that faiss is used. `unflushed` is a folder of the
    index that somebody made and did not flush.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    again: Callable[[Path], object] | None = None
    refusal: str | None = None
    trains: bool = False
    unflushed: str | None = None

    def repeat(self, root: Path, *, committed: bool) -> None:
        """Do it again, as its caller would."""
        try:
            (self.again or self.run)(root)
        except InputError as error:
            if not (committed and self.refusal and self.refusal in str(error)):
                raise


def _create(root: Path) -> None:
    """Of one partition: there is a codebook before it."""
    Index.create(root, make_documents(range(6)), n_centroids=8)


def _append(root: Path, numbers: Iterable[int] = range(100, 106)) -> None:
    Index.open(root).append(make_documents(numbers))


def _append_more(root: Path) -> None:
    """Two partitions."""
    _append(root, range(100, 110))


def _upsert(root: Path) -> None:
    """Replaces a document in each partition, and adds one."""
    Index.open(root).upsert(make_documents([2, 10, 200], seed=1))


def _delete(root: Path) -> None:
    """Some of one partition, and all of the other."""
    Index.open(root).delete(["d3", *(f"d{number}" for number in range(6, 12))])


def _compact(root: Path) -> None:
    Index.open(root).compact(30)


def _vacuum(root: Path, *, keep: int, abandoned: bool) -> None:
    Index.open(root).vacuum(keep, abandoned=abandoned)


def _prepare_nothing(root: Path) -> None:
    """Where an index is to be created."""


def _prepare_worn(root: Path) -> None:
    in_child(create_worn, root)


def _prepare_history(root: Path) -> None:
    """Three versions, and what two writers left who died just before they committed version 3 and version 4."""
    in_child(create_worn, root)
    _die("link", "before", _append, root)
    in_child(_delete, root)
    _die("link", "before", _append, root)


def _prepare_died_deleting(root: Path) -> None:
    """Whoever was the first to delete died when `deletes` had just been made."""
    in_child(create_small, root)
    with _copy(root, root.with_name("whole")) as whole:
        calls = in_child(_count, _delete, whole)
    _, deletes = (number for number, call in enumerate(calls, 1) if call == "mkdir")
    _die(deletes, "after", _delete, root)


OPERATIONS = {
    "create": Operation(_prepare_nothing, _create, refusal="already holds an index", trains=True),
    "append": Operation(_prepare_worn, _append, refusal="upsert to replace it"),
    "append more": Operation(_prepare_worn, _append_more, refusal="upsert to replace it"),
    "upsert": Operation(_prepare_worn, _upsert),
    "delete": Operation(_prepare_worn, _delete),
    "delete after a death": Operation(_prepare_died_deleting, _delete, unflushed="deletes"),
    "compact": Operation(_prepare_worn, _compact),
    "vacuum": Operation(_prepare_history, partial(_vacuum, keep=1, abandoned=False)),
    # Then the writer who died comes back. What it had left may be there, gone, or half gone.
    "vacuum abandoned": Operation(_prepare_history, partial(_vacuum, keep=2, abandoned=True), again=_append),
}


# ---- Children


class ChildError(Exception):
    """A child that raised, or died, or took too long."""


class Child:
    """A function at work in a forked child."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._pipe, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        try:
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc(limit=-4))
        with io.FileIO(writer, "w") as pipe, io.BufferedWriter(pipe) as whole:
            pickle.dump(answer, whole)
        os._exit(0)

    def result(self, seconds: float = _CHILD_S) -> Any:
        """What the function returned."""
        content, code = self.end(seconds)
        if code:
            raise ChildError(f"the child ended with {code}")
        succeeded, answer = pickle.loads(content)
        if not succeeded:
            raise ChildError(answer)
        return answer

    def end(self, seconds: float = _CHILD_S) -> tuple[bytes, int]:
        """Wait for the end, or bring it about: what came through the pipe, and the exit code, or minus the signal."""
        deadline = time.monotonic() + seconds
        content = b""
        with io.FileIO(self._pipe) as pipe:
            while True:
                if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    os.kill(self.pid, signal.SIGKILL)
                    break
                if not (chunk := pipe.read(1 << 20)):
                    break
                content += chunk
        _, status = os.waitpid(self.pid, 0)
        return content, os.waitstatus_to_exitcode(status)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a child of its own. An index that it returns is not passed on."""

    def run() -> Any:
        result = function(*args)
        return None if isinstance(result, Index) else result

    return Child(run).result()


# ---- Faults: every change that raycol makes to a disk is one of these calls

CALLS = ("write", "fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir")


@contextmanager
def intercepted(around: Callable[..., Any], calls: Sequence[str] = CALLS) -> Iterator[None]:
    """Lead calls through `around(name, real, *args, **kwargs)`."""
    real = {name: getattr(os, name) for name in calls}
    for name, call in real.items():
        setattr(os, name, partial(around, name, call))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def _count(operation: Callable[[Path], object], root: Path) -> list[str]:
    """The calls that an operation makes, by name."""
    calls: list[str] = []

    def around(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return real(*args, **kwargs)

    with intercepted(around):
        operation(root)
    return calls


def _die(where: int | str, when: str, operation: Callable[[Path], object], root: Path) -> None:
    """Kill a child at a call, by its number or by its name (the first such call).

    `when` is before or after the call, or `torn`, when half of what was to be written is. Other calls to fsync are
    left out, which take most of the time: a kill loses nothing that was written, flushed or not.
    """
    calls = 0

    def around(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        here = where in (calls, name)
        if here and when == "torn":
            real(args[0], args[1][: len(args[1]) // 2])
        if here and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*args, **kwargs) if here or name != "fsync" else None
        finally:  # some calls fail, and are meant to: rmdir of a folder that is not empty
            if here:
                os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with intercepted(around):
            operation(root)

    content, code = Child(run).end()
    if code != -signal.SIGKILL:
        raise ChildError(f"expected to die at call {where}, ended with {code}: {content!r}")


def points(calls: Sequence[str]) -> list[tuple[int, str, str]]:
    """Where to die: the number and name of the call, and when."""
    return [
        (number, name, when)
        for number, name in enumerate(calls, 1)
        for when in (("torn",) if name == "write" else ("before", "after"))
    ]


@contextmanager
def _copy(start: Path, root: Path) -> Iterator[Path]:
    """A copy of what was prepared, or of nothing."""
    if start.exists():
        shutil.copytree(start, root)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


# ---- What tasks have in common


@dataclass(frozen=True)
class Outcomes:
    """What an operation does where nothing goes wrong: its calls, and the states before, after, and when repeated."""

    operation: Operation
    calls: list[str]
    before: State | None
    after: State
    repeated: State

    @classmethod
    def of(cls, operation: Operation, start: Path) -> Outcomes:
        """Prepare a place, and find out on a copy."""
        operation.prepare(start)
        before = in_child(state_at, start)
        with _copy(start, start.with_name("whole")) as root:
            calls = in_child(_count, operation.run, root)
            after = in_child(state_at, root)
            in_child(partial(operation.repeat, root, committed=True))
            return cls(operation, calls, before, after, in_child(state_at, root))

    def check(self, root: Path, *, abandoned: bool) -> None:
        """What is left is one state or the other, its versions whole; the change can be repeated, and all tidied."""
        index = _open_at(root)
        found = state(index) if index else None
        assert found in (self.before, self.after), f"it opens as {found}; expected {self.before} or {self.after}"
        damaged = [line for line in index.verify() if "in no manifest" not in line] if index else []
        assert damaged == [], damaged
        repeat = partial(self.operation.repeat, root, committed=found == self.after)
        if self.operation.trains:
            in_child(repeat)
        else:
            repeat()
        index = Index.open(root)
        repeated = state(index)
        assert self.repeated.holds_what(repeated), f"repeated, it is {repeated}; expected what {self.repeated} holds"
        if not abandoned:
            index.delete(["d0"])
        index.vacuum(keep=1, abandoned=abandoned)
        left = index.verify()
        assert left == [], left

    def check_refused(self, root: Path, message: str) -> None:
        """The operation ends in a `RaycolError`."""
        try:
            self.operation.run(root)
        except RaycolError as error:
            assert message in str(error), error  # noqa: PT017
        else:
            raise AssertionError("it succeeded")

    def check_unchanged(self, root: Path) -> None:
        """No version is changed, and a vacuum removes what is left."""
        found = state_at(root)
        assert found == self.before, f"it opens as {found}; expected {self.before}"
        if self.before is None:
            in_child(self.operation.run, root)
        index = Index.open(root)
        damaged = [line for line in index.verify() if "in no manifest" not in line]
        assert damaged == [], damaged
        index.vacuum(keep=10, abandoned=True)
        left = index.verify()
        assert left == [], left


def _in_lanes(
    folder: Path, trials: Sequence[T], attempt: Callable[[Path, T], None], describe: Callable[[T], str]
) -> dict[str, Any]:
    """Make each trial at a fresh path, in as many processes as there are lanes; gather what went wrong."""

    def lane(number: int) -> list[str]:
        os.fsync = lambda descriptor: None  # see `_die`
        place = folder / f"trial{number}"
        problems = []
        for trial in trials[number::LANES]:
            try:
                attempt(place, trial)
            except ChildError as error:
                problems.append(f"{describe(trial)}: {error}")
            except Exception:
                problems.append(f"{describe(trial)}: {traceback.format_exc(limit=-4)}")
            shutil.rmtree(place, ignore_errors=True)
        return problems

    lanes = [Child(lane, number) for number in range(LANES)]
    return _answer(len(trials), [line for child in lanes for line in child.result(_LANE_S)])


def _answer(trials: int, problems: list[str]) -> dict[str, Any]:
    return {"trials": trials, "problems": problems}


# ---- Tasks: each returns how many trials there were, and a text for each that went wrong


def count(folder: Path, name: str) -> dict[str, Any]:
    """How many points there are to die at."""
    OPERATIONS[name].prepare(folder / "start")
    return _answer(len(points(in_child(_count, OPERATIONS[name].run, folder / "start"))), [])


def kill(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Die at every point of an operation, or at one in `step`; see what is left; repeat the operation; tidy up."""
    start = folder / "start"
    outcomes = Outcomes.of(OPERATIONS[name], start)

    def attempt(place: Path, point: tuple[int, str, str]) -> None:
        number, _, when = point
        with _copy(start, place) as root:
            _die(number, when, outcomes.operation.run, root)
            outcomes.check(root, abandoned=(number + (when == "after")) % 2 == 0)

    def describe(point: tuple[int, str, str]) -> str:
        number, call, when = point
        return f"{name}, killed at call {number} of {len(outcomes.calls)}, {call}, {when}"

    return _in_lanes(folder, points(outcomes.calls)[::step], attempt, describe)


def lose_power(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Come back from every state that a power failure may leave after any call of an operation, and after its end.

    Or from one in `step` of them, and from what is there after its end.
    """
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")
    failures, sure = in_child(_follow, outcomes.operation, folder / "start", folder / "disk")

    def attempt(place: Path, failure: tuple[Tree, str]) -> None:
        tree, _ = failure
        write_tree(tree, place)
        root = place / "index"
        if tree == sure:
            found = state_at(root)
            assert found == outcomes.after, f"the operation had ended, and it opens as {found}; it was lost"
        outcomes.check(root, abandoned=True)

    trials = [
        failure for number, failure in enumerate(failures.items()) if number % step == step - 1 or failure[0] == sure
    ]
    return _in_lanes(folder, trials, attempt, lambda failure: f"{name}, power lost {failure[1]}")


def _follow(operation: Operation, start: Path, top: Path) -> tuple[dict[Tree, str], Tree]:
    top.mkdir()
    with _copy(start, top / "index") as root:
        disk = Disk(top, [root / operation.unflushed] if operation.unflushed else [])
        with intercepted(disk.around, Disk.CALLS):
            operation.run(root)
        return disk.failures, disk.sure()


def fill_disk(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Let every write, or one in `step`, fail in turn as on a full disk: it alone, or it and all after it."""
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")
    n_writes = outcomes.calls.count("write")

    def attempt(place: Path, trial: tuple[int, bool]) -> None:
        number, lasting = trial
        writes = 0

        def around(_: str, real: Callable[..., Any], *args: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == number or (lasting and writes > number):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        with _copy(folder / "start", place) as root:
            with intercepted(around, ["write"]):
                outcomes.check_refused(root, "No space left")
            outcomes.check_unchanged(root)

    def describe(trial: tuple[int, bool]) -> str:
        return f"{name}, disk full at write {trial[0]} of {n_writes}{' and all after it' if trial[1] else ''}"

    trials = [(number, number % 2 == 0) for number in range(1, n_writes + 1)]
    trials = trials[-1::-step]  # with the last one, which is in the midst of the commit
    return _in_lanes(folder, trials, attempt, describe)


def limit_files(folder: Path, name: str) -> dict[str, Any]:
    """Let the system refuse what goes beyond some bytes in any file, also what is not written by way of `os`."""
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")

    def attempt(place: Path, limit: int) -> None:
        with _copy(folder / "start", place) as root:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                outcomes.check_refused(root, "File too large")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            outcomes.check_unchanged(root)

    return _in_lanes(folder, [0, 60, 130, 400], attempt, lambda limit: f"{name}, files of {limit} bytes at most")


def append_together(folder: Path) -> dict[str, Any]:
    """Six writers, a document each; whoever is not the first opens the index again and repeats."""
    root = folder / "index"
    in_child(create_worn, root)
    start = time.monotonic() + 0.3
    writers = [Child(_append_until_done, root, number, start) for number in range(500, 506)]
    conflicts = sum(child.result() for child in writers)

    def check() -> None:
        have = Index.open(root).stats().versions
        assert have == tuple(range(1, 9)), have
        states = [state(Index.open(root, version)) for version in have[1:]]
        for earlier, later in pairwise(states):
            assert len(later.documents) == len(earlier.documents) + 1
            assert earlier.documents.items() <= later.documents.items()
        assert states[-1].documents.keys() == states[0].documents.keys() | {f"d{number}" for number in range(500, 506)}
        Index.open(root).vacuum(keep=1)
        assert Index.open(root).verify() == []

    in_child(check)
    return _answer(conflicts, [])


def _append_until_done(root: Path, number: int, start: float) -> int:
    index = Index.open(root)
    time.sleep(max(0.0, start - time.monotonic()))
    conflicts = 0
    while True:
        try:
            index.append(make_documents([number]))
        except ConflictError:
            conflicts += 1
            index = Index.open(root)
        else:
            return conflicts


def create_together(folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Several writers, one place, documents by seed: one of them makes the index."""

    def check(root: Path, refusals: list[str | None]) -> None:
        assert refusals.count(None) == 1, refusals
        for refusal in filter(None, refusals):
            assert "ConflictError" in refusal or "already holds an index" in refusal, refusal
        alone = create_small(root.with_name("alone"), seeds[refusals.index(None)])
        assert state(alone) == state_at(root)
        shutil.rmtree(alone.uri)
        Index.open(root).vacuum(keep=1)
        assert Index.open(root).verify() == []

    for attempt in range(6):
        root = folder / f"index{attempt}"
        start = time.monotonic() + 0.1
        writers = [Child(_create_at, root, seed, start) for seed in seeds]
        in_child(check, root, [child.result() for child in writers])
    return _answer(6, [])


def _create_at(root: Path, seed: int, start: float) -> str | None:
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        create_small(root, seed)
    except (ConflictError, InputError) as error:
        return f"{type(error).__name__}: {error}"
    return None


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "count": count,
    "kill": kill,
    "lose power": lose_power,
    "fill disk": fill_disk,
    "limit files": limit_files,
    "append together": append_together,
    "create together": create_together,
}


def _warm_up(folder: Path) -> None:
    """Load what children need: kernels for the arrays of an index that was opened, and pandas, which Arrow imports."""
    documents = [Document(document.id, document.embeddings) for document in make_documents(range(20))]
    in_child(lambda: Index.create(folder, documents[:10], n_centroids=8))
    index = Index.open(folder)
    index.append(documents[10:])
    index.search([documents[0].embeddings], k=1, n_probe=2, n_rescore=1)
    pa.array(["x"])
    # Children look at none of what is there now, whose pages a collection would copy.
    gc.collect()
    gc.freeze()


def main() -> None:
    """Answer tasks until the input ends."""
    import faiss

    faiss.omp_set_num_threads(1)
    _warm_up(Path(sys.argv[1]))
    for line in sys.stdin:
        task, folder, *args = json.loads(line)
        try:
            answer = TASKS[task](Path(folder), *args)
        except Exception:
            answer = _answer(0, [traceback.format_exc(limit=-4)])
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
