"""Builds on a cluster of several nodes: the same bytes, whoever works, and whoever dies while working."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycol.index import Index
from tests.conftest import make_passages, write_jsonl
from tests.indexing.cluster import Build, Nodes, contents, nodes, records, report_of

pytestmark = pytest.mark.slow

DOCUMENTS, PER_PART = 240, 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("cluster") / "corpus.jsonl", make_passages(DOCUMENTS))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes(1) as running:
        yield running


def start(cluster: Nodes, corpus: Path, model: Path, out: Path, workers: int) -> Build:
    settings = ["--docs-per-partition", PER_PART, "--num-workers", workers]
    return Build(cluster, "build", corpus, "--model", model, "--out", out, *settings)


@pytest.fixture(scope="module")
def undisturbed(cluster: Nodes, corpus: Path, tiny_colbert: Path) -> dict[str, bytes]:
    """An index by one worker on one node, file by file. Two more nodes come afterwards."""
    out = corpus.parent / "undisturbed"
    with start(cluster, corpus, tiny_colbert, out, 1) as build:
        build.finish()
    assert Index.open(out).verify() == []
    for _ in range(2):
        cluster.add()
    return contents(out)


@pytest.mark.parametrize("workers", [2, 4])
def test_more_workers_on_more_nodes_write_the_same_bytes(
    cluster: Nodes, corpus: Path, tiny_colbert: Path, undisturbed: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    with start(cluster, corpus, tiny_colbert, tmp_path / "i", workers) as build:
        build.finish()
    assert contents(tmp_path / "i") == undisturbed


def test_a_build_outlives_its_workers_its_driver_and_a_node(
    cluster: Nodes, corpus: Path, tiny_colbert: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out, rng, workers = tmp_path / "i", random.Random(1), 3
    # Workers die over the parts, then the driver.
    with start(cluster, corpus, tiny_colbert, out, workers) as build:
        for done in sorted(rng.sample(range(DOCUMENTS // PER_PART // 3), 2)):
            assert build.wait_for(lambda done=done: len(records(out)) > done)
            before = records(out)
            assert cluster.kill_worker(rng, "PartitionBuilder")
            assert build.wait_for(lambda before=before: len(records(out)) > len(before))
            assert_kept(before, out, 1)
    # A node goes and another one comes, while the rest is encoded.
    cluster.settle()
    before = records(out)
    assert before
    with start(cluster, corpus, tiny_colbert, out, workers) as build:
        assert build.wait_for(lambda: len(records(out)) > len(before))
        at_loss = records(out)
        assert_kept(before, out, 0)
        cluster.lose()
        cluster.add()
        build.wait_for(lambda: len(records(out)) > len(at_loss))
        build.finish()
    assert report_of(out).reused_parts == len(before)
    assert contents(out) == undisturbed


def assert_kept(before: dict[str, int], out: Path, again: int) -> None:
    """Of the parts that were done, at most so many were made once more."""
    now = records(out)
    assert before.keys() <= now.keys()
    assert sum(now[name] != before[name] for name in before) <= again
