"""Builds and appends on a cluster write the same bytes even if workers, nodes or drivers are killed."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycol.errors import InputError
from raycol.index import Index
from raycol.indexing.part import BuiltPart
from raycol.storage.checked_files import unseal
from tests.conftest import make_clustered, make_passages, save_encoded
from tests.indexing.cluster import Build, Nodes, contents, nodes, records, report_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Enough tokens for the sample to be encoded on the workers.
PARTS, PER_PART, WORKERS = 40, 25, 3
TEXTS = 900


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


def write_hostile(path: Path) -> list[tuple[int, str]]:
    """Write a corpus with all kinds of unusable records; return their lines and the expected problems."""
    lines = [(json.dumps(record).encode(), "") for record in make_passages(TEXTS)]
    lines[3:3] = [
        (b'{"_id": "empty", "text": ""}', "has no text"),
        (b'{"_id": "blank", "text": " \\t\\n ", "title": "\\u2003"}', "has no text"),
        (b'{"_id": "latin", "text": "caf\xe9"}', "not UTF-8"),
        (b'{"_id": 1.5, "text": "rain"}', "the id is 1.5"),
        (b'{"_id": null, "text": "rain"}', "no '_id'"),
        (b'{"_id": ["x"], "text": "rain"}', "the id is ['x']"),
        (b'{"_id": "number", "text": 5}', "expected a string"),
        (b'{"_id": "half", "text": "\\ud800"}', "surrogate"),
        (b'{"_id": "' + b"x" * 600 + b'", "text": "rain"}', "600 bytes"),
        (b'{"_id": "long", "text": "' + b"rain wind " * 100_000 + b'"}', ""),
        (b'{"_id": "nul", "text": "rain\\u0000 wind"}', ""),
        (b'["rain"]', "not a JSON object"),
        (b'{"_id": "cut", "text": "ra', "not JSON"),
    ]
    lines.append((json.dumps(make_passages(10)[0]).encode(), "first on line 1"))
    path.write_bytes(b"\n".join(line for line, _ in lines))
    return [(number, problem) for number, (_, problem) in enumerate(lines, start=1) if problem]


@pytest.fixture(scope="module")
def texts(cluster: Nodes, tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hostile corpus of texts, and an index of its usable records built by one worker."""
    path = tmp_path_factory.mktemp("texts") / "corpus.jsonl"
    bad = write_hostile(path)
    with start_texts(cluster, path, tiny_colbert, path.parent / "index", workers=1) as build:
        build.finish()
    report = report_of(path.parent / "index")
    skipped = {problem.where: problem.what for problem in report.skipped}
    assert len(skipped) == len(report.skipped) == len(bad)
    for number, problem in bad:
        assert problem in skipped[f"{path}, line {number}"]
    assert (report.documents, report.truncated) == (TEXTS + 2, 1)
    assert report.stage_tokens_per_second["sample"] > 0
    index = Index.open(path.parent / "index")
    assert (len(index), index.verify()) == (TEXTS + 2, [])
    assert len(str(index.metadata(["long"])[0]["text"])) == 1_000_000
    return path


def start_texts(
    cluster: Nodes, corpus: Path, model: Path, out: Path, workers: int, on_error: str = "skip", verb: str = "build"
) -> Build:
    settings = ["--docs-per-partition", 4 * PER_PART, "--num-workers", workers, "--on-error", on_error]
    return Build(cluster, verb, corpus, "--model", model, "--out", out, *settings)


@pytest.fixture(scope="module")
def undisturbed(cluster: Nodes, corpora: tuple[Path, Path]) -> Path:
    """An index built by one worker on one node; afterwards, add two nodes."""
    out = corpora[0].parent / "undisturbed"
    with start(cluster, corpora[0], out, workers=1) as build:
        build.finish()
    index = Index.open(out)
    assert (len(index), index.verify()) == (PARTS * PER_PART, [])
    for _ in range(2):
        cluster.add()
    return out


def test_more_workers_and_nodes_write_the_same_bytes(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    with start(cluster, corpora[0], tmp_path / "i", workers=4) as build:
        build.finish()
    assert contents(tmp_path / "i") == contents(undisturbed)


@pytest.mark.usefixtures("undisturbed")
def test_more_workers_encode_texts_to_the_same_bytes_after_a_crash(
    cluster: Nodes, texts: Path, tiny_colbert: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    with start_texts(cluster, texts, tiny_colbert, out, workers=2) as build:
        assert build.wait_for(lambda: len(records(out)) >= 2)
        build.kill()
    cluster.settle()
    before = records(out)
    with start_texts(cluster, texts, tiny_colbert, out, workers=2, verb="job") as build:
        build.finish()
    assert report_of(out).reused_parts == len(before)
    assert contents(out) == contents(texts.parent / "index")


@pytest.mark.usefixtures("undisturbed")
def test_a_hostile_corpus_is_refused_with_its_first_bad_line(
    cluster: Nodes, texts: Path, tiny_colbert: Path, tmp_path: Path
) -> None:
    with start_texts(cluster, texts, tiny_colbert, tmp_path / "i", workers=2, on_error="fail") as build:
        code, output = build.end()
    assert code == 2
    assert f"{texts}, line 4: document 'empty' has no text" in output
    assert not (tmp_path / "i").exists()


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


def test_a_build_continues_after_being_killed_in_every_phase(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(2), tmp_path / "i"
    before: dict[str, int] = {}
    for phase in ("start", "sample", "train", "parts", "parts", "merge"):
        with start(cluster, corpora[0], out) as build:
            wait_for_phase(build, phase, rng, cluster, out, len(before))
            build.kill()
            if phase == "parts":  # in other phases, the next build may meet the workers of this one
                cluster.settle()
            if phase == "parts" and not (out / "manifests").exists():
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
        # A partition that is missing although its part is recorded is rebuilt.
        missing = BuiltPart.model_validate_json(unseal(next(out.glob("builds/*/00000001.json")).read_bytes()))
        assert missing.info
        shutil.rmtree(out / "partitions" / missing.info.name)
    if list(out.glob("builds/*")):
        with start(cluster, corpora[0], out) as build:
            build.finish()
    else:
        Index.open(out).vacuum()  # it died while it deleted the last of its records
    assert committed or report_of(out).reused_parts == len(before) - 1 == PARTS - 1
    assert contents(out) == contents(undisturbed)


def test_a_build_survives_the_loss_of_workers_a_node_and_its_driver(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(3), tmp_path / "i"
    with start(cluster, corpora[0], out) as build:
        assert build.wait_for(lambda: cluster.kill_worker(rng, "SampleEncoder"))
        for done in sorted(rng.sample(range(PARTS // 2), 6)):
            assert build.wait_for(lambda done=done: len(records(out)) > done)
            before = records(out)
            assert build.wait_for(lambda: cluster.kill_worker(rng, "PartitionBuilder"))
            assert_kept(before, out, 2)
    # The driver is killed too. While another one builds the rest, replace a node.
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


@pytest.mark.usefixtures("undisturbed")
def test_a_build_in_stages_survives_the_loss_of_a_worker_of_each(
    cluster: Nodes, texts: Path, tiny_colbert: Path, tmp_path: Path
) -> None:
    rng, out = random.Random(5), tmp_path / "i"
    settings = ["--docs-per-partition", 4 * PER_PART, "--num-workers", 1, "--cpu-workers", 1, "--on-error", "skip"]
    with Build(cluster, "build", texts, "--model", tiny_colbert, "--out", out, *settings) as build:
        for stage, done in (("prepare", 0), ("compute", 1)):
            assert build.wait_for(lambda done=done: len(records(out)) >= done), build.end()
            before = records(out)
            killed = build.wait_for(lambda stage=stage: cluster.kill_worker(rng, f"PartitionBuilder.{stage}"))
            assert killed, build.end()
            assert_kept(before, out, 2)
        build.finish()
    assert contents(out) == contents(texts.parent / "index")


def assert_kept(before: dict[str, int], out: Path, max_rebuilt: int) -> None:
    """Assert that no finished part is lost and at most `max_rebuilt` were built again."""
    now = records(out)
    assert before.keys() <= now.keys()
    assert sum(now[name] != before[name] for name in before) <= max_rebuilt


def test_an_append_continues_after_being_killed(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    rng, out, whole = random.Random(4), tmp_path / "i", tmp_path / "whole"
    shutil.copytree(undisturbed, out)
    shutil.copytree(undisturbed, whole)
    with start(cluster, corpora[1], whole, append=True) as build:
        build.finish()
    before: dict[str, int] = {}
    for phase in ("parts", "worker", "merge"):
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
    # It may have been killed between its commit and its end, while it deleted the merged partitions.
    committed = (out / "manifests/00000002.json").exists()
    if list(out.glob("builds/*")):
        with start(cluster, corpora[1], out, append=True) as build:
            build.finish()
        assert committed or report_of(out).reused_parts == len(before)
    else:
        Index.open(out).vacuum()
    assert contents(out) == contents(whole)
    index = Index.open(out)
    assert (len(index), index.verify()) == (2 * PARTS * PER_PART, [])


def test_of_two_concurrent_builds_in_one_folder_one_commits(
    cluster: Nodes, corpora: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    with start(cluster, corpora[0], out, 2) as first, start(cluster, corpora[0], out, 2) as second:
        ends = [first.end(), second.end()]
    assert 0 in [code for code, _ in ends]
    assert not any("internal error" in output or "Traceback" in output for _, output in ends), ends
    index = Index.open(out)
    index.vacuum()  # the other build's workers may have recorded a part after the cleanup
    assert (len(index), index.verify()) == (PARTS * PER_PART, [])
    assert index.stats() == Index.open(undisturbed).stats()
