"""Opening an index by its path, metadata of hits, and calls in the style of other libraries."""

from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.index import Document, Hit, Index, Searcher, Writer
from tests.conftest import make_clustered

ARRAYS = make_clustered(30, 16, seed=5)
QUERIES = [ARRAYS[n] for n in (1, 4, 9)]


def documents(*numbers: int, version: str = "first") -> list[Document]:
    metadata = [{"n": n, "title": f"title {n}", "text": f"{version} {n}"} for n in numbers]
    return [Document(f"d{n}", ARRAYS[n], row) for n, row in zip(numbers, metadata, strict=True)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Four partitions; d3 and d4 are deleted, and d9 is replaced."""
    index = Index.create(tmp_path / "index", documents(*range(20)), partition_tokens=1 + sum(map(len, ARRAYS[:8])))
    index.append(documents(*range(20, 30)))
    index.delete(["d3", "d4"])
    index.upsert(documents(9, version="second"))
    assert len(index.partitions) >= 4
    return index


def test_hits_carry_the_metadata_of_their_documents(index: Index) -> None:
    live = [f"d{n}" for n in range(30) if n not in (3, 4)]
    some = [["d1", "d9", "d28"], [], ["d9"]]
    for results, plain in (
        (index.search(QUERIES, with_metadata=True), index.search(QUERIES)),
        (index.search(QUERIES, 1000, with_metadata=True), index.search(QUERIES, 1000)),
        (index.search(QUERIES, filter="n >= 25", with_metadata=True), index.search(QUERIES, filter="n >= 25")),
        (index.search(QUERIES, ids=[], with_metadata=True), [[], [], []]),
        (index.exact(QUERIES, 1000, with_metadata=True), index.exact(QUERIES, 1000)),
        (index.exact(QUERIES, ids=["d9", "d8"], with_metadata=True), index.exact(QUERIES, ids=["d9", "d8"])),
        (index.rerank(QUERIES, some, with_metadata=True), index.rerank(QUERIES, some)),
        (index.search([], with_metadata=True), []),
    ):
        assert results == plain
        for hits, plain_hits in zip(results, plain, strict=True):
            assert [hit.metadata for hit in hits] == index.metadata([hit.id for hit in hits])
            assert {hit.metadata for hit in plain_hits} <= {None}
    (first, *_) = index.exact(QUERIES, 1000, with_metadata=True)
    assert sorted(hit.id for hit in first) == sorted(live)
    texts = {hit.id: (hit.title, hit.text) for hit in first}
    assert texts["d9"] == ("title 9", "second 9")
    assert texts["d28"] == ("title 28", "first 28")


def test_each_hit_has_metadata_of_its_own(index: Index) -> None:
    one, other = index.search([ARRAYS[1], ARRAYS[1]], 1, with_metadata=True)
    assert one[0].metadata is not None
    one[0].metadata["n"] = -1
    assert other[0].metadata == index.metadata(["d1"])[0]


def test_every_partition_is_read_once_for_all_queries(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    for partition in index.partitions:
        rows = partition.rows
        monkeypatch.setattr(partition, "rows", lambda at, rows=rows: (read.append(len(at)), rows(at))[1])
    index.search([ARRAYS[1]] * 3, 1000, with_metadata=True)
    assert len(read) == len(index.partitions)
    assert sum(read) == len(index)
    read.clear()
    index.search(QUERIES, 1000)
    assert read == []


def test_hits_of_an_index_without_columns(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", [Document("a", ARRAYS[0])])
    ((hit,),) = index.search(QUERIES[:1], with_metadata=True)
    assert (hit.metadata, hit.title, hit.text) == ({}, None, None)
    ((hit,),) = index.search(QUERIES[:1])
    assert (hit.metadata, hit.title, hit.text) == (None, None, None)


def test_hits_are_compared_and_printed_by_id_and_score() -> None:
    hit = Hit("a", 1.0, {"text": "long"})
    assert hit == Hit("a", 1.0)
    assert hash(hit) == hash(Hit("a", 1.0))
    assert repr(hit) == repr(Hit("a", 1.0)) == "Hit(id='a', score=1.0)"
    assert hit != Hit("a", 2.0, {"text": "long"})


@pytest.mark.parametrize("kind", [Index, Searcher])
def test_the_constructor_opens_an_index(index: Index, kind: type[Searcher]) -> None:
    for path in (index.uri, Path(index.uri)):
        assert kind(path).search(QUERIES) == kind.open(path).search(QUERIES) == index.search(QUERIES)
    assert kind(index.uri, 1).version == 1
    assert len(kind(index.uri, 1)) == 20
    assert len(kind(index.uri, partitions=[index.partitions[0].info.name]).partitions) == 1
    with pytest.raises(InputError, match="no such folder"):
        kind(f"{index.uri}-missing")


def test_the_constructor_opens_a_writer(index: Index) -> None:
    writer = Writer(index.uri)
    writer.delete(["d0"])
    assert writer.version == index.version + 1


def test_texts_are_no_queries(index: Index) -> None:
    for search in (index.search, index.exact):
        with pytest.raises(InputError, match=r"queries is 'rain'; .* token embeddings. Encode .*raycol\.Retriever"):
            search("rain")
        for queries in (["rain"], ("rain",)):
            with pytest.raises(InputError, match=r"query 0 is the text 'rain'; .*Encode .*raycol\.Retriever"):
                search(queries)
    with pytest.raises(InputError, match="query 1 is the text 'rain'"):
        index.rerank([QUERIES[0], "rain"], [["d1"], ["d1"]])
    with pytest.raises(InputError, match="query 0 is the text 'rain'"):
        index.explain("rain", "d1")
    with pytest.raises(InputError, match=r"query 0: embeddings of shape \(16,\)"):
        index.search(QUERIES[0])


def test_an_unknown_argument_is_refused_by_name(index: Index) -> None:
    for search in (index.search, index.exact):
        with pytest.raises(InputError, match="no argument 'top_k'; the nearest is 'k'"):
            search(QUERIES, top_k=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no argument 'nprobe'; the nearest is 'n_probe'"):
        index.search(QUERIES, nprobe=np.int64(3))  # type: ignore[arg-type]
