"""The record of the served version."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from raycol.errors import IndexCorruptError, RaycolError
from raycol.index import Document, Index
from raycol.serving.served_version import current_version, read_served_version, starting_version, write_served_version
from raycol.storage import Store


def test_without_a_record_an_endpoint_starts_with_the_requested_version(store: Store) -> None:
    assert starting_version(store, None) == (None, 0)
    assert starting_version(store, 2) == (2, 0)
    assert current_version(store, 2, 0) == 2


def test_an_endpoint_starts_with_the_recorded_version_by_default(store: Store) -> None:
    record = write_served_version(store, 1, newest=False)
    assert starting_version(store, None) == (1, record.at)
    assert starting_version(store, 2) == (2, record.at)
    write_served_version(store, 2, newest=True)
    assert starting_version(store, None)[0] is None


def test_a_restarted_replica_opens_a_version_recorded_since(store: Store) -> None:
    _, recorded_at = starting_version(store, None)
    for version, newest in ((1, False), (3, True)):
        write_served_version(store, version, newest=newest)
        assert current_version(store, 2, recorded_at) == version
    _, recorded_at = starting_version(store, 2)
    assert current_version(store, 2, recorded_at) == 2
    # Recording the same version again is a new record.
    write_served_version(store, 3, newest=True)
    assert current_version(store, 2, recorded_at) == 3


def test_missing_versions_and_invalid_records_are_ignored(store: Store) -> None:
    write_served_version(store, 9, newest=False)
    assert starting_version(store, None)[0] is None
    assert current_version(store, 2, 0) == 2
    for content in (b"", b'{"version": 1}', b'{"version": 0, "newest": true, "at": 1}', b"a" * 2000):
        store.write("served.json", content)
        assert current_version(store, 2, 0) == 2
        with pytest.raises(IndexCorruptError, match=r"served\.json"):
            read_served_version(store)


@pytest.mark.slow
def test_a_version_is_recorded_while_others_commit_and_vacuum(store: Store) -> None:
    """A vacuum must not delete the record's temporary file as that of a dead writer."""
    done = Event()
    commits = 0

    def others() -> None:
        nonlocal commits
        while not done.is_set():
            index = Index.open(store.uri)
            index.upsert([Document(f"d{commits % 5 + 3}", np.ones((2, 16), np.float32))])
            index.vacuum(keep=1)
            commits += 1

    with ThreadPoolExecutor(2) as threads:
        working = threads.submit(others)
        try:
            version = 0
            while not working.done() and (version < 199 or commits <= 3):
                version += 1
                write_served_version(store, version, newest=False)
                record = read_served_version(store)
                assert record
                assert record.version == version
        finally:
            done.set()
        working.result()
    assert commits > 3
    Index.open(store.uri).vacuum(keep=1)
    assert Index.open(store.uri).verify() == []


def test_a_record_deleted_by_a_vacuum_is_rewritten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, taken = os.replace, 0

    def take(source: Path, target: Path) -> None:
        nonlocal taken
        if taken < 3:
            taken += 1
            Index.open(store.uri).vacuum(keep=9, abandoned=True)
        replace(source, target)

    monkeypatch.setattr(os, "replace", take)
    write_served_version(store, 2, newest=False)
    record = read_served_version(store)
    assert record
    assert (record.version, taken) == (2, 3)


def test_an_unwritable_record_raises_raycol_error(store: Store) -> None:
    (Path(store.uri) / "served.json").mkdir()
    with pytest.raises(RaycolError, match=r"served\.json: cannot be written \(Is a directory\)"):
        write_served_version(store, 2, newest=False)
    left = {path.name for path in Path(store.uri).iterdir()}
    assert left == {"codebooks", "deletes", "manifests", "partitions", "served.json"}
