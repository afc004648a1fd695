"""Writers and readers of one index at once, some of whom are killed, and a model of what they may have seen.

Run as `python -m tests.index.histories URI LOGS SECONDS SEED`. Every process writes a log: what it begins, and how
it ended. A change that was acknowledged has a version. One whose writer died or failed may have been committed, but
only as the version after the one that it began with. So there is at most one sequence of changes for the versions of
an index, up to changes in doubt from the same version; it is looked for, and everything that a reader has seen must
be what the model holds after as many changes.
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
# Changes acknowledged and versions seen at least, and how long they are waited for.
_ENOUGH, _PATIENCE_S = 5, 300
Contents = dict[str, int]
"""The ids of an index's documents and the seeds that these were made from."""


def document(number: int, seed: int) -> Document:
    """A document of one or two tokens that keeps its seed."""
    tokens_TD = np.random.default_rng([seed, number]).standard_normal((1 + number % 2, 8), dtype=np.float32)
    return Document(f"d{number:03d}", tokens_TD, {"seed": seed})


def contents(index: Index) -> Contents:
    """What an index holds, by a search and its metadata; its embeddings are those of its seeds."""
    everything = np.ones((1, 8), np.float32)
    ids = sorted(hit.id for hit in index.exact([everything], k=10_000)[0])
    assert len(ids) == len(index), f"{len(ids)} documents are found, {len(index)} are told of"
    seeds = [int(row["seed"]) for row in index.metadata(ids)]
    for id_, seed in list(zip(ids, seeds, strict=True))[::7]:
        expected = document(int(id_[1:]), seed).embeddings
        assert index.reconstruct(id_).shape == expected.shape, f"{id_} is not what was added"
    return dict(zip(ids, seeds, strict=True))


class Log:
    """Lines of JSON that are in the file once they are written, whoever dies."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.write = os.write  # the real one: that of `os` may fail on purpose

    def __call__(self, **line: Any) -> None:
        self.write(self._descriptor, (json.dumps(line) + "\n").encode())


def _change(index: Index, rng: random.Random, taken: Contents) -> tuple[str, list[Any], Callable[[], object]]:
    """A change to an index: its name, what it does in the model, and itself."""
    seed = rng.randrange(1 << 30)
    numbers = sorted(rng.sample(range(IDS), rng.randint(1, 4)))
    name = rng.choice(["append", "append", "upsert", "upsert", "delete", "compact", "tune"])
    ids = [f"d{number:03d}" for number in numbers]
    if name == "append":
        free = [number for number in numbers if f"d{number:03d}" not in taken]
        made = [document(number, seed) for number in free]
        return name, [[each.id, seed] for each in made], lambda: index.append(made)
    if name == "upsert":
        made = [document(number, seed) for number in numbers]
        return name, [[each.id, seed] for each in made], lambda: index.upsert(made)
    if name == "delete":
        gone = [id_ for id_ in ids if id_ in taken]
        return name, gone, lambda: index.delete(gone)
    if name == "compact":
        return name, [], lambda: index.compact(rng.choice([5, 20, 1000]))
    query = np.ones((1, 8), np.float32)
    return name, [], lambda: index.tune([query], 0.1, k=1)


def apply(contents_: Contents, name: str, what: list[Any]) -> Contents:
    """What an index holds after a change."""
    if name in ("append", "upsert"):
        return contents_ | dict(what)
    if name == "delete":
        return {id_: seed for id_, seed in contents_.items() if id_ not in what}
    return contents_


@contextmanager
def full_disk(rng: random.Random) -> Iterator[None]:
    """Let one write fail, soon."""
    left, write = rng.randrange(1, 30), os.write

    def fail(descriptor: int, content: Any) -> int:
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    os.write = fail
    try:
        yield
    finally:
        os.write = write


def write_on(uri: str, log: Log, seed: int, stop: Path) -> None:
    """Change the index again and again, and note how it went. Interrupts are survived."""
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
        name, what, change = _change(index, rng, contents(index))
    except (IndexCorruptError, RaycolError) as error:
        if index_is_older(uri, locals().get("index")):
            return
        log(problem=f"opening or reading: {error!r}")
        return
    log(begin=number, base=index.version, name=name, what=what)
    # A writer that is slow comes to its commit when others have done much.
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
    except (RaycolError, OSError) as error:
        # In doubt, as for whoever dies: the last flush may fail after the commit.
        if "No space left" not in str(error):
            log(problem=f"{name} from version {before}: {error!r}")


def index_is_older(uri: str, index: Index | None) -> bool:
    """Whether the version that was open has been vacuumed: then what it has not read yet is gone."""
    return index is not None and index.version not in Index.open(uri).stats().versions


def read_on(uri: str, log: Log, stop: Path) -> None:
    """Read the newest version again and again; once in a while an older one."""
    while not stop.exists():
        index = None
        try:
            index = Index.open(uri)
            log(seen=index.version, contents=contents(index))
        except (RaycolError, AssertionError) as error:
            if not index_is_older(uri, index):
                log(problem=f"reading: {error!r}")


@dataclass
class Told:
    """What the logs tell."""

    acknowledged: dict[int, list[tuple[str, list[Any]]]] = field(default_factory=dict)
    in_doubt: dict[int, list[tuple[str, list[Any]]]] = field(default_factory=dict)
    seen: list[tuple[int, Contents]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_logs(folder: Path) -> Told:
    """What all processes have told."""
    told = Told()
    for path in sorted(folder.iterdir()):
        begun: dict[int, dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "problem" in entry:
                told.problems.append(f"{path.name}: {entry['problem']}")
            elif "seen" in entry:
                told.seen.append((entry["seen"], entry["contents"]))
            elif "begin" in entry:
                begun[entry["begin"]] = entry
            else:
                change = begun.pop(entry["end"])
                if entry["version"] is not None:
                    known = told.acknowledged.setdefault(entry["version"], [])
                    known.append((change["name"], change["what"]))
        for change in begun.values():
            told.in_doubt.setdefault(change["base"] + 1, []).append((change["name"], change["what"]))
    return told


def check(told: Told, start: Contents, final: int, final_contents: Contents) -> list[str]:
    """What no history explains: an empty list if there is one."""
    problems = list(told.problems)
    # In an object store a refused commit is compared with what stands there: of two writers that make the same version
    # of the same contents, both are told that it is there.
    problems += [
        f"version {v}: acknowledged as {c}" for v, c in told.acknowledged.items() if any(x != c[0] for x in c)
    ]
    seen: dict[int, list[Contents]] = {}
    for version, found in [*told.seen, (final, final_contents)]:
        known = seen.setdefault(version, [])
        if found not in known:
            known.append(found)
    problems += [f"version {v} was seen with {len(c)} contents" for v, c in seen.items() if len(c) > 1]
    possible = [start]
    for version in range(2, final + 1):
        changes = told.acknowledged.get(version) or told.in_doubt.get(version, [])
        after = []
        for contents_ in possible:
            for name, what in changes:
                made = apply(contents_, name, what)
                if made not in after and all(made == found for found in seen.get(version, [])):
                    after.append(made)
        if not after:
            what = "acknowledged" if version in told.acknowledged else "in doubt"
            problems.append(f"version {version}: no change {what} explains it ({changes}); seen: {seen.get(version)}")
            return problems
        possible = after
    late = [version for version in told.acknowledged if version > final]
    problems += [f"version {version} was acknowledged, and the newest is {final}" for version in late]
    return problems


def _is_enough(logs: Path) -> bool:
    try:
        told = read_logs(logs)
    except ValueError:  # a line is being written
        return False
    return min(len(told.acknowledged), len(told.seen)) >= _ENOUGH


def _warm_up(folder: Path) -> None:
    """Import and load what writers need, kernels too."""
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
    """Let processes work on an index for some time, kill and interrupt them, and print what no history explains."""
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
                write_on(uri, log, number, stop) if slot < WRITERS else read_on(uri, log, stop)
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                log(problem=f"ended with {error!r}")
        finally:
            os._exit(0)

    # An interrupt must not meet anything half imported.
    _warm_up(logs.parent / "warm")
    first = [document(number, 0) for number in range(12)]
    pid = os.fork()
    if not pid:
        Index.create(uri, first, n_centroids=4, partition_tokens=9, columns={"seed": "int64"})
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    for slot in range(WRITERS + READERS):
        start(slot)
    until = time.time() + seconds
    # However slow the machine: until there is a history.
    while time.time() < until or (not _is_enough(logs) and time.time() < until + _PATIENCE_S):
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
    told = read_logs(logs)
    found = check(told, {each.id: 0 for each in first}, index.version, contents(index))
    found += [line for line in index.verify() if "in no manifest" not in line]
    index.vacuum(keep=1, abandoned=True)
    found += index.verify()
    unfinished = [name for name in open_store(uri).names("") if "unfinished" in name]
    found += [f"left over: {name}" for name in unfinished]
    acknowledged = sum(map(len, told.acknowledged.values()))
    report = {"problems": found[:20], "acknowledged": acknowledged, "seen": len(told.seen)}
    sys.stdout.write(json.dumps(report | {"versions": index.version, "processes": started}) + "\n")


if __name__ == "__main__":
    main()
