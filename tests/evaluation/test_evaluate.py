import shutil
from pathlib import Path

import numpy as np
import pytest

from raycol.data import Dataset, Passage
from raycol.data.beir import save_beir
from raycol.data.collection import Collection
from raycol.errors import InputError
from raycol.evaluation import EvaluateConfig, evaluate, score_run
from raycol.evaluation.runs import run_bm25, run_exact, run_index
from tests.conftest import make_passages, write_jsonl
from tests.indexing.in_process import build_index


@pytest.fixture
def dataset() -> Dataset:
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(40)]
    queries = {f"q{number}": passages[number].text for number in range(8)}
    return Dataset(passages, queries, {f"q{number}": {passages[number].id: 1} for number in range(8)})


def test_metrics_match_trec_eval() -> None:
    qrels = {"q1": {"a": 1, "b": 1}, "q2": {"c": 1}, "q3": {"d": 1}}
    run = {"q1": {"a": 3.0, "x": 2.0, "b": 1.0}, "q2": {"x": 2.0, "c": 1.0}}
    ideal = 1 + 1 / np.log2(3)
    ndcg = ((1 + 1 / np.log2(4)) / ideal + 1 / np.log2(3) + 0) / 3
    metrics = score_run(qrels, run)
    assert metrics["nDCG@10"] == pytest.approx(ndcg)
    assert metrics["R@10"] == pytest.approx(2 / 3)
    assert metrics["RR@10"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_exact_run_is_maxsim_in_full_precision(dataset: Dataset, tiny_colbert: Path) -> None:
    from raycol.models.encoder import load_encoder

    encoder = load_encoder(tiny_colbert, device="cpu")
    run = run_exact(encoder, dataset)
    query = encoder.encode_query(dataset.queries["q3"], convert_to_numpy=True)
    for passage in dataset.passages[:5]:
        tokens = encoder.encode_document(passage.content, convert_to_numpy=True)
        assert run["q3"][passage.id] == pytest.approx((query @ tokens.T).max(axis=1).sum(), abs=1e-4)


@pytest.mark.slow
def test_a_model_is_evaluated_at_a_smaller_embedding_size(
    dataset: Dataset, tiny_colbert: Path, tmp_path: Path
) -> None:
    from raycol.models.encoder import load_encoder
    from raycol.models.matryoshka import record_sizes

    model = tmp_path / "model"
    shutil.copytree(tiny_colbert, model)
    record_sizes(model, (4,))
    save_beir(tmp_path / "data", dataset)
    systems = [f"exact:{model},embedding_size=4", f"exact:{model}", f"bm25,depth=200 > exact:{model},embedding_size=4"]
    done = evaluate(EvaluateConfig(data=tmp_path / "data", system=systems, metrics="nDCG@10", device="cpu"))
    small, whole, reranked = (result.metrics["nDCG@10"] for result in done.results)
    encoder = load_encoder(model, device="cpu", embedding_size=4)
    assert small == reranked == pytest.approx(score_run(dataset.qrels, run_exact(encoder, dataset))["nDCG@10"])
    assert small != whole
    with pytest.raises(InputError, match="16 dimensions and was also trained for 4; pass one of these"):
        evaluate(EvaluateConfig(data=tmp_path / "data", system=f"exact:{model},embedding_size=5", device="cpu"))


@pytest.mark.slow
def test_an_index_is_evaluated_with_its_recorded_model(dataset: Dataset, tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.index import Document, Index
    from raycol.index.format.manifest import ModelInfo
    from raycol.models.encoder import encoder_fingerprint, load_encoder

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
    assert done.metrics == pytest.approx(score_run(dataset.qrels, run_index(encoder, index, dataset)))
    exact = evaluate(EvaluateConfig(data=tmp_path / "data", model=str(tiny_colbert), device="cpu"))
    assert done.metrics["nDCG@10"] == pytest.approx(exact.metrics["nDCG@10"], abs=0.1)


def test_a_query_in_the_corpus_does_not_find_itself() -> None:
    passages = [Passage("a", "", "rain and wind"), Passage("b", "", "rain and fog"), Passage("c", "", "bread")]
    run = run_bm25(Dataset(passages, {"a": "rain and wind"}, {"a": {"b": 1}}))
    assert "a" not in run["a"]
    assert max(run["a"], key=run["a"].__getitem__) == "b"


def test_a_judged_document_with_the_querys_id_counts() -> None:
    """Independently numbered queries and documents may share ids."""
    passages = [
        Passage("0", "", "rain and wind"),
        Passage("1", "", "bread and butter"),
        Passage("2", "", "bread oven"),
    ]
    queries = {"0": "wind", "1": "bread oven", "2": "bread oven"}
    dataset = Dataset(passages, queries, {"0": {"0": 1}, "1": {"2": 1}, "2": {"2": 1}})
    run = run_bm25(dataset)
    assert max(run["0"], key=run["0"].__getitem__) == "0"
    assert "1" in run["1"], "the text differs from the query's, so it is not a copy"
    assert score_run(dataset.qrels, run)["nDCG@10"] == 1


def test_evaluation_during_training_counts_it_too(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.models.encoder import load_encoder
    from raycol.training.evaluation import EvaluationSet, evaluate_on, open_collections, save_collection

    passages = [Passage(str(number), "", record["text"]) for number, record in enumerate(make_passages(20))]
    queries = {str(number): f"{passages[number].text} fog" for number in range(5)}
    save_collection(tmp_path, 0, Collection("x", (), queries, {id_: {id_: 1} for id_ in queries}), passages)
    metrics = evaluate_on(
        load_encoder(tiny_colbert, device="cpu"), open_collections(tmp_path, [EvaluationSet(name="x")])
    )
    assert metrics["R@100"] == 1


def test_omitted_documents_are_reported(tiny_colbert: Path, tmp_path: Path) -> None:
    passages = [Passage("a", "", "rain and wind"), Passage("b", "", "rain and fog"), Passage("c", "", "bread")]
    save_beir(tmp_path, Dataset(passages, {"a": "rain  and Wind"}, {"a": {"b": 1, "missing": 1}}))
    done = evaluate(EvaluateConfig(data=tmp_path, model=str(tiny_colbert), device="cpu"))
    missing, copies = done.notes
    assert missing.startswith("1 of 2 judged documents, such as 'missing'")
    assert copies.startswith("1 documents are copies of queries")


@pytest.mark.slow
def test_a_document_is_scored_by_its_best_passage(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.index import Index
    from raycol.indexing import IndexConfig
    from raycol.models.encoder import load_encoder

    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(130)]
    queries = {f"q{number}": passages[number].text for number in range(4)}
    dataset = Dataset(passages, queries, {f"q{number}": {passages[number].id: 1} for number in range(4)})
    save_beir(tmp_path / "data", dataset)
    build_index(
        IndexConfig(corpus=tmp_path / "data", model=str(tiny_colbert), out=tmp_path / "i", bits=8, split_tokens=3)
    )
    done = evaluate(EvaluateConfig(data=tmp_path / "data", index=tmp_path / "i", device="cpu"))
    assert done.notes == ()
    assert done.metrics["R@100"] > 0.5
    index = Index.open(tmp_path / "i")
    assert len(index) > 2 * len(passages)
    encoder = load_encoder(tiny_colbert, device="cpu")
    run = run_index(encoder, index, dataset)
    (hits,) = index.exact(encoder.encode_query([queries["q1"]], convert_to_numpy=True), k=len(index))
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.id.rpartition("#")[0], hit.score)
    assert len(run["q1"]) == 101, "the depth counts documents, not passages"
    for id_ in list(run["q1"])[:10]:
        assert run["q1"][id_] == pytest.approx(best[id_])


@pytest.mark.slow
def test_an_index_of_another_collection_is_refused(dataset: Dataset, tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.indexing import IndexConfig

    others = [Passage(f"other-{passage.id}", "", passage.text) for passage in dataset.passages]

    def build(name: str, passages: list[Passage]) -> None:
        corpus = write_jsonl(tmp_path / f"{name}.jsonl", [{"_id": each.id, "text": each.text} for each in passages])
        build_index(IndexConfig(corpus=corpus, model=str(tiny_colbert), out=tmp_path / f"{name}-index", bits=8))

    save_beir(tmp_path / "data", dataset)
    build("none", others)
    with pytest.raises(InputError, match=r"none of the 8 judged documents, .* is in the index"):
        evaluate(EvaluateConfig(data=tmp_path / "data", index=tmp_path / "none-index", device="cpu"))
    build("some", [*dataset.passages[:3], *others])
    done = evaluate(EvaluateConfig(data=tmp_path / "data", index=tmp_path / "some-index", device="cpu"))
    assert any(note.startswith("5 of 8 judged documents") and "the index" in note for note in done.notes)


def test_a_model_or_an_index_is_required(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(EvaluateConfig(data=tmp_path))
