"""Writes to a failing object store: no partial content is used, and one of two concurrent writers succeeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.errors import ConflictError, InputError, RaycolError
from raycol.index import Document, Index
from raycol.index.format.manifest import versions
from raycol.storage import open_store
from raycol.storage.checked_files import describe_file
from raycol.training.checkpoints import list_checkpoints, save_checkpoint
from tests.conftest import make_clustered
from tests.storage.server import Request, Server, denied, listed, put, refused

QUERIES = [np.eye(3, 16, dtype=np.float32)]


def documents(n: int = 20, name: str = "d") -> list[Document]:
    return [Document(f"{name}{number}", array) for number, array in enumerate(make_clustered(n, 16, seed=0))]


@pytest.fixture(autouse=True)
def _one_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycol.storage.object_writes._RETRIES", 1)


def is_commit(request: Request) -> bool:
    return request["REQUEST_METHOD"] == "PUT" and "/manifests/" in request["PATH_INFO"]


def once(matches: Callable[[Request], bool], respond: Callable[..., Any]) -> Callable[..., Any]:
    """Inject a fault into the first matching request."""
    done: list[Request] = []

    def fault(request: Request, start: Callable[..., Any]) -> Any:
        if done or not matches(request):
            return None
        done.append(request)
        return respond(request, start)

    return fault


def test_a_large_file_is_uploaded_in_parts(s3: str, s3_server: Server, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(20 << 20)
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / "large.bin"
    path.write_bytes(content)
    files = {path.name: describe_file(path)}
    store = open_store(s3)
    store.publish(path.parent, "data/00000000-x", files)
    assert sum(method == "PUT" for method, _ in s3_server.requests) == 3
    assert (store.folder("data/00000000-x", files) / path.name).read_bytes() == content


def test_a_failed_upload_keeps_the_old_object(s3: str, s3_server: Server, tmp_path: Path) -> None:
    store = open_store(s3)
    store.write("data/x/large.bin", b"old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "large.bin").write_bytes(bytes(20 << 20))

    def last_part(request: Request, start: Callable[..., Any]) -> Any:
        return refused(start, "403 Forbidden", "AccessDenied") if "partNumber=3" in request["QUERY_STRING"] else None

    with (
        s3_server.failing(last_part),
        pytest.raises(RaycolError, match=r"s3://corpora/.*/data/x/large.bin: cannot be"),
    ):
        store.publish(tmp_path / "new", "data/x", {})
    assert store.read("data/x/large.bin", 100) == b"old"


def test_a_commit_with_a_lost_response_succeeds(s3: str, s3_server: Server) -> None:
    """The request is carried out but its response is lost: the refused retry is not a conflict."""
    index = Index.create(s3, documents())

    def lost(request: Request, start: Callable[..., Any]) -> Any:
        s3_server.carry_out(request)
        return refused(start, "500 Internal Server Error", "InternalError")

    with s3_server.failing(once(is_commit, lost)):
        index.append(documents(2, "new"))
    assert index.version == 2
    assert versions(open_store(s3)) == [1, 2]
    assert "new1" in Index.open(s3)
    assert index.verify() == []


def test_a_commit_refused_because_of_a_failed_one_is_retried(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, documents())

    def busy(request: Request, start: Callable[..., Any]) -> Any:
        return refused(start, "409 Conflict", "ConditionalRequestConflict")

    with s3_server.failing(once(is_commit, busy)):
        index.append(documents(2, "new"))
    assert versions(open_store(s3)) == [1, 2]


def test_a_commit_with_unknown_outcome_is_reported(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, documents())
    down: list[bool] = []

    def outage(request: Request, start: Callable[..., Any]) -> Any:
        if is_commit(request):
            down.append(True)
        return denied(request, start) if down else None

    with s3_server.failing(outage), pytest.raises(RaycolError, match=r"00000002\.json.* may have been written; check"):
        index.append(documents(2, "new"))
    assert versions(open_store(s3)) == [1]
    assert len(Index.open(s3).search(QUERIES)[0]) == 10
    # Its uploads stay until a vacuum can tell that they are unused.
    Index.open(s3).append(documents(1, "other"))
    Index.open(s3).vacuum(keep=1)
    assert Index.open(s3).verify() == []


def test_a_concurrent_commit_is_a_conflict_until_the_last_moment(s3: str, s3_server: Server) -> None:
    first, second = Index.create(s3, documents()), Index.open(s3)

    def between(request: Request, start: Callable[..., Any]) -> Any:
        s3_server.fault = None
        first.append(documents(1, "first"))

    with s3_server.failing(once(is_commit, between)), pytest.raises(ConflictError, match="nothing was changed"):
        second.append(documents(1, "second"))
    assert "first0" in Index.open(s3)
    assert "second0" not in Index.open(s3)


def test_a_store_that_ignores_conditions_is_detected_before_any_write(s3: str, s3_server: Server) -> None:
    index = Index.create(s3, documents())
    before = listed(s3)

    def ignoring(request: Request, start: Callable[..., Any]) -> None:
        request.pop("HTTP_IF_NONE_MATCH", None)

    with s3_server.failing(ignoring):
        for attempt in (
            lambda: Index.create(f"{s3}-2", documents()),
            lambda: Index.open(s3).append(documents(1, "n")),
        ):
            with pytest.raises(RaycolError, match=r"If-None-Match.*two writers would lose each other's versions"):
                attempt()
        assert len(Index.open(s3)) == len(index)  # neither reading nor checkpoints need conditions
        save_checkpoint(open_store(f"{s3}-3"), 1, {}, lambda folder: (folder / "w").write_bytes(b"w") and None)
    assert listed(s3) == before
    assert listed(f"{s3}-2") == {}


def test_a_missing_bucket_or_permission_is_reported_before_the_work(s3: str, s3_server: Server) -> None:
    with pytest.raises(
        RaycolError, match=r"s3://nowhere/x/.*: cannot be written: no such bucket .*; create it, or fix"
    ):
        Index.create("s3://nowhere/x", documents())
    with pytest.raises(InputError, match=r"s3://nowhere/x: no bucket 'nowhere'; create it, or fix the name"):
        Index.open("s3://nowhere/x")
    Index.create(s3, documents())

    def read_only(request: Request, start: Callable[..., Any]) -> Any:
        return denied(request, start) if request["REQUEST_METHOD"] in ("PUT", "POST", "DELETE") else None

    with s3_server.failing(read_only):
        with pytest.raises(RaycolError, match=r"cannot be written \(.*\); no permission: check the credentials"):
            Index.create(f"{s3}-2", documents())
        index = Index.open(s3)
        with pytest.raises(RaycolError, match="no permission"):
            index.delete(["d1"])
        with pytest.raises(RaycolError, match="no permission"):
            index.append(documents(1, "new"))
        assert len(index.search(QUERIES)[0]) == 10
    with s3_server.failing(denied):
        for attempt in (lambda: Index.open(s3), lambda: Index.create(f"{s3}-2", documents())):
            with pytest.raises(RaycolError, match=rf"{s3}.*cannot be read \(.*no permission"):
                attempt()
    for word in ("an-access-key", "a-secret-key"):
        assert word not in " ".join(path for _, path in s3_server.requests)


def test_an_outage_does_not_restart_a_training(s3: str, s3_server: Server) -> None:
    store = open_store(s3)
    for step in (1, 2):
        save_checkpoint(store, step, {}, lambda folder: (folder / "w").write_bytes(bytes(9)) and None)
    assert [saved.step for saved in list_checkpoints(store)] == [1, 2]

    def newest_record(request: Request, start: Callable[..., Any]) -> Any:
        return denied(request, start) if request["PATH_INFO"].endswith("00000002.json") else None

    with s3_server.failing(newest_record), pytest.raises(RaycolError, match=r"00000002.json: cannot be read"):
        list_checkpoints(store)
    # A partial checkpoint does not count.
    newest = list_checkpoints(store)[-1]
    put(f"{s3}/{newest.folder}/w", bytes(5))
    assert [saved.step for saved in list_checkpoints(store)] == [1]
