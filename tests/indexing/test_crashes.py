"""Builds and appends on a cluster: the same bytes, whoever works, and whoever is killed at seeded points."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.index import Index
from raycol.indexing.part import Built
from tests.conftest import make_clustered, save_encoded
from tests.indexing.cluster import Build, Nodes, contents, nodes, records, report_of

pytestmark = pytest.mark.slow

# Enough tokens for the sample to be encoded on the workers.
PARTS, PER_PART, WORKERS = 40, 25, 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes(1) as running:
        yield running


def save(path: Path, seed: int) -> Path:
    documents = make_clustered(PARTS * PER_PART, 16, seed)
    return save_encoded(path, documents, [f"{path.stem}-{number}" for number in range(len(documents))])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two encoded corpora: one to build an index of, one to append."""
    folder = tmp_path_factory.mktemp("crashes")
    return save(folder / "a.npz", 0), save(folder / "b.npz", 1)


def start(cluster: Nodes, corpus: Path, out: Path, workers: int = WORKERS, append: bool = False) -> Build:
    what = ["append", out, corpus] if append else ["build", corpus, "--out", out]
    return Build(cluster, *what, "--docs-per-partition", PER_PART, "--num-workers", workers)


@pytest.fixture(scope="module")
def undisturbed(cluster: Nodes, corpora: tuple[Path, Path]) -> Path:
    """An index by one worker on one node. Two more nodes come afterwards."""
    out = corpora[0].parent / "undisturbed"
    with start(cluster, corpora[0], out, workers=1) as build:
        build.finish()
    index = Index.open(out)
    assert (len(index), index.verify()) == (PARTS * PER_PART, [])
    for _ in range(2):
        cluster.add()
    return out


@pytest.mark.parametrize("workers", [2, 4])
def test_more_workers_on_more_nodes_write_the_same_bytes(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    with start(cluster, corpora[0], tmp_path / "i", workers) as build:
        build.finish()
    assert contents(tmp_path / "i") == contents(undisturbed)


def wait_for_phase(build: Build, phase: str, rng: random.Random, cluster: Nodes, out: Path, before: int) -> None:
    """Wait for a random moment of a phase."""
    moments = {"start": 150, "sample": 60, "train": 5, "parts": 3, "merge": 150}[phase]
    if phase in ("sample", "train"):
        build.wait_for(lambda: cluster.workers("SampleEncoder"))
    if phase == "train":
        build.wait_for(lambda: (out / "codebooks").exists() or list(out.glob("*-unfinished-*")))
    if phase in ("parts", "merge"):
        done = PARTS if phase == "merge" else min(PARTS - 1, before + rng.randrange(1, 8))
        build.wait_for(lambda: len(records(out)) >= done)
    moment = iter(range(rng.randrange(moments)))
    build.wait_for(lambda: next(moment, None) is None)


def test_a_build_that_is_killed_in_every_phase_goes_on(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(2), tmp_path / "i"
    before: dict[str, int] = {}
    for phase in ("start", "sample", "sample", "train", "train", "parts", "parts", "parts", "merge", "merge"):
        with start(cluster, corpora[0], out) as build:
            wait_for_phase(build, phase, rng, cluster, out, len(before))
            build.kill()
            if phase == "parts":  # sometimes the next attempt meets the workers of this one
                cluster.settle()
                done = records(out)
                assert before.items() <= done.items()
                assert len(list(out.glob("partitions/*"))) <= len(done) + WORKERS
        before = records(out)
        if not (out / "manifests").exists():
            with pytest.raises(InputError, match=r"unfinished build|no such folder|not an index"):
                Index.open(out)
    cluster.settle()
    committed, before = (out / "manifests").exists(), records(out)
    if not committed:
        # What the journal names may be gone: then it is made again.
        gone = Built.model_validate_json(next(out.glob("builds/*/*-00000001.json")).read_bytes())
        assert gone.info
        shutil.rmtree(out / "partitions" / gone.info.name)
    if list(out.glob("builds/*")):
        with start(cluster, corpora[0], out) as build:
            build.finish()
    assert committed or report_of(out).reused_parts == len(before) - 1 == PARTS - 1
    assert contents(out) == contents(undisturbed)


def test_a_build_outlives_workers_a_node_and_its_driver(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(3), tmp_path / "i"
    with start(cluster, corpora[0], out) as build:
        assert build.wait_for(lambda: cluster.kill_worker(rng, "SampleEncoder"))
        for done in sorted(rng.sample(range(PARTS // 2), 4)):
            assert build.wait_for(lambda done=done: len(records(out)) > done)
            before = records(out)
            assert build.wait_for(lambda: cluster.kill_worker(rng, "PartitionBuilder"))
            assert_kept(before, out, 2)
    # So the driver is gone too. A node goes and another one comes, while the rest is built.
    cluster.settle()
    before = records(out)
    with start(cluster, corpora[0], out) as build:
        assert build.wait_for(lambda: len(records(out)) > len(before))
        assert_kept(before, out, 0)
        cluster.lose()
        cluster.add()
        build.finish()
    assert report_of(out).reused_parts == len(before)
    assert contents(out) == contents(undisturbed)


def assert_kept(before: dict[str, int], out: Path, again: int) -> None:
    """Of the parts that were done, at most so many were made once more."""
    now = records(out)
    assert before.keys() <= now.keys()
    assert sum(now[name] != before[name] for name in before) <= again


def test_an_append_that_is_killed_goes_on(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out, whole = random.Random(4), tmp_path / "i", tmp_path / "whole"
    shutil.copytree(undisturbed, out)
    shutil.copytree(undisturbed, whole)
    with start(cluster, corpora[1], whole, append=True) as build:
        build.finish()
    before: dict[str, int] = {}
    for phase in ("start", "parts", "worker", "parts", "merge"):
        with start(cluster, corpora[1], out, append=True) as build:
            if phase == "worker":
                build.wait_for(lambda: cluster.kill_worker(rng, "PartitionBuilder"))
            wait_for_phase(build, "parts" if phase == "worker" else phase, rng, cluster, out, len(before))
            build.kill()
        cluster.settle()
        done = records(out)
        if not (out / "manifests/00000002.json").exists():
            assert before.items() <= done.items()
            assert len(Index.open(out)) == PARTS * PER_PART
        before = done
    if not (out / "manifests/00000002.json").exists():
        with start(cluster, corpora[1], out, append=True) as build:
            build.finish()
        assert report_of(out).reused_parts == len(before)
        assert contents(out) == contents(whole)
    index = Index.open(out)
    assert (len(index), index.verify()) == (2 * PARTS * PER_PART, [])


def test_of_two_builds_in_one_place_one_gets_through(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    with start(cluster, corpora[0], out, 2) as first, start(cluster, corpora[0], out, 2) as second:
        ends = [first.end(), second.end()]
    assert 0 in [code for code, _ in ends]
    assert not any("internal error" in said or "Traceback" in said for _, said in ends), ends
    index = Index.open(out)
    assert (len(index), index.verify()) == (PARTS * PER_PART, [])
    assert index.stats() == Index.open(undisturbed).stats()
