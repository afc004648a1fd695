"""An index in an object store, which has no rename: an S3-compatible server on loopback."""

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
    """The address of a server with a bucket `corpora`."""
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
    """The URI of an empty prefix; the cache is empty too."""
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "cache"))
    return f"s3://corpora/{tmp_path.name}?endpoint_override={server}&scheme=http&region=us-east-1"


def documents(n: int = 40, name: str = "d") -> list[Document]:
    arrays = make_clustered(n, 16, seed=0)
    return [Document(f"{name}{number}", array, {"n": number}) for number, array in enumerate(arrays)]


QUERIES = [np.eye(3, 16, dtype=np.float32)]


def test_an_index_in_an_object_store_equals_one_in_a_folder(uri: str, tmp_path: Path) -> None:
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


def test_the_cache_holds_searched_files_and_replaces_damaged_ones(uri: str, tmp_path: Path) -> None:
    Index.create(uri, documents())
    expected = Index.open(uri).search(QUERIES)
    copies = list((tmp_path / "cache").rglob("partition.bin"))
    assert len(copies) == 1
    copies[0].write_bytes(b"short")
    assert Index.open(uri).search(QUERIES) == expected
    whole = copies[0].read_bytes()
    copies[0].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Index.open(uri).search(QUERIES) == expected
    assert copies[0].read_bytes() == whole


def test_damage_in_the_store_is_detected(uri: str) -> None:
    index = Index.create(uri, documents())
    store = open_store(uri)
    name = f"partitions/{index.manifest.partitions[0].name}/partition.bin"
    whole = store.read(name, 1 << 30)
    store.write(name, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify_index(store) == [f"{store.location(name)}: the checksum differs from the manifest's"]
    os.environ["RAYCOL_CACHE"] += "-another-machine"
    with pytest.raises(IndexCorruptError, match=r"partition\.bin: .* the manifest promises"):
        Index.open(uri).search(QUERIES)
    store.remove(name)
    assert verify_index(store) == [f"{store.location(name)}: missing"]
    with pytest.raises(IndexCorruptError, match=r"partition\.bin: missing"):
        Index.open(uri)
    store.write("partitions/stray", b"x")
    assert any("stray: in no manifest" in line for line in verify_index(store))


def test_the_second_of_two_writers_gets_a_conflict(uri: str) -> None:
    first, second = Index.create(uri, documents()), Index.open(uri)
    first.append(documents(1, "first"))
    with pytest.raises(ConflictError, match="version 2 was written by another process"):
        second.append(documents(1, "second"))
    # The server checks the condition, so a writer that checked before the other commit fails too.
    with pytest.raises(FileExistsError):
        open_store(uri).create(manifest_name(2), b"second", lambda: None)
    assert "first0" in Index.open(uri)


def test_a_vacuumed_version_number_is_not_reused(uri: str) -> None:
    """A slow writer commits after others have committed its version number and later ones, and vacuumed them."""
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


@pytest.mark.long
def test_markers_of_the_newest_retired_versions_are_kept(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycol.storage.object_store._MARKERS_KEPT", 2)
    index = Index.create(uri, documents())
    for number in range(8):
        index.append(documents(1, f"more{number}-"))
    index.vacuum(keep=1)
    markers = sorted(info.base_name for info in open_store(uri)._list("manifests") if not info.size)
    assert markers == ["00000007.json", "00000008.json"]
    assert Index.open(uri).stats().versions == (9,)


@pytest.mark.long
def test_a_manifest_retired_during_a_read_is_read_whole_or_not_found(uri: str) -> None:
    """At any point of the read at which another process may retire it."""
    reader, writer, whole = open_store(uri), open_store(uri), b"x" * 2000
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 60):
            name = manifest_name(number)
            writer.write(name, whole)
            retired = pool.submit(writer.retire, name)
            contents = {whole}
            while not retired.done():
                try:
                    contents.add(reader.read(name, 1 << 20))
                except FileNotFoundError:
                    break
            retired.result()
            assert contents == {whole}


# Forks a writer per line of input [URI, number of the call at which to die, cache folder]; prints its exit code.
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
    """A function that forks a writer, kills it at a call and returns its exit code. All share one interpreter."""
    command = [sys.executable, "-c", WRITERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def kill(uri: str, at: int) -> int:
            print(json.dumps([uri, at, os.environ["RAYCOL_CACHE"]]), file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield kill


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.long), 3, pytest.param(5, marks=pytest.mark.long)])
def test_a_killed_create_leaves_no_index_and_can_be_repeated(
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
def test_invalid_uris_are_refused(bad: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as failure:
        Index.open(bad)
    assert "secret" not in str(failure.value)


def test_opening_an_empty_prefix_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="not an index"):
        Index.open(uri)
