"""The LRU cache of row groups, shared by all partitions of a process."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cachetools import LRUCache

from raycol.index import Document, Index
from raycol.index.format import partition
from raycol.index.format.partition import ROW_GROUP
from tests.conftest import make_clustered


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Three row groups: two full ones and five rows."""
    arrays = make_clustered(2 * ROW_GROUP + 5, 16, seed=1)
    documents = [Document(f"d{n}", array, {"n": n, "text": f"text {n}"}) for n, array in enumerate(arrays)]
    return Index.create(tmp_path / "index", documents)


def row_cache(max_bytes: int) -> LRUCache[tuple[object, int], pa.Table]:
    return LRUCache(max_bytes, getsizeof=lambda table: table.nbytes)


def test_the_least_recently_used_row_group_is_evicted(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = index.partitions
    first_of_group = np.array([0, ROW_GROUP, 2 * ROW_GROUP])
    everything = row_cache(1 << 20)
    monkeypatch.setattr(partition, "_ROWS", everything)
    only.rows(first_of_group)
    assert only.rows_are_cached(first_of_group).tolist() == [True, True, True]
    monkeypatch.setattr(partition, "_ROWS", row_cache(int(everything.currsize) - 1))
    for group in (0, 1, 0, 2):
        only.rows(first_of_group[[group]])
    assert only.rows_are_cached(first_of_group).tolist() == [True, False, True]


def test_rows_are_the_same_with_and_without_the_cache(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"d{n}" for n in (3, 1027, ROW_GROUP, 2, 1027, ROW_GROUP - 1)]
    expected = [{"n": int(id_[1:]), "text": f"text {id_[1:]}"} for id_ in ids]
    for cached, rows in ((True, row_cache(1 << 20)), (False, row_cache(0))):
        monkeypatch.setattr(partition, "_ROWS", rows)
        only = index.partitions[0]
        assert only.rows_are_cached(np.array([3, 600])).tolist() == [False, False]
        assert [index.metadata([id_])[0] for id_ in ids] == expected
        assert index.metadata(list(dict.fromkeys(ids))) == [expected[n] for n in (0, 1, 2, 3, 5)]
        assert only.rows_are_cached(np.array([3, 600])).tolist() == [cached, cached]


def test_an_index_recreated_at_the_same_path_does_not_share_cached_rows(tmp_path: Path) -> None:
    for text in ("before", "after"):
        folder = tmp_path / "index"
        if folder.exists():
            folder.rename(tmp_path / "old")
        index = Index.create(folder, [Document("d", make_clustered(1, 16, seed=1)[0], {"text": text})])
        assert index.metadata(["d"]) == [{"text": text}]
