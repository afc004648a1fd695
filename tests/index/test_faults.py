"""Kills, power failures, full disks and races: the index is always at a committed version, and stays writable.

The faults run in child processes of one helper process, `fault_worker`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from raycol.errors import ConflictError, InputError, RaycolError
from raycol.index import Hit, Index
from raycol.index.format.manifest import versions
from raycol.index.format.snapshot import Snapshot
from raycol.index.write.vacuum import sweep
from raycol.storage import open_store
from raycol.storage.local import LocalStore
from tests.conftest import PROJECT, tries_all
from tests.index.fault_worker import create_small, create_with_deletes, intercepted, make_documents, state

CHANGES = ["create", "append", "upsert", "delete", "compact", "vacuum", "vacuum abandoned"]
Worker = Callable[..., int]
# Try every STEP-th fault point, and all of them with the profile `long`. STEP is odd because the points alternate
# between before and after a call, and between single and lasting failures.
STEP = 1 if tries_all() else 5


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A function that sends a task to the helper process and returns the number of trials; fails if any trial failed.

    Uses /dev/shm if it is writable: the tasks create and delete a thousand small indexes.
    """
    memory = "/dev/shm"
    folder = Path(tempfile.mkdtemp(prefix="raycol-faults-", dir=memory if os.access(memory, os.W_OK) else None))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.index.fault_worker", str(folder / "warm")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout

    def ask(task: str, *args: Any) -> int:
        workspace = Path(tempfile.mkdtemp(dir=folder))
        print(json.dumps([task, str(workspace), *args]), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline() or '{"problems": ["the helper process has ended"]}')
        shutil.rmtree(workspace)
        if answer["problems"]:
            shown = [problem[:2000] for problem in answer["problems"][:5]]
            pytest.fail("\n\n".join([f"{len(answer['problems'])} trials failed", *shown]), pytrace=False)
        return answer["trials"]

    try:
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its session includes children that are still running
        process.wait()
        process.stdin.close()
        process.stdout.close()
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", CHANGES)
def test_a_writer_killed_at_any_write_rename_or_fsync_leaves_one_version(worker: Worker, change: str) -> None:
    """SIGKILL before and after each call and half-way through each write; then the change is repeated."""
    assert worker("kill", change, STEP) > 0


@pytest.mark.slow
def test_there_are_hundreds_of_kill_points(worker: Worker) -> None:
    assert sum(worker("count", change) for change in CHANGES) >= 200


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", ["create", "append", "delete", "compact", "vacuum"])
def test_a_power_failure_at_any_point_leaves_one_version(worker: Worker, change: str) -> None:
    """Uses the model in `disk_model`. A change that was committed before the power failure survives it."""
    assert worker("lose power", change, STEP) > 0


@pytest.mark.slow
def test_a_folder_made_by_a_killed_writer_is_flushed_by_the_next_writer(worker: Worker) -> None:
    assert worker("lose power", "delete after a death", 1) > 0


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", ["create", "append", "append more", "upsert", "delete", "compact"])
def test_a_full_disk_changes_no_version(worker: Worker, change: str) -> None:
    assert worker("fill disk", change, STEP) > 0


@pytest.mark.slow
@pytest.mark.parametrize("change", ["create", "append"])
def test_documents_that_cannot_be_spooled_change_no_version(worker: Worker, change: str) -> None:
    assert worker("limit files", change) > 0


@pytest.mark.slow
def test_six_concurrent_appends_lose_no_document(worker: Worker) -> None:
    assert sum(worker("append together") for _ in range(3)) > 0, "no append ever conflicted"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[0, 0], [0, 1]], ids=["same documents", "other documents"])
def test_one_of_two_concurrent_creates_succeeds(worker: Worker, seeds: list[int]) -> None:
    assert worker("create together", seeds) > 0


def test_the_second_of_two_writers_gets_a_conflict_and_can_retry(tmp_path: Path) -> None:
    create_small(tmp_path / "i")
    first, second = Index.open(tmp_path / "i"), Index.open(tmp_path / "i")
    first.append(make_documents([100, 101]))
    before = state(second)
    for change in (
        lambda: second.append(make_documents([200])),
        lambda: second.upsert(make_documents([100], seed=1)),
        lambda: second.delete(["d0"]),
        lambda: second.compact(1000),
    ):
        with pytest.raises(ConflictError, match="version 2 was written by another process meanwhile"):
            change()
    assert state(second) == before
    assert state(Index.open(tmp_path / "i")) == state(first)
    assert first.verify() == []
    second = Index.open(tmp_path / "i")
    second.append(make_documents([200]))
    assert state(second).documents.keys() == {*state(first).documents, "d200"}
    assert state(second).documents.items() > state(first).documents.items()


WRITERS = {
    "append": lambda index: index.append(make_documents([100, 101])),
    "upsert": lambda index: index.upsert(make_documents([3, 100], seed=1)),
    "delete": lambda index: index.delete(["d0", "d8"]),
    "compact": lambda index: index.compact(1000),
    "tune": lambda index: index.tune([document.embeddings for document in make_documents([0, 5])], 0.5, k=2),
}


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("writer", ["create", *WRITERS])
def test_a_failing_writer_deletes_no_committed_files_of_another(
    tmp_path: Path, writer: str, failure: BaseException
) -> None:
    """Both make the same change to the same version, so they publish folders of the same names."""
    root = tmp_path / "i"
    if writer != "create":
        create_with_deletes(root)
    write = WRITERS.get(writer, lambda _: create_small(root))
    index = Index.open(root) if writer != "create" else None
    overtaken = False

    def overtake(_: str, link: Callable[..., None], *args: Any) -> None:
        nonlocal overtaken
        if overtaken:
            link(*args)
            return
        overtaken = True
        write(Index.open(root) if index else None)
        raise failure

    with intercepted(overtake, ["link"]), pytest.raises((RaycolError, KeyboardInterrupt, MemoryError)):
        write(index)
    other = Index.open(root)
    assert other.version == (3 if index else 1)
    assert other.verify() == []
    other.append(make_documents([300]))
    other.vacuum(keep=1)
    assert other.verify() == []


def test_a_writer_interrupted_while_replacing_a_damaged_folder_keeps_its_intact_files(tmp_path: Path) -> None:
    """Another writer of the same documents has committed the folder, which has been damaged since."""
    root = tmp_path / "i"
    index = create_small(root)
    moment = "before"

    def overtake(_: str, call: Callable[..., None], *args: Any) -> None:
        nonlocal moment
        if moment == "before":
            moment = "meanwhile"
            other = Index.open(root)
            other.append(make_documents([100]))
            damaged = root / "partitions" / other.partitions[-1].info.name / "partition.bin"
            damaged.write_bytes(b"!" + damaged.read_bytes()[1:])
            moment = "after"
            call(*args)
        else:
            call(*args)
            if moment == "after":
                raise KeyboardInterrupt

    with intercepted(overtake, ["rename"]), intercepted(overtake, ["replace"]), pytest.raises(KeyboardInterrupt):
        index.append(make_documents([100]))
    assert moment == "after"
    assert Index.open(root).version == 2
    assert len(Index.open(root).verify()) <= 1


def test_sweep_retires_no_version(tmp_path: Path) -> None:
    """Nor one that another writer commits at the same time."""
    root = tmp_path / "i"
    create_small(root)
    overtaken = False

    def overtake(_: str, call: Callable[..., Any], *args: Any) -> Any:
        nonlocal overtaken
        result = call(*args)
        if not overtaken:
            overtaken = True
            Index.open(root).append(make_documents([100]))
        return result

    with intercepted(overtake, ["listdir"]):
        sweep(open_store(root), 0)
    assert overtaken
    assert Index.open(root).stats().versions == (1, 2)


@pytest.mark.parametrize("name", ["builds/00000001-a", "builds/00000001-a/00000002-00000000.json"])
def test_a_folder_may_be_deleted_by_two_writers_at_once(tmp_path: Path, name: str) -> None:
    """Two appends clean up after their commits at the same time."""
    store = open_store(tmp_path / "i")
    store.write("builds/00000001-a/00000002-00000000.json", b"{}")

    def overtake(_: str, call: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        if "unfinished" not in str(args[0]):
            shutil.rmtree(tmp_path / "i" / "builds")

    with intercepted(overtake, ["rename", "unlink"]):
        store.remove(name)
    assert store.names("builds") == []


@pytest.mark.parametrize("moment", ["open", "write", "link"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_vacuumed_version_number_is_not_reused(tmp_path: Path, writer: str, moment: str) -> None:
    """A slow writer commits after others have committed its version number and later ones, and vacuumed them."""
    root = tmp_path / "i"
    index = create_with_deletes(root)
    overtaken = False

    def is_commit(name: str, *args: Any) -> bool:
        if name == "open":
            return "unfinished" in str(args[0]) and Path(args[0]).parent == root and bool(args[1] & os.O_CREAT)
        return name == "link" or b"raycol-index" in bytes(args[1][:40])

    def overtake(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal overtaken
        if not overtaken and is_commit(name, *args):
            overtaken = True
            for number in range(500, 504):
                Index.open(root).append(make_documents([number]))
            Index.open(root).vacuum(keep=1)
        return call(*args, **kwargs)

    with intercepted(overtake, [moment]), pytest.raises(ConflictError, match="by another process meanwhile"):
        WRITERS[writer](index)
    assert overtaken
    current = Index.open(root)
    assert (current.version, current.stats().versions) == (6, (6,))
    current.vacuum(keep=1, abandoned=True)
    assert current.verify() == []
    WRITERS[writer](current)
    assert current.version == 7


@pytest.mark.parametrize("fails", ["opening the version", "flushing its name"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_failure_after_the_commit_is_not_a_lost_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, fails: str
) -> None:
    """Who is told of a conflict repeats the change, which is already there."""
    index = create_small(tmp_path / "i")
    committed = index.version + 1

    def fail(*_: object) -> None:
        if committed in versions(open_store(tmp_path / "i")):
            raise OSError("the disk is gone")

    if fails == "opening the version":
        monkeypatch.setattr(Snapshot, "next", fail)
    else:
        monkeypatch.setattr(LocalStore, "_fsync_up", fail)
    with pytest.raises((RaycolError, OSError), match="the disk is gone") as raised:
        WRITERS[writer](index)
    assert not isinstance(raised.value, ConflictError)
    monkeypatch.undo()
    assert Index.open(tmp_path / "i").version == committed


@pytest.mark.parametrize("number", [100, 200], ids=["same document", "other document"])
def test_a_writer_that_loses_at_the_commit_keeps_the_files_of_the_winner(tmp_path: Path, number: int) -> None:
    """The same document added to the same version is the same folder: the loser must not delete it."""
    index = create_small(tmp_path / "i")
    overtaken = False

    def overtake(_: str, link: Callable[..., None], *args: Any) -> None:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            Index.open(tmp_path / "i").append(make_documents([100]))
        link(*args)

    with intercepted(overtake, ["link"]), pytest.raises(ConflictError, match="version 2 was written by another"):
        index.append(make_documents([number]))
    other = Index.open(tmp_path / "i")
    assert other.version == 2
    assert state(other).documents.keys() == {*state(index).documents, "d100"}
    other.append(make_documents([300]))
    other.vacuum(keep=1)
    assert other.verify() == []


def test_a_reader_keeps_its_version_while_others_write(tmp_path: Path) -> None:
    writer = create_with_deletes(tmp_path / "i")
    reader, lazy_reader = Index.open(tmp_path / "i", 1), Index.open(tmp_path / "i", 1)
    before = state(reader)
    for change in (
        lambda: writer.append(make_documents([100, 101])),
        lambda: writer.delete(["d2", "d100"]),
        lambda: writer.upsert(make_documents([3], seed=1)),
        lambda: writer.compact(1000),
        lambda: writer.vacuum(keep=6),
    ):
        change()
        assert state(reader) == before
    assert state(lazy_reader) == before, "it had read no partition before the writes"
    assert state(Index.open(tmp_path / "i", 1)) == before


def test_opening_a_vacuumed_version_names_the_remaining_ones(tmp_path: Path) -> None:
    writer = create_with_deletes(tmp_path / "i")
    writer.append(make_documents([100]))
    for keep, remaining in ((2, "2, 3"), (1, "3")):
        writer.vacuum(keep)
        with pytest.raises(InputError, match=f"no version 1; expected one of {remaining}$"):
            Index.open(tmp_path / "i", 1)
    assert state(Index.open(tmp_path / "i", 3)) == state(writer)


@pytest.mark.slow
def test_one_search_never_sees_two_versions(tmp_path: Path) -> None:
    """Two threads search while another appends and deletes through the same `Index`."""
    index = create_small(tmp_path / "i")
    queries = [document.embeddings for document in make_documents([0, 5, 100])]

    def answer(index: Index) -> list[list[Hit]]:
        return index.search(queries, k=1000)

    done = Event()

    def search_until_done() -> list[list[list[Hit]]]:
        answers = []
        while not done.is_set():
            answers.append(answer(index))
        return answers

    with ThreadPoolExecutor(2) as threads:
        searches = [threads.submit(search_until_done) for _ in range(2)]
        try:
            for number in range(100, 115):
                index.append(make_documents([number]))
                index.delete([f"d{number - 100}", f"d{number - 2}"])
        finally:
            done.set()
    committed = [answer(Index.open(tmp_path / "i", version)) for version in index.stats().versions]
    for search in searches:
        assert all(seen in committed for seen in search.result()), "an answer that mixes versions"
        versions = [committed.index(seen) for seen in search.result()]
        assert versions == sorted(versions)
        assert len(set(versions)) > 3


@pytest.mark.parametrize("kept", [5, 12, 99])
def test_sweep_deletes_recent_leftovers_and_nothing_that_a_version_needs(tmp_path: Path, kept: int) -> None:
    """Of the sixteen versions that it looks at, vacuums may have retired some; appends and deletes are in between."""
    root = tmp_path / "i"
    index = create_small(root)
    for number in range(24):
        index.append(make_documents([100 + number]))
        if number % 5 == 0:
            index.delete([f"d{100 + number}"])
    current = index.version
    index.vacuum(keep=kept)
    for base in range(current + 1):
        for folder in ("partitions", "deletes", "builds", "codebooks"):
            (root / folder / f"{base:08d}-0123456789abcdef").mkdir(parents=True)
    sweep(open_store(root), current - 1)
    assert index.verify() == []
    for folder in ("partitions", "deletes", "builds", "codebooks"):
        left = {int(path.name[:8]) for path in (root / folder).glob("*-0123456789abcdef")}
        assert left == {*range(current - 16), current}
