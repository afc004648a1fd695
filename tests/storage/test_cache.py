"""The copies of an object store's files on this machine: whole, fetched once, bounded."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.errors import IndexCorruptError, InputError, RaycolError
from raycol.index import Index
from raycol.storage import open_store
from raycol.storage.cache import cache_folder
from raycol.storage.checked_files import describe_file
from tests.storage.server import Request, Server, listed, put, refused
from tests.storage.test_writing import QUERIES, documents


def cached() -> list[Path]:
    return sorted(path for path in cache_folder().rglob("*") if path.is_file())


def grown_old(folder: Path) -> None:
    """Not used for an hour."""
    then = time.time() - 3600
    os.utime(folder, (then, then))


def test_concurrent_readers_download_each_file_once(s3: str, s3_server: Server) -> None:
    """Threads, which lock each other out as processes do: every reader opens the folder anew."""
    index = Index.create(s3, documents())
    expected = index.search(QUERIES)
    for path in cached():
        path.unlink()
    del s3_server.requests[:]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: Index.open(s3).search(QUERIES), range(4))
        assert list(found) == [expected] * 4
    fetched = [path for method, path in s3_server.requests if method == "GET" and path.endswith(".npy")]
    assert len(fetched) == len(set(fetched)) > 10


def test_partial_files_of_a_killed_process_are_not_used(s3: str) -> None:
    index = Index.create(s3, documents())
    expected = index.search(QUERIES)
    copies = cached()
    for number, path in enumerate(copies):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else bytes(len(content)))  # as after a crash
        (path.parent / "copy-left").write_bytes(content[:3])
    assert Index.open(s3).search(QUERIES) == expected
    assert index.verify() == []


def test_a_truncated_or_damaged_object_never_enters_the_cache(s3: str) -> None:
    index = Index.create(s3, documents())
    name = f"partitions/{index.manifest.partitions[0].name}/residuals.npy"
    store = open_store(s3)
    whole = store.read(name, 1 << 30)
    for content, message in (
        (whole[:-1], r"residuals\.npy: \d+ bytes; the manifest promises \d+; restore it or rebuild"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), r"residuals\.npy: .* with checksum .* the manifest promises"),
    ):
        put(f"{s3}/{name}", content)
        with pytest.raises(IndexCorruptError, match=f"{s3}/.*{message}"):
            Index.open(s3).search(QUERIES)
        assert not any(path.name == "residuals.npy" or path.name.startswith("copy-") for path in cached())
    put(f"{s3}/{name}", whole)
    assert len(Index.open(s3).search(QUERIES)[0]) == 10


def test_a_truncated_response_leaves_no_file(s3: str, s3_server: Server) -> None:
    Index.create(s3, documents())

    def half(request: Request, start: Any) -> Any:
        """All the headers of an answer, and half of its body."""
        if request["REQUEST_METHOD"] != "GET" or not request["PATH_INFO"].endswith("codes.npy"):
            return None
        said: list[Any] = []
        body = b"".join(s3_server._app(request, lambda *answer: said.append(answer)))
        start(*said[0])
        return [body[: len(body) // 2]]

    with s3_server.failing(half), pytest.raises(RaycolError, match=rf"{s3}/.*codes\.npy: "):
        Index.open(s3).search(QUERIES)
    assert not any(path.name == "codes.npy" for path in cached())
    assert len(Index.open(s3).search(QUERIES)[0]) == 10


def test_the_endpoint_fails_during_a_search(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, documents())

    def gone(request: Request, start: Any) -> Any:
        return refused(start, "503 Service Unavailable", "SlowDown") if "scales" in request["PATH_INFO"] else None

    opened = Index.open(s3)
    with (
        s3_server.failing(gone),
        pytest.raises(RaycolError, match=rf"{s3}/.*scales\.npy: cannot be read \(.*; the endpoint .* try again"),
    ):
        opened.search(QUERIES)
    assert opened.search(QUERIES) == index.search(QUERIES)


def test_the_least_recently_used_folders_are_evicted(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    indexes = [Index.create(f"{s3}/{number}", documents(60)) for number in range(3)]
    first = indexes[0].search(QUERIES)
    size = sum(path.stat().st_size for path in cached())
    monkeypatch.setenv("RAYCOL_CACHE_BYTES", str(1.5 * size))
    opened = Index.open(f"{s3}/0")
    assert opened.search(QUERIES) == first
    folders = {path.parent for path in cached()}
    for folder in folders:
        grown_old(folder)
    for number in (1, 2):
        Index.open(f"{s3}/{number}").search(QUERIES)
    assert sum(path.stat().st_size for path in cached()) <= 1.5 * size
    assert not all(folder.exists() for folder in folders)
    assert opened.search(QUERIES) == first  # what is mapped stays readable
    assert Index.open(f"{s3}/0").search(QUERIES) == first  # and what is gone comes again


def test_recently_used_folders_are_kept_under_any_limit(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCOL_CACHE_BYTES", "1")
    Index.create(s3, documents()).search(QUERIES)
    assert {path.name for path in cached()} >= {"codes.npy", "residuals.npy", "centroids.npy"}


@pytest.mark.parametrize("value", ["much", "-1", "0", "nan", "1e99"])
def test_an_invalid_limit_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RAYCOL_CACHE_BYTES", value)
    with pytest.raises(InputError, match="expected a number of bytes such as 200e9"):
        open_store(s3)


def test_an_unwritable_cache_is_named_in_the_error(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Index.create(s3, documents())
    monkeypatch.setenv("RAYCOL_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RaycolError, match=rf"{tmp_path}/file/indexes/\w+: cannot be written"):
        Index.open(s3)


def test_a_removed_folder_leaves_no_copy(s3: str, tmp_path: Path) -> None:
    store = open_store(s3)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").write_bytes(np.arange(9).tobytes())
    files = {"x": describe_file(tmp_path / "new" / "x")}
    store.publish(tmp_path / "new", "data/a", files)
    store.folder("data/a", files)
    assert len(cached()) == 1
    store.remove("data/a")
    assert cached() == []
    assert listed(s3) == {}
