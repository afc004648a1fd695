"""The local cache of an object store: files are whole, downloaded once, and limited in size."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.errors import IndexCorruptError, InputError, RaycolError
from raycol.index import Document, Index
from raycol.storage import open_store
from raycol.storage.cache import cache_folder
from raycol.storage.checked_files import describe_file
from tests.storage.server import Request, Server, listed, put, refused
from tests.storage.test_writing import QUERIES, documents


def cached() -> list[Path]:
    return sorted(path for path in cache_folder().rglob("*") if path.is_file())


def mark_unused(folder: Path) -> None:
    """Set the time of last use to an hour ago."""
    last_use = time.time() - 3600
    os.utime(folder, (last_use, last_use))


def test_concurrent_readers_download_each_file_once(s3: str, s3_server: Server) -> None:
    """Threads lock each other out as processes do, because every reader opens the folder itself."""
    index = Index.create(s3, documents())
    expected = index.search(QUERIES)
    for path in cached():
        path.unlink()
    del s3_server.requests[:]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: Index.open(s3).search(QUERIES), range(4))
        assert list(results) == [expected] * 4
    downloads = [path for method, path in s3_server.requests if method == "GET" and path.endswith((".npy", ".bin"))]
    assert len(downloads) == len(set(downloads)) == 4


def test_partial_files_of_a_killed_process_are_not_used(s3: str) -> None:
    index = Index.create(s3, documents())
    expected = index.search(QUERIES)
    copies = cached()
    for number, path in enumerate(copies):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number % 2 else bytes(len(content)))  # as after a crash
        (path.parent / "copy-stale").write_bytes(content[:3])
    assert Index.open(s3).search(QUERIES) == expected
    assert index.verify() == []


def test_a_truncated_or_damaged_object_never_enters_the_cache(s3: str) -> None:
    index = Index.create(s3, documents())
    name = f"partitions/{index.manifest.partitions[0].name}/partition.bin"
    store = open_store(s3)
    whole = store.read(name, 1 << 30)
    for content, message in (
        (whole[:-1], r"partition\.bin: \d+ bytes; the manifest promises \d+; restore it or rebuild"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), r"partition\.bin: .* with checksum .* the manifest promises"),
    ):
        put(f"{s3}/{name}", content)
        with pytest.raises(IndexCorruptError, match=f"{s3}/.*{message}"):
            Index.open(s3).search(QUERIES)
        assert not any(path.name == "partition.bin" or path.name.startswith("copy-") for path in cached())
    put(f"{s3}/{name}", whole)
    assert len(Index.open(s3).search(QUERIES)[0]) == 10


def with_metadata() -> list[Document]:
    return [replace(document, metadata={"n": number}) for number, document in enumerate(documents(40))]


def test_a_lookup_downloads_only_the_sections_that_it_reads(s3: str, s3_server: Server) -> None:
    created = Index.create(s3, with_metadata())
    expected = created.metadata(["d1", "d7"])
    whole = sum(info.bytes for part in created.manifest.partitions for info in part.files.values())
    for path in cached():
        path.unlink()
    assert Index.open(s3).metadata(["d1", "d7"]) == expected
    parts = [path for path in cached() if "partitions" in path.parts]
    assert len(parts) == 3 * len(created.manifest.partitions)  # tables, ids and metadata
    assert sum(path.stat().st_size for path in parts) < whole / 2

    # A damaged copy is downloaded again.
    for path in parts:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        for _ in range(2):  # the second time it downloads the other parts, which were deleted with the damaged one
            assert Index.open(s3).metadata(["d1", "d7"]) == expected
        assert path.read_bytes() == content

    # Once the whole file is here, nothing else is downloaded.
    assert Index.open(s3).search(QUERIES) == created.search(QUERIES)
    for path in cached():
        if path.name.startswith("partition.bin."):
            path.unlink()
    del s3_server.requests[:]
    assert Index.open(s3).metadata(["d1", "d7"]) == expected
    assert not [path for method, path in s3_server.requests if method == "GET" and path.endswith(".bin")]


def test_damaged_sections_of_an_object_are_detected(s3: str) -> None:
    created = Index.create(s3, with_metadata())
    info = created.manifest.partitions[0]
    name = f"partitions/{info.name}/partition.bin"
    content = open_store(s3).read(name, 1 << 30)
    positions = {"id_bytes": content.index(b"d0d1d2"), "its table": len(content) - info.table.bytes}
    for what, position in positions.items():
        for path in cached():
            path.unlink()
        put(f"{s3}/{name}", content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(
            IndexCorruptError, match=rf"{s3}/.*partition\.bin: the checksum of (section )?{what} differs"
        ):
            Index.open(s3).metadata(["d0"])
    put(f"{s3}/{name}", content)
    assert len(Index.open(s3).metadata(["d0"])) == 1


def test_many_partitions_are_listed_together(s3: str, s3_server: Server) -> None:
    created = Index.create(s3, with_metadata(), partition_tokens=8)
    assert len(created.partitions) > 20
    del s3_server.requests[:]
    opened = Index.open(s3)
    assert len(s3_server.requests) < 12
    assert opened.search(QUERIES) == created.search(QUERIES)
    name = f"partitions/{created.manifest.partitions[7].name}/partition.bin"
    whole = open_store(s3).read(name, 1 << 30)
    put(f"{s3}/{name}", whole[:-1])
    with pytest.raises(IndexCorruptError, match=rf"{s3}/{name}: {len(whole) - 1} bytes; the manifest promises"):
        Index.open(s3)
    open_store(s3).remove(name)
    with pytest.raises(IndexCorruptError, match=rf"{s3}/{name}: missing"):
        Index.open(s3)


def test_a_truncated_response_leaves_no_file(s3: str, s3_server: Server) -> None:
    Index.create(s3, documents())

    def half(request: Request, start: Any) -> Any:
        """Send all headers of a response, and half of its body."""
        if request["REQUEST_METHOD"] != "GET" or not request["PATH_INFO"].endswith("partition.bin"):
            return None
        started: list[Any] = []
        body = b"".join(s3_server._app(request, lambda *head: started.append(head)))
        start(*started[0])
        return [body[: len(body) // 2]]

    with s3_server.failing(half), pytest.raises(RaycolError, match=rf"{s3}/.*partition\.bin: "):
        Index.open(s3).search(QUERIES)
    assert not any(path.name == "partition.bin" for path in cached())
    assert len(Index.open(s3).search(QUERIES)[0]) == 10


def test_the_endpoint_fails_during_a_search(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, documents())

    def down(request: Request, start: Any) -> Any:
        return (
            refused(start, "503 Service Unavailable", "SlowDown") if "partition.bin" in request["PATH_INFO"] else None
        )

    opened = Index.open(s3)
    with (
        s3_server.failing(down),
        pytest.raises(RaycolError, match=rf"{s3}/.*partition\.bin: cannot be read \(.*; the endpoint .* try again"),
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
        mark_unused(folder)
    for number in (1, 2):
        Index.open(f"{s3}/{number}").search(QUERIES)
    assert sum(path.stat().st_size for path in cached()) <= 1.5 * size
    assert not all(folder.exists() for folder in folders)
    assert opened.search(QUERIES) == first  # mapped files stay readable
    assert Index.open(f"{s3}/0").search(QUERIES) == first  # evicted files are downloaded again


def test_recently_used_folders_are_kept_under_any_limit(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCOL_CACHE_BYTES", "1")
    Index.create(s3, documents()).search(QUERIES)
    assert {path.name for path in cached()} >= {"partition.bin", "centroids.npy"}


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


def test_ids_that_no_document_has_are_looked_up_in_hashes_alone(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    created = Index.create(s3, with_metadata())
    for path in cached():
        path.unlink()
    monkeypatch.setattr("raycol.index.format.partition._MANY_DOCUMENTS", 0)
    opened = Index.open(s3)
    assert "nobody" not in opened
    parts = [path for path in cached() if "partitions" in path.parts]
    hashes, table = 4 * 40, created.manifest.partitions[0].table.bytes
    assert sorted(path.stat().st_size for path in parts) == sorted([hashes, table])
    assert "d7" in opened
    assert opened.metadata(["d7"]) == created.metadata(["d7"])


def test_a_trusted_partition_is_downloaded_at_once(s3: str, s3_server: Server) -> None:
    created = Index.create(s3, with_metadata())
    for path in cached():
        path.unlink()
    del s3_server.requests[:]
    assert Index.open(s3, trust=True).search(QUERIES) == created.search(QUERIES)
    assert len([path for method, path in s3_server.requests if method == "GET" and path.endswith(".bin")]) == 1


def test_vacuum_deletes_many_partitions_in_few_requests(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, with_metadata(), partition_tokens=8)
    assert len(index.partitions) > 30
    index.compact(10**6)
    del s3_server.requests[:]
    assert len(index.vacuum(keep=1).removed) > 30
    assert len(s3_server.requests) < 40
    assert index.verify() == []


def test_a_damaged_copy_that_was_mapped_before_is_not_searched(s3: str) -> None:
    """Finding ids maps the copy of the whole file; the first search finds it damaged and downloads it again."""
    created = Index.create(s3, with_metadata())
    expected = created.exact(QUERIES)
    (path,) = [path for path in cached() if path.name == "partition.bin"]
    content = path.read_bytes()
    start = created.partitions[0].sections["residuals"].start
    path.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    opened = Index.open(s3)
    assert "d7" in opened
    assert opened.exact(QUERIES) == expected
    assert path.read_bytes() == content
