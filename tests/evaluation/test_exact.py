"""Exact scores as a job over parts: the same hits however the corpus is cut, resumed, and run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.data import Dataset, Fields, Passage, corpus_files
from raycol.data.beir import save_beir
from raycol.distributed.executor import IN_PROCESS, ON_RAY, Executor, ModelWorkersConfig
from raycol.errors import InputError, RaycolError
from raycol.evaluation import EvaluateConfig, evaluate
from raycol.evaluation.exact import ExactHits, exact_hits, exact_index_hits
from raycol.evaluation.scoring import ModelScorer, score_passages
from raycol.evaluation.top_hits import Hits, TopHits
from raycol.index import Document, Index
from raycol.indexing.plan import plan_build
from raycol.storage import open_store
from tests.conftest import PROJECT, make_passages
from tests.indexing.cluster import Command, nodes

QUERIES = ["rain and fog", "a loaf of bread", "stars at night", "rain and fog"]


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_hits_do_not_depend_on_the_batches(
    n_queries: int, depth: int, scores: list[int], sizes: list[int], random: Any
) -> None:
    """Few distinct scores, so that most hits tie."""
    ids = [f"d{number}" for number in range(len(scores))]
    random.shuffle(ids)
    scores_QN = np.array([[(score + row) % 4 for score in scores] for row in range(n_queries)], np.float32)
    expected = [
        sorted(zip(ids, map(float, row), strict=True), key=lambda hit: (-hit[1], hit[0]))[:depth] for row in scores_QN
    ]
    whole, parts = TopHits(n_queries, depth), TopHits(n_queries, depth)
    start = number = 0
    while start < len(ids):
        cut = slice(start, start + sizes[number % len(sizes)])
        whole.add(ids[cut], scores_QN[:, cut])
        part = TopHits(n_queries, depth)
        part.add(ids[cut], scores_QN[:, cut])
        for row, hits in enumerate(part.result()):
            parts.merge([row] * len(hits), [id_ for id_, _ in hits], [score for _, score in hits])
        start, number = cut.stop, number + 1
    assert whole.result() == parts.result() == expected


def test_scores_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="document 'b' has a score that is not a number"):
        TopHits(1, 3).add(["a", "b"], np.array([[1.0, np.nan]], np.float32))


class InterruptedExecutor(type(IN_PROCESS)):
    """Stops after a number of parts."""

    def __init__(self, parts: int) -> None:
        self.parts, self.computed = parts, 0

    def run(self, *arguments: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        for number, result in super().run(*arguments, **named):
            if self.computed == self.parts:
                raise RaycolError("interrupted")
            self.computed += 1
            yield number, result


def score(corpus: Path, model: Path, folder: Path, executor: Executor = IN_PROCESS, **more: Any) -> ExactHits:
    from raycol.models.encoder import encoder_fingerprint, load_encoder

    plan = plan_build(corpus_files(str(corpus)), Fields(), 7)
    fingerprint = encoder_fingerprint(load_encoder(model, device="cpu"))
    config = ModelWorkersConfig(**more)
    return exact_hits(
        plan, QUERIES, str(model), fingerprint, "multi", 9, config, open_store(folder), executor=executor
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(40)]
    save_beir(folder, Dataset(passages, {}, {}))
    return folder / "corpus.jsonl"


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Hits]:
    return score(corpus, tiny_colbert, tmp_path_factory.mktemp("job")).hits


@pytest.mark.slow
def test_parts_give_the_hits_of_the_whole_corpus(corpus: Path, tiny_colbert: Path, undisturbed: list[Hits]) -> None:
    from raycol.data.corpus import read_corpus
    from raycol.models.encoder import load_encoder

    scorer = ModelScorer(load_encoder(tiny_colbert, device="cpu"), QUERIES)
    whole = score_passages(scorer, read_corpus(corpus), 9, lambda _: None)
    assert [len(hits) for hits in undisturbed] == [9] * len(QUERIES)
    assert undisturbed[0] == undisturbed[3]
    for hits, expected in zip(undisturbed, whole, strict=True):
        assert [score for _, score in hits] == pytest.approx([score for _, score in expected], abs=1e-4)
        assert {id_ for id_, _ in hits[:5]} == {id_ for id_, _ in expected[:5]}


def test_pooled_documents_score_as_in_an_index(tiny_colbert: Path) -> None:
    from raycol.index.codec.pooling import token_pooling
    from raycol.models.encoder import load_encoder

    encoder, texts = load_encoder(tiny_colbert, device="cpu"), [record["text"] for record in make_passages(8)]
    pool, queries = token_pooling(2), encoder.encode_query(QUERIES, convert_to_numpy=True)
    documents = [pool(tokens_TD) for tokens_TD in encoder.encode_document(texts, convert_to_numpy=True)]
    expected = [[(query @ tokens_TD.T).max(axis=1).sum() for tokens_TD in documents] for query in queries]
    np.testing.assert_allclose(ModelScorer(encoder, QUERIES, 2)(texts), expected, rtol=1e-5)


@pytest.mark.slow
def test_an_interrupted_job_is_resumed(
    corpus: Path, tiny_colbert: Path, undisturbed: list[Hits], tmp_path: Path
) -> None:
    with pytest.raises(RaycolError, match="interrupted"):
        score(corpus, tiny_colbert, tmp_path, InterruptedExecutor(3))
    second, damaged = sorted(tmp_path.glob("exact-*/hits-*.parquet"))[:2]
    second.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    resumed = InterruptedExecutor(100)
    assert score(corpus, tiny_colbert, tmp_path, resumed).hits == undisturbed
    assert resumed.computed == 4, "of six parts, one was intact and one was written when the job was interrupted"


def test_the_corpus_must_not_change(corpus: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    changed = tmp_path / "corpus.jsonl"
    changed.write_bytes(corpus.read_bytes())

    class Changing(type(IN_PROCESS)):
        def run(self, *arguments: Any, **named: Any) -> Iterator[tuple[int, Any]]:
            changed.write_text(changed.read_text().replace("rain", "snow"))
            yield from super().run(*arguments, **named)

    with pytest.raises(RaycolError, match="the corpus changed"):
        score(changed, tiny_colbert, tmp_path / "job", Changing())


def test_the_partitions_of_an_index_give_its_exact_hits(clustered: list[np.ndarray], tmp_path: Path) -> None:
    documents = [Document(f"d{number}", tokens) for number, tokens in enumerate(clustered)]
    index = Index.create(tmp_path / "index", documents, partition_tokens=600)
    index.delete(["d3", "d120"])
    store, queries = open_store(tmp_path / "jobs"), [clustered[3], clustered[50], clustered[120]]
    assert index.stats().partitions > 3
    with pytest.raises(RaycolError, match="interrupted"):
        exact_index_hits(index, queries, 7, ModelWorkersConfig(), store, executor=InterruptedExecutor(2))
    resumed = InterruptedExecutor(100)
    hits = exact_index_hits(index, queries, 7, ModelWorkersConfig(), store, executor=resumed).hits
    assert hits == [[(hit.id, hit.score) for hit in found] for found in index.exact(queries, 7)]
    assert resumed.computed < index.stats().partitions
    joined = np.concatenate(queries)
    regrouped = [joined[:2], joined[2:5], joined[5:]]  # the same tokens, in other queries
    hits = exact_index_hits(index, regrouped, 7, ModelWorkersConfig(), store, executor=IN_PROCESS).hits
    assert hits == [[(hit.id, hit.score) for hit in found] for found in index.exact(regrouped, 7)]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_any_number_of_workers_gives_the_same_hits(
    corpus: Path, tiny_colbert: Path, undisturbed: list[Hits], tmp_path: Path
) -> None:
    for n in (1, 2, 4):
        assert score(corpus, tiny_colbert, tmp_path / str(n), ON_RAY, num_workers=n).hits == undisturbed


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(400)]
    queries = {f"q{number}": passages[number].text for number in range(5)}
    save_beir(tmp_path / "data", Dataset(passages, queries, {id_: {passages[0].id: 1} for id_ in queries}))
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_after_a_kill_the_run_file_is_the_same(collection: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    import ray

    settings = {"data": collection, "model": tiny_colbert, "docs_per_partition": 10, "save_runs": True}
    evaluate(EvaluateConfig(**settings, out=tmp_path / "undisturbed"), executor=IN_PROCESS)
    words = [collection, "--model", tiny_colbert, "--docs-per-partition", 10, "--save-runs", "--num-workers", 2]
    command = [sys.executable, PROJECT / "jobs" / "evaluate.py", *words, "--out", tmp_path / "killed"]
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(PROJECT)}
    driver = subprocess.Popen([*map(str, command)], env=environment, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    try:
        while len(list(tmp_path.glob(".killed-unfinished/exact-*/0*.json"))) < 5:
            assert driver.poll() is None, "the driver ended"
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert not (tmp_path / "killed").exists()
    subprocess.run([*map(str, command)], env=environment, check=True, stdin=subprocess.DEVNULL)
    name = Path("runs") / "data" / f"exact%3A{tiny_colbert.name}.trec"
    runs = [next((tmp_path / out).glob("runs/*/*.trec")).read_bytes() for out in ("undisturbed", "killed")]
    assert runs[0] == runs[1], name
    assert not (tmp_path / ".killed-unfinished").exists()


EVALUATE = """
import sys
from raycol.core.memory import peak_memory
from raycol.distributed.executor import IN_PROCESS
from raycol.evaluation import EvaluateConfig, evaluate
evaluate(EvaluateConfig.model_validate_json(sys.argv[1]), executor=IN_PROCESS)
print(peak_memory())
"""


@pytest.mark.slow
@pytest.mark.long
def test_peak_memory_does_not_grow_with_the_corpus(tiny_colbert: Path, tmp_path: Path) -> None:
    peaks = []
    text = "x" * 25_000  # one unknown token
    for documents in (1000, 4000):
        passages = [Passage(f"d{number}", "", f"{number} {text}") for number in range(documents)]
        save_beir(tmp_path / str(documents), Dataset(passages, {"q": "rain"}, {"q": {"d0": 1}}))
        size = (tmp_path / str(documents) / "corpus.jsonl").stat().st_size
        config = EvaluateConfig(data=tmp_path / str(documents), model=tiny_colbert, docs_per_partition=200)
        command = [sys.executable, "-c", EVALUATE, json.dumps(config.effective())]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append((int(done.stdout.split()[-1]), size))
    (small, small_size), (large, large_size) = peaks
    assert large_size - small_size > 60 << 20
    assert large - small < (large_size - small_size) / 4


@pytest.mark.slow
@pytest.mark.long
def test_several_nodes_need_a_location_that_all_of_them_reach(collection: Path, tiny_colbert: Path) -> None:
    with nodes(2) as cluster:
        words = ["evaluate", collection, "--model", tiny_colbert, "--docs-per-partition", 100]
        with Command(cluster, *words) as command:
            code, printed = command.end()
    assert code == 2
    assert "the Ray cluster has 2 nodes" in printed
    assert "pass --out with a location" in printed
