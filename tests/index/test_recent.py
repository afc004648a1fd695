import numpy as np
import pyarrow as pa
import pytest

from raycol.index import Document, Index
from raycol.index.format import partition
from raycol.index.format.partition import ROW_GROUP
from raycol.index.search.lru_cache import RecentTables
from tests.conftest import make_clustered


def table(n: int) -> pa.Table:
    return pa.table({"n": np.arange(n, dtype=np.int64)})


def test_what_was_not_asked_for_longest_goes_first() -> None:
    recent = RecentTables(3 * table(10).nbytes)
    for key in "abc":
        recent.put(key, table(10))
    recent.put("b", table(10))
    assert recent.get("a") is not None
    recent.put("d", table(10))
    assert [key in recent for key in "abcd"] == [True, False, True, True]
    recent.put("e", table(1000))
    assert "e" not in recent
    assert "a" in recent


def test_rows_are_the_same_read_or_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_clustered(2 * ROW_GROUP + 5, 16, seed=1)
    documents = [Document(f"d{n}", array, {"n": n, "text": f"text {n}"}) for n, array in enumerate(arrays)]
    index = Index.create(tmp_path / "index", documents)
    ids = [f"d{n}" for n in (3, 1027, ROW_GROUP, 2, 1027, ROW_GROUP - 1)]
    expected = [{"n": int(id_[1:]), "text": f"text {id_[1:]}"} for id_ in ids]
    for recent in (RecentTables(1 << 20), RecentTables(0)):
        monkeypatch.setattr(partition, "_ROWS", recent)
        only = index.partitions[0]
        assert only.rows_are_cached(np.array([3, 600])).tolist() == [False, False]
        assert [index.metadata([id_])[0] for id_ in ids] == expected
        assert index.metadata(list(dict.fromkeys(ids))) == [expected[n] for n in (0, 1, 2, 3, 5)]
        assert only.rows_are_cached(np.array([3, 600])).tolist() == 2 * [recent.get((only._rows_key, 0)) is not None]


def test_an_index_made_anew_at_the_same_place_has_its_own_rows(tmp_path) -> None:
    for text in ("before", "after"):
        folder = tmp_path / "index"
        if folder.exists():
            folder.rename(tmp_path / "gone")
        index = Index.create(folder, [Document("d", make_clustered(1, 16, seed=1)[0], {"text": text})])
        assert index.metadata(["d"]) == [{"text": text}]
