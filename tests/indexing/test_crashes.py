"""Builds and appends that are killed again and again, at seeded points of all their phases, and go on."""

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
PARTS, PER_PART, WORKERS = 60, 25, 3
SETTINGS = ["--docs-per-partition", PER_PART, "--num-workers", WORKERS]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes(2) as running:
        yield running


def save(path: Path, seed: int) -> Path:
    documents = make_clustered(PARTS * PER_PART, 16, seed)
    return save_encoded(path, documents, [f"{path.stem}-{number}" for number in range(len(documents))])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two encoded corpora: one to build an index of, one to append."""
    folder = tmp_path_factory.mktemp("crashes")
    return save(folder / "a.npz", 0), save(folder / "b.npz", 1)


@pytest.fixture(scope="module")
def undisturbed(cluster: Nodes, corpora: tuple[Path, Path]) -> Path:
    out = corpora[0].parent / "undisturbed"
    with Build(cluster, "build", corpora[0], "--out", out, *SETTINGS) as build:
        build.finish()
    return out


def wait_for_phase(build: Build, phase: str, rng: random.Random, cluster: Nodes, out: Path, before: int) -> None:
    """Wait for a random moment of a phase."""
    moments = {"start": 150, "sample": 60, "train": 5, "parts": 3, "merge": 150}[phase]
    if phase in ("sample", "train"):
        build.wait_for(lambda: cluster.workers("SampleEncoder"))
    if phase == "train":
        build.wait_for(lambda: (out / "codebooks").exists() or list(out.glob("*-unfinished-*")))
    if phase in ("parts", "merge"):
        done = PARTS if phase == "merge" else min(PARTS - 1, before + rng.randrange(1, 12))
        build.wait_for(lambda: len(records(out)) >= done)
    moment = iter(range(rng.randrange(moments)))
    build.wait_for(lambda: next(moment, None) is None)


def test_a_build_that_is_killed_in_every_phase_goes_on(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(2), tmp_path / "i"
    phases = ["start", "sample", "sample", "train", "train", "start"]
    phases += ["parts", "parts", "parts", "parts", "merge", "merge"]
    before: dict[str, int] = {}
    for phase in phases:
        with Build(cluster, "build", corpora[0], "--out", out, *SETTINGS) as build:
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
    before = records(out)
    if not (out / "build-report.json").exists():
        # What the journal names may be gone: then it is made again.
        gone = Built.model_validate_json(next(out.glob("builds/*/*-00000001.json")).read_bytes())
        assert gone.info
        shutil.rmtree(out / "partitions" / gone.info.name)
        with Build(cluster, "build", corpora[0], "--out", out, *SETTINGS) as build:
            build.finish()
        assert report_of(out).reused_parts == len(before) - 1 == PARTS - 1
    assert contents(out) == contents(undisturbed)


def test_a_build_that_loses_workers_again_and_again_finishes(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(3), tmp_path / "i"
    with Build(cluster, "build", corpora[0], "--out", out, *SETTINGS) as build:
        assert build.wait_for(lambda: cluster.kill_worker(rng, "SampleEncoder"))
        for done in sorted(rng.sample(range(PARTS - 15), 4)):
            assert build.wait_for(lambda done=done: len(records(out)) > done)
            before = records(out)
            assert build.wait_for(lambda: cluster.kill_worker(rng, "PartitionBuilder"))
            now = records(out)
            assert sum(now[name] != before[name] for name in before) <= 2
        build.finish()
    assert contents(out) == contents(undisturbed)


def test_an_append_that_is_killed_goes_on(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(4), tmp_path / "i"
    shutil.copytree(undisturbed, out)
    shutil.copytree(undisturbed, tmp_path / "whole")
    with Build(cluster, "append", tmp_path / "whole", corpora[1], *SETTINGS) as build:
        build.finish()
    before: dict[str, int] = {}
    for phase in ("start", "parts", "worker", "parts", "merge"):
        with Build(cluster, "append", out, corpora[1], *SETTINGS) as build:
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
        with Build(cluster, "append", out, corpora[1], *SETTINGS) as build:
            build.finish()
        assert report_of(out).reused_parts == len(before)
        assert contents(out) == contents(tmp_path / "whole")
    index = Index.open(out)
    assert len(index) == 2 * PARTS * PER_PART
    assert index.verify() == []


def test_of_two_builds_in_one_place_one_gets_through(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    settings = ["--docs-per-partition", PER_PART, "--num-workers", 2]
    with (
        Build(cluster, "build", corpora[0], "--out", out, *settings) as first,
        Build(cluster, "build", corpora[0], "--out", out, *settings) as second,
    ):
        ends = [first.end(), second.end()]
    assert 0 in [code for code, _ in ends]
    assert not any("internal error" in said or "Traceback" in said for _, said in ends), ends
    index = Index.open(out)
    assert (len(index), index.verify()) == (PARTS * PER_PART, [])
    assert index.stats() == Index.open(undisturbed).stats()
