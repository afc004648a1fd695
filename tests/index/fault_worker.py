"""The helper process of tests/index/test_faults.py: forks a child for each trial of a kill, a full disk or a race.

Run as `python -m tests.index.fault_worker FOLDER`. Each line of stdin is a task as JSON: its name in `TASKS`, an empty
folder, and arguments. Each line of stdout is an answer. The process exits at the end of its input.

The process itself only imports modules and loads kernels; faiss (OpenMP) and Arrow's readers run in its children only.
So forking is safe, and children start quickly.
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

# ---- Small indexes, their contents, and operations on them


def make_documents(numbers: Iterable[int], seed: int = 0) -> list[Document]:
    """Return documents of two or three tokens, determined by number and seed."""
    return [_make_document(number, seed) for number in numbers]


def _make_document(number: int, seed: int) -> Document:
    tokens_TD = np.random.default_rng([seed, number]).standard_normal((2 + number % 2, 8), dtype=np.float32)
    return Document(f"d{number}", tokens_TD, {"n": number, "lang": "en" if number % 3 else None})


def create_small(root: Path, seed: int = 0) -> Index:
    """Create an index of two partitions of six documents, d0 to d11."""
    return Index.create(root, make_documents(range(12), seed), n_centroids=8, partition_tokens=15)


def create_with_deletes(root: Path) -> Index:
    """Create the same index and delete one document of each partition, which makes version 2."""
    index = create_small(root)
    index.delete(["d1", "d7"])
    return index


@dataclass(frozen=True)
class State:
    """Observable state of an index: its version, all documents byte for byte, and the answers to some queries."""

    version: int
    documents: dict[str, tuple[bytes, str]]
    answers: list[list[tuple[str, float]]]

    def __str__(self) -> str:
        return f"version {self.version} of {len(self.documents)} documents"

    def same_contents(self, other: State | None) -> bool:
        """Whether documents and answers equal those of `other`; versions may differ."""
        return other is not None and (self.documents, self.answers) == (other.documents, other.answers)


def state(index: Index) -> State:
    """Return the state of an open index."""
    queries = [document.embeddings for document in make_documents([0, 100])]
    ids = sorted(hit.id for hit in index.exact(queries[:1], k=10_000)[0])
    assert len(ids) == len(index)
    return State(
        index.version,
        {id_: (index.reconstruct(id_).tobytes(), str(row)) for id_, row in zip(ids, index.metadata(ids), strict=True)},
        [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=4, n_probe=3, n_rescore=5)],
    )


def state_at(root: Path) -> State | None:
    """Return the state of the index at a path; None if there is none."""
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
    """A change to an index, its preparation, and its repetition after a failure.

    Args:
        prepare: makes the index before the change; runs in the helper process and forks for everything it does.
        run: makes the change.
        again: repeats the change after a failure; None runs it again.
        refusal: part of the error of a repetition if the first attempt had committed.
        trains: whether the change uses faiss.
        unflushed: a folder of the index that was made and never flushed.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    again: Callable[[Path], object] | None = None
    refusal: str | None = None
    trains: bool = False
    unflushed: str | None = None

    def repeat(self, root: Path, *, committed: bool) -> None:
        """Repeat the operation, as its caller would."""
        try:
            (self.again or self.run)(root)
        except InputError as error:
            if not (committed and self.refusal and self.refusal in str(error)):
                raise


def _create(root: Path) -> None:
    """Create an index of one partition."""
    Index.create(root, make_documents(range(6)), n_centroids=8)


def _append(root: Path, numbers: Iterable[int] = range(100, 106)) -> None:
    Index.open(root).append(make_documents(numbers))


def _append_more(root: Path) -> None:
    """Append two partitions."""
    _append(root, range(100, 110))


def _upsert(root: Path) -> None:
    """Replace a document in each partition, and add one."""
    Index.open(root).upsert(make_documents([2, 10, 200], seed=1))


def _delete(root: Path) -> None:
    """Delete one document of the first partition and all of the second."""
    Index.open(root).delete(["d3", *(f"d{number}" for number in range(6, 12))])


def _compact(root: Path) -> None:
    Index.open(root).compact(30)


def _vacuum(root: Path, *, keep: int, abandoned: bool) -> None:
    Index.open(root).vacuum(keep, abandoned=abandoned)


def _prepare_nothing(root: Path) -> None:
    """Prepare nothing: the index is to be created."""


def _prepare_with_deletes(root: Path) -> None:
    in_child(create_with_deletes, root)


def _prepare_history(root: Path) -> None:
    """Make three versions, and the files of two writers that died right before they committed versions 3 and 4."""
    in_child(create_with_deletes, root)
    _die("link", "before", _append, root)
    in_child(_delete, root)
    _die("link", "before", _append, root)


def _prepare_died_deleting(root: Path) -> None:
    """Kill the first delete right after it has made the folder `deletes`."""
    in_child(create_small, root)
    with _copy(root, root.with_name("whole")) as whole:
        calls = in_child(_count, _delete, whole)
    _, deletes = (number for number, call in enumerate(calls, 1) if call == "mkdir")
    _die(deletes, "after", _delete, root)


OPERATIONS = {
    "create": Operation(_prepare_nothing, _create, refusal="already holds an index", trains=True),
    "append": Operation(_prepare_with_deletes, _append, refusal="upsert to replace it"),
    "append more": Operation(_prepare_with_deletes, _append_more, refusal="upsert to replace it"),
    "upsert": Operation(_prepare_with_deletes, _upsert),
    "delete": Operation(_prepare_with_deletes, _delete),
    "delete after a death": Operation(_prepare_died_deleting, _delete, unflushed="deletes"),
    "compact": Operation(_prepare_with_deletes, _compact),
    "vacuum": Operation(_prepare_history, partial(_vacuum, keep=1, abandoned=False)),
    # Then the killed writer repeats its append. Its files may be complete, deleted, or partly deleted.
    "vacuum abandoned": Operation(_prepare_history, partial(_vacuum, keep=2, abandoned=True), again=_append),
}


# ---- Children


class ChildError(Exception):
    """A child raised, died or timed out."""


class Child:
    """A function that runs in a forked child."""

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
        """Return the result of the function."""
        content, code = self.end(seconds)
        if code:
            raise ChildError(f"the child ended with {code}")
        succeeded, answer = pickle.loads(content)
        if not succeeded:
            raise ChildError(answer)
        return answer

    def end(self, seconds: float = _CHILD_S) -> tuple[bytes, int]:
        """Wait for the child, or kill it; return its output, and its exit code or minus the signal."""
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
    """Run a function in a child and return its result, but None for an index."""

    def run() -> Any:
        result = function(*args)
        return None if isinstance(result, Index) else result

    return Child(run).result()


# ---- Faults: raycol changes a disk only by these calls

CALLS = ("write", "fsync", "mkdir", "rename", "replace", "link", "unlink", "rmdir")


@contextmanager
def intercepted(around: Callable[..., Any], calls: Sequence[str] = CALLS) -> Iterator[None]:
    """Replace calls of `os` by `around(name, real, *args, **kwargs)`."""
    real = {name: getattr(os, name) for name in calls}
    for name, call in real.items():
        setattr(os, name, partial(around, name, call))
    try:
        yield
    finally:
        for name, call in real.items():
            setattr(os, name, call)


def _count(operation: Callable[[Path], object], root: Path) -> list[str]:
    """Return the names of the calls that an operation makes."""
    calls: list[str] = []

    def around(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return real(*args, **kwargs)

    with intercepted(around):
        operation(root)
    return calls


def _die(where: int | str, when: str, operation: Callable[[Path], object], root: Path) -> None:
    """Kill a child at a call, given by its number or by its name (the first such call).

    `when` is `before` or `after` the call, or `torn`: after half of a write. Other calls to fsync are skipped, since
    they take most of the time and a kill loses no written data, flushed or not.
    """
    calls = 0

    def around(name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        is_fault = where in (calls, name)
        if is_fault and when == "torn":
            real(args[0], args[1][: len(args[1]) // 2])
        if is_fault and when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return real(*args, **kwargs) if is_fault or name != "fsync" else None
        finally:  # some calls fail as intended: rmdir of a folder that is not empty
            if is_fault:
                os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        with intercepted(around):
            operation(root)

    content, code = Child(run).end()
    if code != -signal.SIGKILL:
        raise ChildError(f"expected to die at call {where}, ended with {code}: {content!r}")


def points(calls: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return the fault points of calls: number and name of the call, and when to die."""
    return [
        (number, name, when)
        for number, name in enumerate(calls, 1)
        for when in (("torn",) if name == "write" else ("before", "after"))
    ]


@contextmanager
def _copy(start: Path, root: Path) -> Iterator[Path]:
    """Copy the prepared index, if there is one; delete the copy at the end."""
    if start.exists():
        shutil.copytree(start, root)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


# ---- Shared by tasks


@dataclass(frozen=True)
class Outcomes:
    """Expected outcomes of an operation: its calls, and the states before, after, and after a repetition."""

    operation: Operation
    calls: list[str]
    before: State | None
    after: State
    repeated: State

    @classmethod
    def of(cls, operation: Operation, start: Path) -> Outcomes:
        """Prepare an index at `start`, and run the operation on a copy of it."""
        operation.prepare(start)
        before = in_child(state_at, start)
        with _copy(start, start.with_name("whole")) as root:
            calls = in_child(_count, operation.run, root)
            after = in_child(state_at, root)
            in_child(partial(operation.repeat, root, committed=True))
            return cls(operation, calls, before, after, in_child(state_at, root))

    def check(self, root: Path, *, abandoned: bool) -> None:
        """Check that a failed index is in the state before or after, undamaged; repeat the change, and vacuum."""
        index = _open_at(root)
        actual = state(index) if index else None
        assert actual in (self.before, self.after), f"it opens as {actual}; expected {self.before} or {self.after}"
        damaged = [line for line in index.verify() if "in no manifest" not in line] if index else []
        assert damaged == [], damaged
        repeat = partial(self.operation.repeat, root, committed=actual == self.after)
        if self.operation.trains:
            in_child(repeat)
        else:
            repeat()
        index = Index.open(root)
        repeated = state(index)
        assert self.repeated.same_contents(repeated), (
            f"repeated, it is {repeated}; expected the contents of {self.repeated}"
        )
        if not abandoned:
            index.delete(["d0"])
        index.vacuum(keep=1, abandoned=abandoned)
        problems = index.verify()
        assert problems == [], problems

    def check_refused(self, root: Path, message: str) -> None:
        """Check that the operation raises a `RaycolError` with this message."""
        try:
            self.operation.run(root)
        except RaycolError as error:
            assert message in str(error), error  # noqa: PT017
        else:
            raise AssertionError("it succeeded")

    def check_unchanged(self, root: Path) -> None:
        """Check that no version has changed, and that a vacuum deletes all other files."""
        actual = state_at(root)
        assert actual == self.before, f"it opens as {actual}; expected {self.before}"
        if self.before is None:
            in_child(self.operation.run, root)
        index = Index.open(root)
        damaged = [line for line in index.verify() if "in no manifest" not in line]
        assert damaged == [], damaged
        index.vacuum(keep=10, abandoned=True)
        problems = index.verify()
        assert problems == [], problems


def _in_lanes(
    folder: Path, trials: Sequence[T], attempt: Callable[[Path, T], None], describe: Callable[[T], str]
) -> dict[str, Any]:
    """Run each trial at an empty path, in `LANES` processes; return the number of trials and the problems."""

    def lane(number: int) -> list[str]:
        os.fsync = lambda descriptor: None  # see `_die`
        root = folder / f"trial{number}"
        problems = []
        for trial in trials[number::LANES]:
            try:
                attempt(root, trial)
            except ChildError as error:
                problems.append(f"{describe(trial)}: {error}")
            except Exception:
                problems.append(f"{describe(trial)}: {traceback.format_exc(limit=-4)}")
            shutil.rmtree(root, ignore_errors=True)
        return problems

    lanes = [Child(lane, number) for number in range(LANES)]
    return _answer(len(trials), [line for child in lanes for line in child.result(_LANE_S)])


def _answer(trials: int, problems: list[str]) -> dict[str, Any]:
    return {"trials": trials, "problems": problems}


# ---- Tasks: each returns the number of trials, and a text for each that failed


def count(folder: Path, name: str) -> dict[str, Any]:
    """Count the fault points of an operation."""
    OPERATIONS[name].prepare(folder / "start")
    return _answer(len(points(in_child(_count, OPERATIONS[name].run, folder / "start"))), [])


def kill(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Kill an operation at every `step`-th fault point; check the index, repeat the operation, and vacuum."""
    start = folder / "start"
    outcomes = Outcomes.of(OPERATIONS[name], start)

    def attempt(path: Path, point: tuple[int, str, str]) -> None:
        number, _, when = point
        with _copy(start, path) as root:
            _die(number, when, outcomes.operation.run, root)
            outcomes.check(root, abandoned=(number + (when == "after")) % 2 == 0)

    def describe(point: tuple[int, str, str]) -> str:
        number, call, when = point
        return f"{name}, killed at call {number} of {len(outcomes.calls)}, {call}, {when}"

    return _in_lanes(folder, points(outcomes.calls)[::step], attempt, describe)


def lose_power(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Check the index in every `step`-th state that a power failure may leave, and in the final state.

    The states are those of `disk_model` after each call of the operation.
    """
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")
    failures, final = in_child(_follow, outcomes.operation, folder / "start", folder / "disk")

    def attempt(folder: Path, failure: tuple[Tree, str]) -> None:
        tree, _ = failure
        write_tree(tree, folder)
        root = folder / "index"
        if tree == final:
            actual = state_at(root)
            assert actual == outcomes.after, f"the operation had committed, but the index opens as {actual}"
        outcomes.check(root, abandoned=True)

    trials = [
        failure for number, failure in enumerate(failures.items()) if number % step == step - 1 or failure[0] == final
    ]
    return _in_lanes(folder, trials, attempt, lambda failure: f"{name}, power lost {failure[1]}")


def _follow(operation: Operation, start: Path, top: Path) -> tuple[dict[Tree, str], Tree]:
    top.mkdir()
    with _copy(start, top / "index") as root:
        disk = Disk(top, [root / operation.unflushed] if operation.unflushed else [])
        with intercepted(disk.around, Disk.CALLS):
            operation.run(root)
        return disk.failures, disk.durable()


def fill_disk(folder: Path, name: str, step: int) -> dict[str, Any]:
    """Fail every `step`-th write as on a full disk: that write alone, or all writes from it on."""
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")
    n_writes = outcomes.calls.count("write")

    def attempt(path: Path, trial: tuple[int, bool]) -> None:
        number, lasting = trial
        writes = 0

        def around(_: str, real: Callable[..., Any], *args: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == number or (lasting and writes > number):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args)

        with _copy(folder / "start", path) as root:
            with intercepted(around, ["write"]):
                outcomes.check_refused(root, "No space left")
            outcomes.check_unchanged(root)

    def describe(trial: tuple[int, bool]) -> str:
        return f"{name}, disk full at write {trial[0]} of {n_writes}{' and all after it' if trial[1] else ''}"

    trials = [(number, number % 2 == 0) for number in range(1, n_writes + 1)]
    trials = trials[-1::-step]  # includes the last one, which is part of the commit
    return _in_lanes(folder, trials, attempt, describe)


def limit_files(folder: Path, name: str) -> dict[str, Any]:
    """Limit the size of files (RLIMIT_FSIZE), which also affects writes that do not go through `os`."""
    outcomes = Outcomes.of(OPERATIONS[name], folder / "start")

    def attempt(path: Path, limit: int) -> None:
        with _copy(folder / "start", path) as root:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                outcomes.check_refused(root, "File too large")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            outcomes.check_unchanged(root)

    return _in_lanes(folder, [0, 60, 130, 400], attempt, lambda limit: f"{name}, files of {limit} bytes at most")


def append_together(folder: Path) -> dict[str, Any]:
    """Run six writers that append one document each; those with a conflict open the index again and retry."""
    root = folder / "index"
    in_child(create_with_deletes, root)
    start = time.monotonic() + 0.3
    writers = [Child(_append_until_done, root, number, start) for number in range(500, 506)]
    conflicts = sum(child.result() for child in writers)

    def check() -> None:
        versions = Index.open(root).stats().versions
        assert versions == tuple(range(1, 9)), versions
        states = [state(Index.open(root, version)) for version in versions[1:]]
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
    """Run several creates at one path, with documents by seed: exactly one of them succeeds."""

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
    """Load what children need: kernels for memory-mapped arrays, and pandas, which Arrow imports."""
    documents = [Document(document.id, document.embeddings) for document in make_documents(range(20))]
    in_child(lambda: Index.create(folder, documents[:10], n_centroids=8))
    index = Index.open(folder)
    index.append(documents[10:])
    index.search([documents[0].embeddings], k=1, n_probe=2, n_rescore=1)
    pa.array(["x"])
    # A garbage collection in a child would copy the pages of all objects that exist now.
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
