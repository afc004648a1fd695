"""Systems as models of MTEB, on a task made here."""

from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb", reason="the extra mteb is not installed")

from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import SearchProtocol  # noqa: E402

from raycol.errors import InputError  # noqa: E402
from raycol.evaluation.mteb import RetrievalModel  # noqa: E402
from raycol.indexing import IndexConfig  # noqa: E402
from raycol.models.encoder import load_encoder  # noqa: E402
from tests.conftest import make_passages  # noqa: E402
from tests.indexing.in_process import build_index  # noqa: E402

PASSAGES = make_passages(30)
QUERIES = {f"q{number}": PASSAGES[number]["text"] for number in range(6)}
METADATA = {
    "description": "x", "dataset": {"path": "x/x", "revision": "1"}, "type": "Retrieval", "category": "t2t",
    "modalities": ["text"], "eval_splits": ["test"], "eval_langs": ["eng-Latn"], "main_score": "ndcg_at_10",
    "reference": None, "date": None, "domains": None, "task_subtypes": None, "license": None,
    "annotations_creators": None, "dialect": None, "sample_creation": None, "bibtex_citation": None,
}  # fmt: skip


class Task(AbsTaskRetrieval):
    """Find the passage that a query is copied from, or one of the next two; a document has the id and text of q0."""

    metadata = TaskMetadata(name="Copies", **METADATA)
    candidates: dict[str, list[str]] | None = None
    instruction: str | None = None

    def load_data(self, **_: Any) -> None:
        corpus = [{"id": each["_id"], "title": each["title"], "text": each["text"]} for each in PASSAGES]
        corpus += [{"id": "q0", "title": "", "text": QUERIES["q0"]}]
        queries = [{"id": id_, "text": text} for id_, text in QUERIES.items()]
        if self.instruction:
            queries = [{**query, "instruction": self.instruction} for query in queries]
        qrels = {id_: {PASSAGES[n + i]["_id"]: 1 for i in range(3)} for n, id_ in enumerate(QUERIES)}
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": qrels,
                    "top_ranked": self.candidates,
                }
            }
        }
        self.data_loaded = True


def scores(model: Any, task: AbsTaskRetrieval) -> dict[str, float]:
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    (found,) = result.task_results[0].scores["test"]
    return {name: value for name, value in found.items() if isinstance(value, float)}


@pytest.mark.parametrize("instruction", [None, "Find the copy."])
@pytest.mark.parametrize("candidates", [None, {id_: [each["_id"] for each in PASSAGES[:9]] for id_ in QUERIES}])
def test_a_model_scores_as_by_mteb(
    tiny_colbert: Path, candidates: dict[str, list[str]] | None, instruction: str | None
) -> None:
    """Searching and reranking; mteb's wrapper of the same model is the reference."""
    task = Task()
    task.candidates, task.instruction = candidates, instruction
    model = RetrievalModel(f"exact:{tiny_colbert}", device="cpu")
    assert isinstance(model, SearchProtocol)
    ours = scores(model, task)
    assert ours == pytest.approx(scores(load_encoder(str(tiny_colbert), device="cpu"), task), nan_ok=True)
    assert 0 < ours["ndcg_at_10"] < 1


def test_an_index_is_a_model(tiny_colbert: Path, tmp_path: Path) -> None:
    task = Task()
    task.load_data()
    corpus = task.dataset["default"]["test"]["corpus"]
    corpus.to_parquet(tmp_path / "corpus.parquet")
    config = IndexConfig(corpus=tmp_path / "corpus.parquet", model=tiny_colbert, out=tmp_path / "Copies", bits=8)
    build_index(config)
    model = RetrievalModel(f"index:{tmp_path}/{{collection}},effort=thorough", device="cpu")
    exact = RetrievalModel(f"exact:{tiny_colbert}", device="cpu")
    assert scores(model, task)["ndcg_at_10"] == pytest.approx(scores(exact, task)["ndcg_at_10"], abs=0.05)
    task.dataset["default"]["test"]["corpus"] = corpus.map(lambda row: {"id": f"other {row['id']}"})
    with pytest.raises(InputError, match=r"none of the 31 .* is in the index"):
        scores(model, task)


def test_results_are_reused_for_the_same_model_only(tiny_colbert: Path, tmp_path: Path) -> None:
    metas = [RetrievalModel(f"a=exact:{tiny_colbert}").mteb_model_meta for _ in range(2)]
    assert metas[0] == metas[1]
    assert metas[0].name == "raycol/a"
    metas = [RetrievalModel(f"index:{tmp_path}/x").mteb_model_meta for _ in range(2)]
    assert metas[0].name == "raycol/index-x"
    assert metas[0].revision != metas[1].revision


def test_what_cannot_be_used_is_refused(tiny_colbert: Path) -> None:
    with pytest.raises(InputError, match="is not a system"):
        RetrievalModel("colbert")
    with pytest.raises(InputError, match="n_workers"):
        RetrievalModel("bm25", n_workers=2)
    task = Task()
    task.candidates = {"q0": ["p0"]}
    with pytest.raises(InputError, match="bm25 cannot rerank"):
        scores(RetrievalModel("bm25"), task)
