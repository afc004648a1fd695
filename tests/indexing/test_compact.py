"""Compacting an index as a job over its new partitions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raycol.errors import ConflictError, InputError, RaycolError
from raycol.index import Document, Index
from raycol.indexing import CompactConfig
from raycol.indexing import compact as compacting
from tests.conftest import make_clustered
from tests.indexing.cluster import contents
from tests.indexing.in_process import compact_index


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of five partitions, some with deletes, and one that is large enough to stay."""
    documents = [Document(f"d{n:03d}", tokens, {"n": n}) for n, tokens in enumerate(make_clustered(260, 16, seed=0))]
    index = Index.create(tmp_path / "i", documents[:40], n_centroids=8)
    for start, stop in ((40, 60), (60, 61), (61, 90), (90, 260)):
        index.append(documents[start:stop])
    index.delete([f"d{n:03d}" for n in (0, 7, 45, 60, 100)])
    return tmp_path / "i"


def state(path: Path) -> list[tuple]:
    index = Index.open(path)
    ids = sorted(hit.id for hit in index.exact([index.codebook.centroids_KD[:1]], 1000)[0])
    return [
        (id_, row["n"], index.reconstruct(id_).tobytes()) for id_, row in zip(ids, index.metadata(ids), strict=True)
    ]


@pytest.mark.parametrize("target", [pytest.param(1, marks=[pytest.mark.slow, pytest.mark.long]), 100, 700, 1_000_000])
def test_the_bytes_are_those_of_index_compact(index: Path, tmp_path: Path, target: int) -> None:
    before = state(index)
    shutil.copytree(index, tmp_path / "other")
    n_partitions = len(Index.open(index).partitions)
    report = compact_index(CompactConfig(index=str(index), target_tokens=target))
    other = Index.open(tmp_path / "other")
    other.compact(target)
    assert contents(index) == contents(tmp_path / "other")
    assert state(index) == before
    assert (report.version, report.partitions) == (other.version, len(other.partitions))
    assert (report.partitions_before, report.dropped, report.reused_parts) == (n_partitions, 5 - 1, 0)
    live = sorted(partition.info.tokens for partition in other.partitions)
    assert all(2 * tokens >= target for tokens in live[1:])
    assert Index.open(index).verify() == []
    again = compact_index(CompactConfig(index=str(index), target_tokens=target))
    assert (again.version, again.dropped) == (report.version, 0)


def test_only_the_named_partitions_are_compacted(index: Path) -> None:
    before, contents_before = Index.open(index), state(index)
    names = [info.name for info in before.manifest.partitions]
    chosen = [names[1], names[3]]
    report = compact_index(CompactConfig(index=str(index), target_tokens=1_000_000, partitions=chosen))
    after = [info.name for info in Index.open(index).manifest.partitions]
    assert (report.partitions_before, report.partitions) == (len(names), len(names) - 1)
    assert after[:-1] == [name for name in names if name not in chosen]
    assert state(index) == contents_before
    with pytest.raises(InputError, match=rf"version {report.version} has no partition '{names[1]}'; expected names"):
        compact_index(CompactConfig(index=str(index), partitions=chosen))


def test_an_interrupted_compaction_continues(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(index, tmp_path / "other")
    whole = compact_index(CompactConfig(index=str(tmp_path / "other"), target_tokens=200))
    join, joined = compacting.join_slices, []

    def fail_third(*arguments: object) -> object:
        if len(joined) == 2:
            raise OSError("the node is lost")
        joined.append(arguments)
        return join(*arguments)

    config = CompactConfig(index=str(index), target_tokens=200)
    with monkeypatch.context() as patched:
        patched.setattr(compacting, "join_slices", fail_third)
        with pytest.raises(RaycolError, match=r"partition .* the node is lost"):
            compact_index(config)
    assert Index.open(index).version == whole.version - 1
    report = compact_index(config)
    assert (report.reused_parts, report.version) == (2, whole.version)
    assert contents(index) == contents(tmp_path / "other")


def test_a_compaction_that_another_writer_overtakes_is_refused(index: Path) -> None:
    calls = []

    def delete_once(*_: object) -> None:
        if not calls:
            calls.append(Index.open(index).delete(["d001"]))

    with pytest.raises(ConflictError):
        compact_index(CompactConfig(index=str(index), target_tokens=200), report=delete_once)
    assert "d001" not in Index.open(index)
    assert compact_index(CompactConfig(index=str(index), target_tokens=200)).reused_parts == 0
    assert Index.open(index).verify() == []
