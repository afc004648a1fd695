from pathlib import Path

import numpy as np
import pytest

from raycol.data import Dataset, Passage
from raycol.data.beir import save_beir
from raycol.errors import InputError
from raycol.evaluation import EvaluateConfig, evaluate, score_run
from raycol.evaluation.runs import run_bm25, run_exact, run_index
from tests.conftest import make_passages


@pytest.fixture
def dataset() -> Dataset:
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(40)]
    queries = {f"q{number}": passages[number].text for number in range(8)}
    return Dataset(passages, queries, {f"q{number}": {passages[number].id: 1} for number in range(8)})


def test_metrics_are_those_of_trec_eval() -> None:
    qrels = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}, "q3": {"d": 1}}
    run = {"q1": {"a": 3.0, "x": 2.0, "b": 1.0}, "q2": {"x": 2.0, "c": 1.0}}
    ideal = 1 + 1 / np.log2(3)
    ndcg = ((1 + 1 / np.log2(4)) / ideal + 1 / np.log2(3) + 0) / 3
    found = score_run(qrels, run)
    assert found["nDCG@10"] == pytest.approx(ndcg)
    assert found["R@10"] == pytest.approx(2 / 3)
    assert found["RR@10"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_exact_run_is_maxsim_in_full_precision(dataset: Dataset, tiny_colbert: Path) -> None:
    from raycol.models import load_encoder

    encoder = load_encoder(tiny_colbert, device="cpu")
    run = run_exact(encoder, dataset)
    query = encoder.encode_query(dataset.queries["q3"], convert_to_numpy=True)
    for passage in dataset.passages[:5]:
        tokens = encoder.encode_document(passage.content, convert_to_numpy=True)
        assert run["q3"][passage.id] == pytest.approx((query @ tokens.T).max(axis=1).sum(), abs=1e-4)


def test_an_index_is_measured_with_the_model_it_remembers(
    dataset: Dataset, tiny_colbert: Path, tmp_path: Path
) -> None:
    from raycol.index import Document, Index
    from raycol.index.manifest import ModelInfo
    from raycol.models import encoder_fingerprint, load_encoder

    encoder = load_encoder(tiny_colbert, device="cpu")
    tokens = encoder.encode_document([passage.content for passage in dataset.passages], convert_to_numpy=True)
    index = Index.create(
        tmp_path / "i",
        (Document(passage.id, array) for passage, array in zip(dataset.passages, tokens, strict=True)),
        bits=8,
        model=ModelInfo(name=str(tiny_colbert), fingerprint=encoder_fingerprint(encoder)),
    )
    save_beir(tmp_path / "data", dataset)
    done = evaluate(EvaluateConfig(data=tmp_path / "data", index=tmp_path / "i", device="cpu"))
    assert done.metrics == score_run(dataset.qrels, run_index(encoder, index, dataset))
    exact = evaluate(EvaluateConfig(data=tmp_path / "data", model=str(tiny_colbert), device="cpu"))
    assert done.metrics["nDCG@10"] == pytest.approx(exact.metrics["nDCG@10"], abs=0.1)


def test_a_query_that_stands_in_the_corpus_does_not_find_itself() -> None:
    passages = [Passage("a", "", "rain and wind"), Passage("b", "", "rain and fog"), Passage("c", "", "bread")]
    run = run_bm25(Dataset(passages, {"a": "rain and wind"}, {"a": {"b": 1}}))
    assert "a" not in run["a"]
    assert max(run["a"], key=run["a"].__getitem__) == "b"


def test_there_must_be_something_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(EvaluateConfig(data=tmp_path))
