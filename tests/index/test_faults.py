"""Death, power failure, full disks and races: an index is always one of its committed versions, and can go on.

What has to die, to starve or to race does so in children of one helper process, `fault_worker`.
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
from raycol.index.write.vacuum import sweep
from raycol.storage import open_store
from tests.conftest import PROJECT, tries_all
from tests.index.fault_worker import create_small, create_worn, intercepted, make_documents, state

CHANGES = ["create", "append", "upsert", "delete", "compact", "vacuum", "vacuum abandoned"]
Worker = Callable[..., int]
# Of the points at which something may fail, one in so many is tried: all with the profile `long`. It is odd, since
# before and after a call, and one failure and a lasting one, take turns.
STEP = 1 if tries_all() else 5


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """Gives the helper process a task; returns how many trials it made, all of which went well.

    It works in memory where there is such a folder: a thousand small indexes are made and removed.
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
        place = Path(tempfile.mkdtemp(dir=folder))
        print(json.dumps([task, str(place), *args]), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline() or '{"problems": ["the helper process has ended"]}')
        shutil.rmtree(place)
        if answer["problems"]:
            shown = [problem[:2000] for problem in answer["problems"][:5]]
            pytest.fail("\n\n".join([f"{len(answer['problems'])} trials went wrong", *shown]), pytrace=False)
        return answer["trials"]

    try:
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its session: it and its children, which may be at work yet
        process.wait()
        process.stdin.close()
        process.stdout.close()
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", CHANGES)
def test_a_writer_killed_at_any_write_rename_or_fsync_leaves_one_version(worker: Worker, change: str) -> None:
    """SIGKILL before and after each call and in the middle of each write; then the change is made again."""
    assert worker("kill", change, STEP) > 0


@pytest.mark.slow
def test_there_are_hundreds_of_points_to_be_killed_at(worker: Worker) -> None:
    assert sum(worker("count", change) for change in CHANGES) >= 200


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", ["create", "append", "delete", "compact", "vacuum"])
def test_a_power_failure_at_any_point_leaves_one_version(worker: Worker, change: str) -> None:
    """By the model of `disk_model`. What was committed when the power failed is there."""
    assert worker("lose power", change, STEP) > 0


@pytest.mark.slow
def test_a_folder_that_a_dead_writer_made_is_flushed_by_the_next_one(worker: Worker) -> None:
    assert worker("lose power", "delete after a death", 1) > 0


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("change", ["create", "append", "append more", "upsert", "delete", "compact"])
def test_a_full_disk_changes_no_version(worker: Worker, change: str) -> None:
    assert worker("fill disk", change, STEP) > 0


@pytest.mark.slow
@pytest.mark.parametrize("change", ["create", "append"])
def test_documents_that_cannot_wait_on_disk_change_no_version(worker: Worker, change: str) -> None:
    assert worker("limit files", change) > 0


@pytest.mark.slow
def test_of_six_processes_that_append_at_once_none_loses_a_document(worker: Worker) -> None:
    assert sum(worker("append together") for _ in range(3)) > 0, "none of them was ever in the other's way"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[0, 0], [0, 1]], ids=["the same documents", "other documents"])
def test_of_two_processes_that_create_in_one_place_one_succeeds(worker: Worker, seeds: list[int]) -> None:
    assert worker("create together", seeds) > 0


def test_the_second_of_two_writers_is_refused_and_can_repeat(tmp_path: Path) -> None:
    create_small(tmp_path / "i")
    first, second = Index.open(tmp_path / "i"), Index.open(tmp_path / "i")
    first.append(make_documents([100, 101]))
    seen = state(second)
    for change in (
        lambda: second.append(make_documents([200])),
        lambda: second.upsert(make_documents([100], seed=1)),
        lambda: second.delete(["d0"]),
        lambda: second.compact(1000),
    ):
        with pytest.raises(ConflictError, match="version 2 was written by another process meanwhile"):
            change()
    assert state(second) == seen
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
def test_a_writer_that_fails_removes_nothing_that_another_has_committed(
    tmp_path: Path, writer: str, failure: BaseException
) -> None:
    """Both make the same change to the same version, so what they publish has the same names."""
    root = tmp_path / "i"
    if writer != "create":
        create_worn(root)
    work = WRITERS.get(writer, lambda _: create_small(root))
    index = Index.open(root) if writer != "create" else None
    overtaken = False

    def overtake(_: str, link: Callable[..., None], *args: Any) -> None:
        nonlocal overtaken
        if overtaken:
            link(*args)
            return
        overtaken = True
        work(Index.open(root) if index else None)
        raise failure

    with intercepted(overtake, ["link"]), pytest.raises((RaycolError, KeyboardInterrupt, MemoryError)):
        work(index)
    other = Index.open(root)
    assert other.version == (3 if index else 1)
    assert other.verify() == []
    other.append(make_documents([300]))
    other.vacuum(keep=1)
    assert other.verify() == []


def test_a_writer_that_dies_over_a_damaged_folder_leaves_the_files_that_are_whole(tmp_path: Path) -> None:
    """Another writer of the same documents has committed the folder, which is damaged since."""
    root = tmp_path / "i"
    index = create_small(root)
    moment = "before"

    def overtake(_: str, call: Callable[..., None], *args: Any) -> None:
        nonlocal moment
        if moment == "before":
            moment = "meanwhile"
            other = Index.open(root)
            other.append(make_documents([100]))
            damaged = root / "partitions" / other.partitions[-1].info.name / "codes.npy"
            damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
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


def test_an_append_that_tidies_up_gives_up_no_version(tmp_path: Path) -> None:
    """Nor one that another writer commits meanwhile."""
    root = tmp_path / "i"
    create_small(root)
    overtaken = False

    def overtake(_: str, call: Callable[..., Any], *args: Any) -> Any:
        nonlocal overtaken
        found = call(*args)
        if not overtaken:
            overtaken = True
            Index.open(root).append(make_documents([100]))
        return found

    with intercepted(overtake, ["listdir"]):
        assert sweep(open_store(root)).versions == ()
    assert overtaken
    assert Index.open(root).stats().versions == (1, 2)


@pytest.mark.parametrize("name", ["builds/00000001-a", "builds/00000001-a/00000002-00000000.json"])
def test_a_folder_that_another_writer_removes_is_removed(tmp_path: Path, name: str) -> None:
    """Two appends that have committed tidy up at once."""
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
def test_a_number_that_a_vacuum_has_freed_is_not_taken_again(tmp_path: Path, writer: str, moment: str) -> None:
    """A writer comes to its commit after others have committed that number, and more, and vacuumed them away."""
    root = tmp_path / "i"
    index = create_worn(root)
    passed = False

    def is_commit(name: str, *args: Any) -> bool:
        if name == "open":
            return "unfinished" in str(args[0]) and Path(args[0]).parent == root and bool(args[1] & os.O_CREAT)
        return name == "link" or b"raycol-index" in bytes(args[1][:40])

    def overtake(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal passed
        if not passed and is_commit(name, *args):
            passed = True
            for number in range(500, 504):
                Index.open(root).append(make_documents([number]))
            Index.open(root).vacuum(keep=1)
        return call(*args, **kwargs)

    with intercepted(overtake, [moment]), pytest.raises(ConflictError, match="by another process meanwhile"):
        WRITERS[writer](index)
    assert passed
    now = Index.open(root)
    assert (now.version, now.stats().versions) == (6, (6,))
    now.vacuum(keep=1, abandoned=True)
    assert now.verify() == []
    WRITERS[writer](now)
    assert now.version == 7


@pytest.mark.parametrize("number", [100, 200], ids=["the same document", "another document"])
def test_a_writer_overtaken_at_the_last_moment_leaves_the_others_document_alone(tmp_path: Path, number: int) -> None:
    """The same document, added to the same version, is the same folder: whoever loses must not take it along."""
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
    writer = create_worn(tmp_path / "i")
    reader, late = Index.open(tmp_path / "i", 1), Index.open(tmp_path / "i", 1)
    seen = state(reader)
    for change in (
        lambda: writer.append(make_documents([100, 101])),
        lambda: writer.delete(["d2", "d100"]),
        lambda: writer.upsert(make_documents([3], seed=1)),
        lambda: writer.compact(1000),
        lambda: writer.vacuum(keep=6),
    ):
        change()
        assert state(reader) == seen
    assert state(late) == seen, "nothing of it was read before"
    assert state(Index.open(tmp_path / "i", 1)) == seen


def test_a_version_that_was_vacuumed_is_refused_and_those_left_are_named(tmp_path: Path) -> None:
    writer = create_worn(tmp_path / "i")
    writer.append(make_documents([100]))
    for keep, left in ((2, "2, 3"), (1, "3")):
        writer.vacuum(keep)
        with pytest.raises(InputError, match=f"no version 1; expected one of {left}$"):
            Index.open(tmp_path / "i", 1)
    assert state(Index.open(tmp_path / "i", 3)) == state(writer)


@pytest.mark.slow
def test_one_search_never_sees_two_versions(tmp_path: Path) -> None:
    """One thread searches while another appends and deletes through the same object."""
    index = create_small(tmp_path / "i")
    queries = [document.embeddings for document in make_documents([0, 5, 100])]

    def answer(index: Index) -> list[list[Hit]]:
        return index.search(queries, k=1000)

    done = Event()

    def search_on() -> list[list[list[Hit]]]:
        seen = []
        while not done.is_set():
            seen.append(answer(index))
        return seen

    with ThreadPoolExecutor(2) as threads:
        searches = [threads.submit(search_on) for _ in range(2)]
        try:
            for number in range(100, 115):
                index.append(make_documents([number]))
                index.delete([f"d{number - 100}", f"d{number - 2}"])
        finally:
            done.set()
    committed = [answer(Index.open(tmp_path / "i", version)) for version in index.stats().versions]
    for search in searches:
        assert all(seen in committed for seen in search.result()), "an answer of no version"
        versions = [committed.index(seen) for seen in search.result()]
        assert versions == sorted(versions)
        assert len(set(versions)) > 3
