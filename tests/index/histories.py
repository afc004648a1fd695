"""Concurrent writers and readers of one index, some of which are killed, checked against a model.

Run as `python -m tests.index.histories URI LOGS SECONDS SEED`. Every process logs the start and the outcome of each
change. An acknowledged change has a version. A change whose writer died or failed is in doubt: it may have been
committed, but only as the version after its base. So at most one sequence of changes leads to the versions of the
index, up to changes in doubt from the same base. The check searches for it, and the contents that each reader saw at a
version must equal the model after that many changes.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raycol.errors import ConflictError, IndexCorruptError, RaycolError
from raycol.index import Document, Index
from raycol.storage import open_store

WRITERS, READERS = 3, 1
IDS = 40
# Minimum number of acknowledged changes and of reads, and the extra time to reach it.
_MIN_EVENTS, _EXTRA_S = 5, 300
Contents = dict[str, int]
"""Document ids and the seeds of their embeddings."""


def document(number: int, seed: int) -> Document:
    """Return a document of one or two tokens with its seed as metadata."""
    tokens_TD = np.random.default_rng([seed, number]).standard_normal((1 + number % 2, 8), dtype=np.float32)
    return Document(f"d{number:03d}", tokens_TD, {"seed": seed})


def contents(index: Index) -> Contents:
    """Return the contents of an index by search and metadata; check some embeddings against their seeds."""
    query = np.ones((1, 8), np.float32)
    ids = sorted(hit.id for hit in index.exact([query], k=10_000)[0])
    assert len(ids) == len(index), f"{len(ids)} documents found; the index has {len(index)}"
    seeds = [int(row["seed"]) for row in index.metadata(ids)]
    for id_, seed in list(zip(ids, seeds, strict=True))[::7]:
        expected = document(int(id_[1:]), seed).embeddings
        assert index.reconstruct(id_).shape == expected.shape, f"{id_} differs from the document that was added"
    return dict(zip(ids, seeds, strict=True))


class Log:
    """A JSON-lines file that is unbuffered, so that lines survive the death of their writer."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.write = os.write  # the original: `full_disk` replaces the one of `os`

    def __call__(self, **line: Any) -> None:
        self.write(self._descriptor, (json.dumps(line) + "\n").encode())


def _change(index: Index, rng: random.Random, existing: Contents) -> tuple[str, list[Any], Callable[[], object]]:
    """Return a random change: its name, its arguments in the model, and a function that makes it."""
    seed = rng.randrange(1 << 30)
    numbers = sorted(rng.sample(range(IDS), rng.randint(1, 4)))
    name = rng.choice(["append", "append", "upsert", "upsert", "delete", "compact", "tune"])
    ids = [f"d{number:03d}" for number in numbers]
    if name == "append":
        new = [number for number in numbers if f"d{number:03d}" not in existing]
        made = [document(number, seed) for number in new]
        return name, [[each.id, seed] for each in made], lambda: index.append(made)
    if name == "upsert":
        made = [document(number, seed) for number in numbers]
        return name, [[each.id, seed] for each in made], lambda: index.upsert(made)
    if name == "delete":
        deleted = [id_ for id_ in ids if id_ in existing]
        return name, deleted, lambda: index.delete(deleted)
    if name == "compact":
        return name, [], lambda: index.compact(rng.choice([5, 20, 1000]))
    query = np.ones((1, 8), np.float32)
    return name, [], lambda: index.tune([query], 0.1, k=1)


def apply(contents_: Contents, name: str, arguments: list[Any]) -> Contents:
    """Apply a change to the model."""
    if name in ("append", "upsert"):
        return contents_ | dict(arguments)
    if name == "delete":
        return {id_: seed for id_, seed in contents_.items() if id_ not in arguments}
    return contents_


@contextmanager
def full_disk(rng: random.Random) -> Iterator[None]:
    """Make one of the next 30 writes fail."""
    remaining, write = rng.randrange(1, 30), os.write

    def fail(descriptor: int, content: Any) -> int:
        nonlocal remaining
        remaining -= 1
        if not remaining:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    os.write = fail
    try:
        yield
    finally:
        os.write = write


def write_until_stopped(uri: str, log: Log, seed: int, stop: Path) -> None:
    """Change the index in a loop and log the outcomes; interrupts do not end the loop."""
    rng, number = random.Random(seed), 0
    while not stop.exists():
        number += 1
        with suppress(KeyboardInterrupt):
            _write_once(uri, log, rng, number)


def _write_once(uri: str, log: Log, rng: random.Random, number: int) -> None:
    if rng.random() < 0.25:
        try:
            Index.open(uri).vacuum(keep=rng.randint(1, 4))
        except KeyboardInterrupt:
            raise
        except Exception as error:
            log(problem=f"vacuum: {error!r}")
        return
    try:
        index = Index.open(uri)
        name, arguments, change = _change(index, rng, contents(index))
    except (IndexCorruptError, RaycolError) as error:
        if index_is_older(uri, locals().get("index")):
            return
        log(problem=f"opening or reading: {error!r}")
        return
    log(begin=number, base=index.version, name=name, arguments=arguments)
    # A slow writer reaches its commit after others have committed.
    if rng.random() < 0.2:
        time.sleep(rng.random())
    before = index.version
    try:
        with full_disk(rng) if rng.random() < 0.15 else nullcontext():
            result = change()
        version = getattr(result, "version", index.version)
        log(end=number, version=version if version != before else None)
    except ConflictError:
        log(end=number, version=None)
    except KeyboardInterrupt:
        raise
    except SystemError as error:  # of a kernel that was interrupted
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
    except (RaycolError, OSError) as error:
        # In doubt, as after a kill: the last flush may fail after the commit.
        if "No space left" not in str(error):
            log(problem=f"{name} from version {before}: {error!r}")


def index_is_older(uri: str, index: Index | None) -> bool:
    """Whether the open version has been vacuumed: files that it has not read yet are then deleted."""
    return index is not None and index.version not in Index.open(uri).stats().versions


def read_until_stopped(uri: str, log: Log, stop: Path) -> None:
    """Read the newest version in a loop and log its contents."""
    while not stop.exists():
        index = None
        try:
            index = Index.open(uri)
            log(seen=index.version, contents=contents(index))
        except (RaycolError, AssertionError) as error:
            if not index_is_older(uri, index):
                log(problem=f"reading: {error!r}")


@dataclass
class Events:
    """The events in the logs; changes by the version that they committed, or would have."""

    acknowledged: dict[int, list[tuple[str, list[Any]]]] = field(default_factory=dict)
    in_doubt: dict[int, list[tuple[str, list[Any]]]] = field(default_factory=dict)
    seen: list[tuple[int, Contents]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_logs(folder: Path) -> Events:
    """Read the logs of all processes."""
    events = Events()
    for path in sorted(folder.iterdir()):
        begun: dict[int, dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "problem" in entry:
                events.problems.append(f"{path.name}: {entry['problem']}")
            elif "seen" in entry:
                events.seen.append((entry["seen"], entry["contents"]))
            elif "begin" in entry:
                begun[entry["begin"]] = entry
            else:
                change = begun.pop(entry["end"])
                if entry["version"] is not None:
                    known = events.acknowledged.setdefault(entry["version"], [])
                    known.append((change["name"], change["arguments"]))
        for change in begun.values():
            events.in_doubt.setdefault(change["base"] + 1, []).append((change["name"], change["arguments"]))
    return events


def check(events: Events, start: Contents, final: int, final_contents: Contents) -> list[str]:
    """Search for a history that explains the events; return an empty list, or the problems if there is none."""
    problems = list(events.problems)
    # An object store compares a refused commit with the existing object: if two writers commit the same contents as
    # the same version, both succeed.
    problems += [
        f"version {v}: acknowledged as {c}" for v, c in events.acknowledged.items() if any(x != c[0] for x in c)
    ]
    seen: dict[int, list[Contents]] = {}
    for version, observed in [*events.seen, (final, final_contents)]:
        known = seen.setdefault(version, [])
        if observed not in known:
            known.append(observed)
    problems += [f"version {v} was seen with {len(c)} contents" for v, c in seen.items() if len(c) > 1]
    possible = [start]
    for version in range(2, final + 1):
        changes = events.acknowledged.get(version) or events.in_doubt.get(version, [])
        after = []
        for contents_ in possible:
            for name, arguments in changes:
                made = apply(contents_, name, arguments)
                if made not in after and all(made == observed for observed in seen.get(version, [])):
                    after.append(made)
        if not after:
            kind = "acknowledged" if version in events.acknowledged else "in doubt"
            problems.append(f"version {version}: no change {kind} explains it ({changes}); seen: {seen.get(version)}")
            return problems
        possible = after
    late = [version for version in events.acknowledged if version > final]
    problems += [f"version {version} was acknowledged, and the newest is {final}" for version in late]
    return problems


def _has_min_events(logs: Path) -> bool:
    try:
        events = read_logs(logs)
    except ValueError:  # a line is being written
        return False
    return min(len(events.acknowledged), len(events.seen)) >= _MIN_EVENTS


def _warm_up(folder: Path) -> None:
    """Import the modules and load the kernels that writers need."""
    pid = os.fork()
    if not pid:
        Index.create(folder, [document(number, 0) for number in range(12)], n_centroids=4)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    index = Index.open(folder)
    index.append([document(number, 0) for number in range(20, 24)])
    index.delete(["d001"])
    index.compact(1000)
    contents(index)
    index.search([np.ones((1, 8), np.float32)], k=1, n_probe=2, n_rescore=1)


def main() -> None:
    """Run, kill and interrupt processes on one index for some time; print the problems as JSON."""
    uri, logs, seconds, seed = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(seed)
    logs.mkdir()
    stop = logs.parent / "stop"
    workers: dict[int, int] = {}
    started = 0

    def start(slot: int) -> None:
        nonlocal started
        started += 1
        name, number = logs / f"{started:04d}", rng.randrange(1 << 30)
        pid = os.fork()
        if pid:
            workers[pid] = slot
            return
        try:
            log = Log(name)
            try:
                write_until_stopped(uri, log, number, stop) if slot < WRITERS else read_until_stopped(uri, log, stop)
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                log(problem=f"ended with {error!r}")
        finally:
            os._exit(0)

    # An interrupt must not leave a module half imported.
    _warm_up(logs.parent / "warm")
    first = [document(number, 0) for number in range(12)]
    pid = os.fork()
    if not pid:
        Index.create(uri, first, n_centroids=4, partition_tokens=9, columns={"seed": "int64"})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    for slot in range(WRITERS + READERS):
        start(slot)
    end = time.time() + seconds
    # On a slow machine, continue until there are enough events.
    while time.time() < end or (not _has_min_events(logs) and time.time() < end + _EXTRA_S):
        time.sleep(rng.random() * 0.2)
        writers = [pid for pid, slot in workers.items() if slot < WRITERS]
        if writers and rng.random() < 0.5:
            os.kill(rng.choice(writers), rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGINT]))
        while workers and (done := os.waitpid(-1, os.WNOHANG))[0]:
            slot = workers.pop(done[0])
            start(slot)
    stop.touch()
    deadline = time.time() + 60
    for pid in list(workers):
        while not os.waitpid(pid, os.WNOHANG)[0]:
            time.sleep(0.01)
            if time.time() > deadline:
                os.kill(pid, signal.SIGKILL)
    index = Index.open(uri)
    events = read_logs(logs)
    problems = check(events, {each.id: 0 for each in first}, index.version, contents(index))
    problems += [line for line in index.verify() if "in no manifest" not in line]
    index.vacuum(keep=1, abandoned=True)
    problems += index.verify()
    unfinished = [name for name in open_store(uri).names("") if "unfinished" in name]
    problems += [f"not deleted: {name}" for name in unfinished]
    acknowledged = sum(map(len, events.acknowledged.values()))
    report = {"problems": problems[:20], "acknowledged": acknowledged, "seen": len(events.seen)}
    sys.stdout.write(json.dumps(report | {"versions": index.version, "processes": started}) + "\n")


if __name__ == "__main__":
    main()
