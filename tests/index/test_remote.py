"""An index in an object store: an S3-compatible server on loopback, which has no rename."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from raycol.errors import ConflictError, IndexCorruptError, InputError
from raycol.index import Document, Index
from raycol.index.format.manifest import manifest_name
from raycol.index.write.verify import verify_index
from raycol.storage import open_store
from tests.conftest import make_clustered


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of the server, with a bucket called `corpora`."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files = pafs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1", allow_bucket_creation=True
        )
        files.create_dir("corpora")
        yield f"{host}:{port}"
    running.stop()


@pytest.fixture
def uri(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh place for an index, and a fresh cache."""
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "cache"))
    return f"s3://corpora/{tmp_path.name}?endpoint_override={server}&scheme=http&region=us-east-1"


def documents(n: int = 40, name: str = "d") -> list[Document]:
    arrays = make_clustered(n, 16, seed=0)
    return [Document(f"{name}{number}", array, {"n": number}) for number, array in enumerate(arrays)]


QUERIES = [np.eye(3, 16, dtype=np.float32)]


def test_an_index_in_an_object_store_is_the_index_in_a_folder(uri: str, tmp_path: Path) -> None:
    remote = Index.create(uri, documents(), partition_tokens=200)
    local = Index.create(tmp_path / "i", documents(), partition_tokens=200)
    for index in (remote, local):
        index.append(documents(3, "new"))
        index.upsert(documents(2))
        index.delete(["d7", "new1"])
    for index, same in ((remote, local), (Index.open(uri), Index.open(tmp_path / "i"))):
        assert index.manifest == same.manifest
        assert index.search(QUERIES, k=50, filter="n < 20") == same.search(QUERIES, k=50, filter="n < 20")
    assert remote.compact(1000) == local.compact(1000) == 5
    assert remote.vacuum(keep=1) == local.vacuum(keep=1)
    assert remote.verify() == local.verify() == []
    assert set(open_store(uri).walk()) == set(open_store(tmp_path / "i").walk())


def test_the_cache_holds_what_is_searched_and_mends_itself(uri: str, tmp_path: Path) -> None:
    Index.create(uri, documents())
    expected = Index.open(uri).search(QUERIES)
    copies = list((tmp_path / "cache").rglob("codes.npy"))
    assert len(copies) == 1
    copies[0].write_bytes(b"short")
    assert Index.open(uri).search(QUERIES) == expected
    whole = copies[0].read_bytes()
    copies[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Index.open(uri).search(QUERIES) == expected
    assert copies[0].read_bytes() == whole


def test_damage_in_the_store_is_found(uri: str) -> None:
    index = Index.create(uri, documents())
    store = open_store(uri)
    name = f"partitions/{index.manifest.partitions[0].name}/residuals.npy"
    whole = store.read(name, 1 << 30)
    store.write(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify_index(store) == [f"{store.location(name)}: the checksum differs from the manifest's"]
    os.environ["RAYCOL_CACHE"] += "-another-machine"
    with pytest.raises(IndexCorruptError, match=r"residuals\.npy: .* the manifest promises"):
        Index.open(uri).search(QUERIES)
    store.remove(name)
    assert verify_index(store) == [f"{store.location(name)}: missing"]
    with pytest.raises(IndexCorruptError, match=r"residuals\.npy: missing"):
        Index.open(uri)
    store.write("partitions/stray", b"x")
    assert any("stray: in no manifest" in line for line in verify_index(store))


def test_of_two_writers_one_gets_a_conflict(uri: str) -> None:
    first, second = Index.create(uri, documents()), Index.open(uri)
    first.append(documents(1, "first"))
    with pytest.raises(ConflictError, match="version 2 was written by another process"):
        second.append(documents(1, "second"))
    # Even one that looked before the other had committed: the condition is the server's.
    with pytest.raises(FileExistsError):
        open_store(uri).create(manifest_name(2), b"second", lambda: None)
    assert "first0" in Index.open(uri)


def test_a_number_that_a_vacuum_has_freed_is_not_taken_again(uri: str) -> None:
    """A writer comes to its commit after others have committed that number, and more, and vacuumed them away."""
    index = Index.create(uri, documents())

    def others() -> None:
        other = Index.open(uri)
        for number in range(4):
            other.append(documents(1, f"other{number}-"))
        other.vacuum(keep=1)

    with pytest.raises(FileExistsError):
        open_store(uri).create(manifest_name(2), b"mine", others)
    assert Index.open(uri).stats().versions == (5,)
    with pytest.raises(FileNotFoundError):
        open_store(uri).read(manifest_name(2), 100)
    with pytest.raises(ConflictError, match="version 5 was written by another process"):
        index.append(documents(1, "mine"))
    assert Index.open(uri).verify() == []


def test_of_retired_versions_the_newest_marks_are_kept(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycol.storage.object_store._MARKERS_KEPT", 2)
    index = Index.create(uri, documents())
    for number in range(8):
        index.append(documents(1, f"more{number}-"))
    index.vacuum(keep=1)
    marks = sorted(info.base_name for info in open_store(uri)._list("manifests") if not info.size)
    assert marks == ["00000007.json", "00000008.json"]
    assert Index.open(uri).stats().versions == (9,)


def test_a_manifest_that_is_retired_while_it_is_read_is_not_found(uri: str) -> None:
    """It is read as it was, or not found, at whatever point of the reading another process retires it."""
    reader, writer, whole = open_store(uri), open_store(uri), b"x" * 2000
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 60):
            name = manifest_name(number)
            writer.write(name, whole)
            retired = pool.submit(writer.retire, name)
            found = {whole}
            while not retired.done():
                try:
                    found.add(reader.read(name, 1 << 20))
                except FileNotFoundError:
                    break
            retired.result()
            assert found == {whole}


# Forks a writer for each line of input: a URI, where to die, and the folder of its cache. Says how it ended.
WRITERS = """
import json, os, signal, sys
import raycol.storage.object_store as remote
from raycol.index import Index
from tests.index.test_remote import documents

def write(uri, at, cache):
    os.environ["RAYCOL_CACHE"] = cache
    seen = 0
    for name in ("publish", "create", "_download"):
        original = getattr(remote.RemoteStore, name)
        def counted(self, *arguments, original=original):
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *arguments)
        setattr(remote.RemoteStore, name, counted)
    Index.create(uri, documents(), partition_tokens=200)

for line in sys.stdin:
    writer = os.fork()
    if not writer:
        write(*json.loads(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def kill_writer(server: str) -> Iterator[Callable[[str, int], int]]:
    """Has a process write an index and die; returns its exit code. One interpreter starts for all of them."""
    command = [sys.executable, "-c", WRITERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def kill(uri: str, at: int) -> int:
            print(json.dumps([uri, at, os.environ["RAYCOL_CACHE"]]), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield kill


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_killed_writer_leaves_nothing_that_opens_and_nothing_in_the_way(
    uri: str, kill_writer: Callable[[str, int], int], at: int
) -> None:
    assert kill_writer(uri, at) == -signal.SIGKILL
    with pytest.raises(InputError, match=r"not an index|an unfinished build"):
        Index.open(uri)
    index = Index.create(uri, documents(), partition_tokens=200)
    assert len(index) == 40
    assert index.verify() == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("s3://", "cannot be opened|not an index"),
        ("nonsense://x/y", "cannot be opened"),
        ("s3://key:secret@corpora/x", "credentials in a URI"),
    ],
)
def test_places_that_cannot_be_opened_are_named(bad: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as failure:
        Index.open(bad)
    assert "secret" not in str(failure.value)


def test_there_is_no_index_where_there_is_none(uri: str) -> None:
    with pytest.raises(InputError, match="not an index"):
        Index.open(uri)
