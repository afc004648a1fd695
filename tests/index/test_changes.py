"""Append, upsert, delete, compact and vacuum against a model of an index: a dict from id to document."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import ConflictError, InputError, RaycolError
from raycol.index import Document, Index, Searcher, Writer
from raycol.index.format.manifest import commit_manifest
from raycol.index.format.partition_writer import write_partition
from raycol.index.format.snapshot import Snapshot
from tests.conftest import make_clustered
from tests.index.test_search import make_queries

DIM = 8


def make_documents(ids: list[str], seed: int) -> list[Document]:
    arrays = make_clustered(len(ids), DIM, seed)
    return [Document(id_, array, {"n": seed}) for id_, array in zip(ids, arrays, strict=True)]


def rebuilt(index: Index, documents: list[Document]) -> Index:
    """Return an index of these documents in one new partition, with the codebook of `index`."""
    snapshot = index._snapshot
    info = write_partition(snapshot.store, documents, snapshot.codebook, index.manifest.columns, 99)
    manifest = index.manifest.next([info])
    fresh = Index(index.uri)
    fresh._snapshot = Snapshot.open(snapshot.store, manifest)
    return fresh


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "upsert", "delete", "compact", "reopen", "vacuum"]),
        st.lists(st.integers(0, 25), max_size=6, unique=True),
        st.integers(1, 200),
    ),
    max_size=8,
)


@given(operations=OPERATIONS, bits=st.sampled_from([1, 2, 4, 8]))
@pytest.mark.slow
def test_any_sequence_of_changes_equals_a_fresh_index(
    tmp_path_factory: pytest.TempPathFactory, operations: list, bits: int
) -> None:
    path = tmp_path_factory.mktemp("changes") / "i"
    first = make_documents([f"d{n}" for n in range(10)], seed=0)
    index = Index.create(path, first, bits=bits, partition_tokens=60)
    expected = {document.id: document for document in first}
    for number, (operation, numbers, target) in enumerate(operations, start=1):
        documents = make_documents([f"d{n}" for n in numbers], seed=number)
        existing = [document.id for document in documents if document.id in expected]
        if operation == "append" and existing:
            with pytest.raises(InputError, match=r"' is already in the index .*; upsert to replace it"):
                index.append(documents)
        elif operation in ("append", "upsert"):
            change = getattr(index, operation)(iter(documents))
            assert (change.added, change.removed) == (len(documents), len(existing))
            expected |= {document.id: document for document in documents}
        elif operation == "delete":
            assert index.delete(f"d{n}" for n in numbers).removed == len(existing)
            for id_ in existing:
                del expected[id_]
        elif operation == "compact":
            index.compact(target)
            assert index.stats().deleted_documents == 0
        elif operation == "vacuum":
            index.vacuum(keep=1)
            assert index.verify() == []
        else:
            index = Index.open(path)

    queries = make_queries([document.embeddings for document in first], 3)
    found = index.exact(queries, k=100)
    assert [len(hits) for hits in found] == [len(expected)] * 3
    assert [len(hits) for hits in index.search(queries, k=100, n_probe=1)] == [len(expected)] * 3
    if expected:
        fresh = rebuilt(index, list(expected.values())).exact(queries, k=100)
        for hits, others in zip(found, fresh, strict=True):
            assert {hit.id for hit in hits} == {hit.id for hit in others} == set(expected)
            scores = {hit.id: hit.score for hit in others}
            assert all(abs(hit.score - scores[hit.id]) < 1e-5 for hit in hits)
    for id_, document in expected.items():
        assert len(index.reconstruct(id_)) == len(document.embeddings)
        assert index.metadata([id_]) == [document.metadata]
    stats = index.stats()
    assert stats.documents == len(index) == len(expected)
    assert stats.tokens == sum(len(document.embeddings) for document in expected.values())


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.create(tmp_path / "i", make_documents([f"d{n}" for n in range(30)], 0), partition_tokens=150)


def test_an_upsert_or_delete_leaves_no_old_vectors(index: Index) -> None:
    (new,) = make_documents(["d3"], seed=5)
    index.upsert([new])
    assert np.abs(index.reconstruct("d3") - new.embeddings).max() < 0.3
    hits = index.exact([new.embeddings], k=100)[0]
    assert [hit.id for hit in hits].count("d3") == 1
    assert hits[0].id == "d3"
    index.delete(["d3"])
    assert "d3" not in index
    for k in (1, 29, 30, 1000):
        for found in (index.exact([new.embeddings], k=k), index.search([new.embeddings], k=k)):
            assert "d3" not in {hit.id for hit in found[0]}
            assert len(found[0]) == min(k, 29)
    with pytest.raises(InputError, match="'d3' is not in the index"):
        index.reconstruct("d3")


def test_an_index_can_be_emptied_and_refilled(index: Index) -> None:
    index.delete([f"d{n}" for n in range(30)])
    assert len(index) == 0
    query = np.eye(3, DIM, dtype=np.float32)
    assert index.search([query]) == index.exact([query]) == [[]]
    assert index.compact() == index.version == 2
    index.vacuum(keep=1)
    assert index.verify() == []
    reopened = Index.open(index.uri)
    assert reopened.stats().documents == 0
    reopened.append(make_documents(["back"], 1))
    assert [hit.id for hit in reopened.search([query])[0]] == ["back"]


def test_empty_changes_commit_no_version(index: Index) -> None:
    assert index.append([]).version == index.upsert(iter(())).version == 1
    assert index.delete([]).version == index.delete(["nobody"]).version == 1
    assert index.compact(1) == 1
    with pytest.raises(InputError, match=r"'nobody' is not in the index \(1 of 2 ids are not\)"):
        index.delete(["d1", "nobody"], on_unknown="refuse")
    with pytest.raises(InputError, match="expected a list of ids"):
        index.delete("d1")
    assert len(index) == 30
    assert Index.open(index.uri).stats().versions == (1,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Document("bad", np.full((2, DIM), np.inf, np.float32)), "'bad': embeddings hold NaN or infinite"),
        (Document("bad", np.ones((2, 16), np.float32)), "'bad': embeddings of 16 dimensions; the index has 8"),
        (Document("bad", np.ones((0, DIM), np.float32)), "'bad': embeddings of shape"),
        (Document("x" * 513, np.ones((1, DIM), np.float32)), "513 bytes; expected at most 512"),
        (Document("new", np.ones((1, DIM), np.float32)), "'new' occurs twice"),
        (Document("bad", np.ones((1, DIM), np.float32), {"m": 1}), "'m' is not a column of this index"),
        (Document("bad", np.ones((1, DIM), np.float32), {"n": "x"}), "'n' is a string; the column holds int64"),
        (Document("bad", np.full((1, DIM), 1e30, np.float32)), "a token embedding of norm 2.83e.30"),
        ("text", "'text' is a str; expected a Document"),
    ],
)
def test_an_invalid_document_changes_nothing(index: Index, bad: Document, message: str) -> None:
    before = {path: path.read_bytes() for path in Path(index.uri).rglob("*") if path.is_file()}
    documents = [*make_documents(["new"], 1), bad]
    for operation in (index.append, index.upsert):
        with pytest.raises(InputError, match=message):
            operation(documents)
        assert {path: path.read_bytes() for path in Path(index.uri).rglob("*") if path.is_file()} == before


def test_a_change_to_an_old_version_is_a_conflict(index: Index) -> None:
    other = Index.open(index.uri)
    index.append(make_documents(["new"], 1))
    for attempt in (
        lambda: other.append(make_documents(["other"], 2)),
        lambda: other.delete(["d1"]),
        lambda: other.compact(10_000),
        lambda: commit_manifest(other._snapshot.store, other.manifest.next(other.manifest.partitions)),
    ):
        with pytest.raises(ConflictError, match="version 2 was written by another process meanwhile"):
            attempt()
    assert len(other) == 30
    assert len(Index.open(index.uri)) == 31


def test_a_partly_opened_index_is_read_only(index: Index) -> None:
    part = Index.open(index.uri, partitions=[index.manifest.partitions[0].name])
    with pytest.raises(InputError, match="only some partitions are open"):
        part.delete(["d0"])


def test_compaction_merges_small_partitions_without_re_encoding(index: Index) -> None:
    for number in range(6):
        index.append(make_documents([f"new{number}"], number))
    index.delete(["d0", "new2"])
    before = {id_: index.reconstruct(id_) for id_ in ["d1", "d29", "new5"]}
    partitions = len(index.partitions)
    index.compact(10_000)
    assert len(index.partitions) == 1 < partitions
    assert all(np.array_equal(index.reconstruct(id_), tokens) for id_, tokens in before.items())
    assert index.compact(10_000) == index.version
    index.compact(10)
    assert len(index.partitions) == 1, "large partitions are not split"


def test_vacuum_keeps_the_newest_versions(index: Index) -> None:
    index.delete(["d1"])
    index.delete(["d2"])
    index.compact(10_000)
    reader = Index.open(index.uri, version=3)
    done = index.vacuum(keep=2)
    assert done.versions == (1, 2)
    assert {hit.id for hit in reader.search([np.eye(1, DIM, dtype=np.float32)], k=99)[0]} == {
        f"d{n}" for n in range(30) if n not in (1, 2)
    }
    assert Index.open(index.uri, version=3).stats().versions == (3, 4)
    with pytest.raises(InputError, match="no version 2; expected one of 3, 4"):
        Index.open(index.uri, version=2)
    assert index.verify() == []
    assert index.vacuum(keep=2).removed == ()


def test_vacuum_keeps_files_of_running_writers(index: Index) -> None:
    """Vacuum keeps an uncommitted partition until a later version makes its commit impossible."""
    snapshot = index._snapshot
    info = write_partition(snapshot.store, make_documents(["new"], 1), snapshot.codebook, index.manifest.columns, 1)
    assert index.vacuum(keep=1).removed == ()
    assert index.verify()[0].startswith(f"{index.uri}/partitions/{info.name}/partition.bin: in no manifest")
    index.delete(["d1"])
    assert index.vacuum(keep=2).removed == (f"partitions/{info.name}",)
    info = write_partition(snapshot.store, make_documents(["new"], 1), snapshot.codebook, index.manifest.columns, 2)
    assert index.vacuum(keep=2, abandoned=True).removed == (f"partitions/{info.name}",)
    assert index.verify() == []


def test_drift_grows_if_the_codebook_no_longer_fits(tmp_path: Path) -> None:
    old, new = make_clustered(400, 32, seed=0), make_clustered(100, 32, seed=99)
    index = Index.create(tmp_path / "i", (Document(f"o{n}", array) for n, array in enumerate(old)))
    assert 0.7 < index.stats().drift < 1.3
    index.append(Document(f"n{n}", array) for n, array in enumerate(new))
    assert index.stats().drift > 1.2


def test_pooling_applies_to_appended_documents_too(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", array) for n, array in enumerate(make_clustered(40, 16, seed=0))]
    index = Index.create(tmp_path / "i", documents[:20], pool_factor=2)
    index.append(documents[20:])
    for document in documents:
        assert len(index.reconstruct(document.id)) == 1 + max((len(document.embeddings) - 1) // 2, 1) or (
            len(document.embeddings) == 1
        )
    with pytest.raises(InputError, match=r"pool_factor is 0\.5"):
        Index.create(tmp_path / "j", documents, pool_factor=0.5)


def test_a_failure_after_the_commit_deletes_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link commits the manifest: a later failure must not delete the folders that it names."""
    link = os.link

    def link_and_break(source: str, target: str) -> None:
        link(source, target)
        monkeypatch.setattr(os, "fsync", broken)

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "link", link_and_break)
    with pytest.raises(RaycolError):
        index.append(make_documents(["new"], 1))
    monkeypatch.undo()
    assert "new" in Index.open(index.uri)
    assert index.verify() == []


def test_a_searcher_keeps_its_version_while_a_writer_commits(tmp_path: Path) -> None:
    Index.create(tmp_path / "index", make_documents(["a", "b"], 0))
    searcher, writer, late = Searcher.open(tmp_path / "index"), *(Writer.open(tmp_path / "index") for _ in range(2))
    queries = [np.eye(2, DIM, dtype=np.float32)]
    before = searcher.search(queries)
    writer.append(make_documents(["c"], 1))
    writer.delete(["a"])
    assert (searcher.version, writer.version, late.version) == (1, 3, 1)
    assert searcher.search(queries) == before
    assert {hit.id for hit in Searcher.open(tmp_path / "index").search(queries)[0]} == {"b", "c"}
    with pytest.raises(ConflictError, match="version 3 was written by another process meanwhile"):
        late.delete(["b"])
    assert not hasattr(searcher, "append")
    assert not hasattr(writer, "search")
