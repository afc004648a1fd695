"""Systems on collections: results, comparisons, files, bad input."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raycol import display
from raycol.data import Dataset, Passage
from raycol.data.beir import save_beir
from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError
from raycol.evaluation import (
    EvaluateConfig,
    Evaluation,
    compare,
    evaluate,
    largest_differences,
    read_run,
    score_run,
)
from raycol.evaluation.runs import run_bm25
from raycol.evaluation.trec import ranking
from tests.conftest import make_passages
from tests.indexing.in_process import build_index


def measure(**settings: Any) -> Evaluation:
    return evaluate(EvaluateConfig(device="cpu", resamples=500, **settings), executor=IN_PROCESS)


def dataset(n_queries: int, first: int) -> Dataset:
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(40)]
    texts = {f"q{number}": passages[first + number].text for number in range(n_queries)}
    return Dataset(passages, texts, {id_: {passages[first + n].id: 1} for n, id_ in enumerate(texts)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_colbert: Path) -> Path:
    """Two collections, one and two, with an index each."""
    from raycol.indexing import IndexConfig

    folder = tmp_path_factory.mktemp("measure")
    for name, data in (("one", dataset(8, 0)), ("two", dataset(6, 10))):
        save_beir(folder / name, data)
        config = IndexConfig(corpus=folder / name, model=tiny_colbert, out=folder / "indexes" / name, bits=8)
        build_index(config)
    return folder


@pytest.mark.slow
def test_systems_are_measured_on_every_collection(
    folder: Path, tiny_colbert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = ["bm25", f"colbert=exact:{tiny_colbert}", f"index=index:{folder}/indexes/{{collection}},effort=thorough"]
    data = [folder / "one", folder / "two"]
    done = measure(data=data, system=systems, metrics=("nDCG@10", "AP"), out=tmp_path / "out", save_runs=True)
    assert [(result.collection, result.system) for result in done.results] == [
        (collection, system) for collection in ("one", "two") for system in ("bm25", "colbert", "index")
    ]
    by_name = {(result.collection, result.system): result for result in done.results}
    for name, data_ in (("one", dataset(8, 0)), ("two", dataset(6, 10))):
        assert by_name[name, "bm25"].metrics["nDCG@10"] == pytest.approx(
            score_run(data_.qrels, run_bm25(data_))["nDCG@10"]
        )
        exact, index = by_name[name, "colbert"], by_name[name, "index"]
        assert exact.metrics["nDCG@10"] == pytest.approx(index.metrics["nDCG@10"], abs=0.05)
        assert (exact.queries, exact.documents, exact.skipped) == (len(data_.queries), 40, 0)
        assert exact.cpu_s is not None
        assert exact.cpu_s > 0

    # Comparisons are those of the per-query values, the average weighs both collections the same.
    averages = {system: means["AP"].value for system, means in done.averages.items()}
    for system in ("bm25", "colbert", "index"):
        each = [by_name[name, system].metrics["AP"] for name in ("one", "two")]
        assert averages[system] == pytest.approx(sum(each) / 2)
    assert {(one.collection, one.system) for one in done.differences} == {
        (collection, system) for collection in ("one", "two", "all") for system in ("colbert", "index")
    }
    first = next(
        one for one in done.differences if (one.collection, one.metric, one.system) == ("one", "AP", "colbert")
    )
    values = [{"one": by_name["one", system].per_query["AP"]} for system in ("bm25", "colbert")]
    assert first.comparison == compare(*values, n_resamples=500)
    assert first.p_holm >= first.comparison.p_value

    # The files hold the same.
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["averages"]["bm25"]["AP"]["value"] == pytest.approx(averages["bm25"])
    assert report["settings"]["metrics"] == ["nDCG@10", "AP"]
    assert "raycol" in report["versions"]
    rows = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert len(rows) == 2 * 3 * (8 + 6)
    one = next(row for row in rows if (row["collection"], row["system"], row["metric"]) == ("one", "index", "AP"))
    assert by_name["one", "index"].per_query["AP"][one["query"]] == one["value"]

    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} == {
        "metrics.svg", "queries.svg", "cost.svg"
    }  # fmt: skip

    display.evaluation(done, "results")
    assert "wrote results: evaluation.json, with the queries that differ most, " in capsys.readouterr().out

    # The queries that differ most are those of the per-query values, with hits of the run files.
    scopes = [(each["collection"], each["system"]) for each in report["largest_differences"]]
    assert list(dict.fromkeys(scopes)) == [
        (name, system) for name in ("one", "two") for system in ("colbert", "index")
    ]
    first_query = report["largest_differences"][0]
    expected = largest_differences(*(by_name["one", system].per_query["nDCG@10"] for system in ("bm25", "colbert")))
    assert tuple(first_query[name] for name in ("query", "baseline_value", "value")) == expected[0]
    query = first_query["query"]
    assert first_query["text"] == dataset(8, 0).queries[query]
    assert first_query["relevant"] == dataset(8, 0).qrels[query]
    run = read_run(tmp_path / "out/runs/one/colbert.trec", dataset(8, 0).queries)[query]
    assert [(hit["id"], hit["score"]) for hit in first_query["hits"]] == [(id_, run[id_]) for id_ in ranking(run)[:3]]
    assert [hit["grade"] for hit in first_query["hits"]] == [
        first_query["relevant"].get(hit["id"]) for hit in first_query["hits"]
    ]

    # A run file that was written is a system like any other.
    runs = f"{tmp_path}/out/runs/{{collection}}/colbert.trec"
    again = measure(data=data, system=[f"again=run:{runs}"], metrics=("nDCG@10", "AP"))
    assert [result.per_query for result in again.results] == [
        by_name[name, "colbert"].per_query for name in ("one", "two")
    ]
    assert all(result.cpu_s is None for result in again.results)


@pytest.mark.slow
def test_candidates_are_reranked(folder: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    """All documents as candidates: reranking by a model, or by an index, is the whole search."""
    whole = measure(data=folder / "one", model=tiny_colbert, out=tmp_path / "whole", save_runs=True)
    systems = [
        f"model=bm25,depth=40 > exact:{tiny_colbert}",
        f"index=bm25,depth=40 > index:{folder}/indexes/one",
        f"few=bm25,depth=2 > exact:{tiny_colbert}",
    ]
    done = measure(data=folder / "one", system=systems, out=tmp_path / "o", save_runs=True)
    model, index, few = done.results
    assert model.per_query == whole.results[0].per_query
    assert index.metrics["nDCG@10"] == pytest.approx(model.metrics["nDCG@10"], abs=0.05)
    queries = dataset(8, 0).queries
    assert all(len(hits) == 2 for hits in read_run(tmp_path / "o/runs/one/few.trec", queries).values())
    assert few.metrics["R@100"] <= model.metrics["R@100"]


@pytest.mark.slow
def test_an_index_is_searched_exactly(folder: Path, tmp_path: Path) -> None:
    """The truth of approximate search: MaxSim over all stored tokens."""
    from raycol.index import Index
    from raycol.retrieval import Retriever

    systems = [f"exact=index:{folder}/indexes/one,effort=exact", f"index:{folder}/indexes/one"]
    measure(data=folder / "one", system=systems, out=tmp_path / "o", save_runs=True)
    data, index = dataset(8, 0), Index.open(folder / "indexes" / "one")
    run = read_run(tmp_path / "o/runs/one/exact.trec", data.queries)
    embeddings = Retriever(index, device="cpu").encode(list(data.queries.values()))
    for query, hits in zip(data.queries, index.exact(embeddings, k=100), strict=True):
        assert run[query] == {hit.id: hit.score for hit in hits}


@pytest.mark.slow
def test_a_single_vector_model_is_exact(folder: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_backbone), device="cpu")  # mean pooling
    model.save(str(tmp_path / "single"))
    done = measure(data=folder / "one", system=[f"s=single:{tmp_path / 'single'}"], out=tmp_path / "o", save_runs=True)
    data = dataset(8, 0)
    run = read_run(tmp_path / "o/runs/one/s.trec", data.queries)
    scores = model.similarity(
        model.encode_query(list(data.queries.values())),
        model.encode_document([passage.content for passage in data.passages]),
    )
    for row, query in enumerate(data.queries):
        for column, passage in enumerate(data.passages):
            assert run[query][passage.id] == pytest.approx(float(scores[row, column]), abs=1e-4)
    assert done.results[0].documents == 40


@pytest.mark.slow
def test_an_unfinished_evaluation_leaves_no_result(folder: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    systems = [f"exact:{tiny_colbert}", f"run:{tmp_path}/gone.trec"]
    with pytest.raises(InputError, match=r"gone\.trec: no such file"):
        measure(data=folder / "one", system=systems, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert list(tmp_path.glob(".o-unfinished/exact-*/0*.json")), "the exact scores are kept for the next run"
    (tmp_path / "gone.trec").write_text("q0 Q0 p0 1 1.0 x\n")
    done = measure(data=folder / "one", system=systems, out=tmp_path / "o")
    assert any("no hits for 7 queries" in note for note in done.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone.trec", "o"]
    with pytest.raises(InputError, match="already exists"):
        measure(data=folder / "one", system=systems, out=tmp_path / "o")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("nDCG@ten",)}, "'nDCG@ten'"),
        ({"metrics": ("nDGC@10",)}, "no such metric; did you mean nDCG@10?"),
        ({"baseline": "colbert"}, "baseline 'colbert': no such system; expected one of bm25, x"),
        ({"system": ("bm25", "x=run:{folder}/unknown.trec")}, "unknown.trec, line 1: "),
        ({"system": ("bm25", "x=run:{folder}/nan.trec")}, "expected a finite number"),
        ({"data": ("{folder}/one", "{folder}/one")}, "collection 'one' is named twice"),
        ({"data": ("{folder}/one", "{folder}/three")}, "three: no such folder"),
        ({"split": "dev"}, "dev"),
        ({"system": ("bm25", "x=index:{folder}/indexes/three")}, "three"),
        ({"system": ("bm25", "x=single:{folder}/one")}, "no config.json or modules.json"),
    ],
)
def test_bad_input_is_one_line(folder: Path, settings: dict, message: str) -> None:
    (folder / "unknown.trec").write_text("other Q0 p0 1 1.0 x\n")
    (folder / "nan.trec").write_text("q0 Q0 p0 1 nan x\n")

    def filled(value: Any) -> Any:
        return tuple(map(filled, value)) if isinstance(value, tuple) else str(value).replace("{folder}", str(folder))

    given = {"data": folder / "one", "system": ("bm25", "x=bm25"), **{key: filled(settings[key]) for key in settings}}
    with pytest.raises(InputError) as error:
        measure(**given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_system_that_lacks_the_judged_documents_is_refused(folder: Path, tiny_colbert: Path, tmp_path: Path) -> None:
    others = Dataset([Passage("x", "", "bread")], {"q0": "bread"}, {"q0": {"x": 1}})
    save_beir(tmp_path / "others", others)
    with pytest.raises(InputError, match="none of the 1 judged documents"):
        measure(data=tmp_path / "others", index=folder / "indexes" / "one")
