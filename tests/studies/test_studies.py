"""Studies: recipes, cells that are computed once, tables, and the studies themselves with a tiny model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycol.data import Dataset, Passage
from raycol.data.beir import save_beir
from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError
from raycol.studies.cells import Cell, Point
from raycol.studies.config import StudyConfig
from raycol.studies.determinism import DeterminismSettings, relate
from raycol.studies.embeddings import maxsim, mean_token
from raycol.studies.kinds import KINDS
from raycol.studies.material import cut, sample_queries
from raycol.studies.recipe import label_of, load_recipe, recipe_names
from raycol.studies.result import AVERAGE, StudyResult, rows_of
from raycol.studies.run import run_study
from raycol.training.config import TrainConfig
from tests.conftest import make_passages
from tests.training.material import write_examples


def dataset(n: int = 40, seed: int = 0) -> Dataset:
    passages = [Passage(record["_id"], record["title"], record["text"]) for record in make_passages(n, seed)]
    queries = {f"q{number}": passages[number].text for number in range(8)}
    return Dataset(passages, queries, {f"q{number}": {passages[number].id: 1} for number in range(8)})


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("collections")
    for name, seed in (("one", 0), ("two", 1)):
        save_beir(folder / name, dataset(seed=seed))
    return [str(folder / "one"), str(folder / "two")]


def run(recipe: dict[str, Any], folder: Path, **settings: Any) -> StudyResult:
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    values = {"name": str(folder / "recipe.yaml"), "out": folder / "out", "resamples": 50, **settings}
    return run_study(StudyConfig.load(None, values), executor=IN_PROCESS)


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    settings = [KINDS[recipe.study].settings.load(None, values) for values in recipe.cells()]
    assert len(settings) > 3
    for cell in settings:
        for stage in getattr(cell, "stages", ()):
            TrainConfig.load(None, {**cell.common, **stage, "model": "m", "data": "d", "out": "o"})


def test_cells_are_combinations_and_further_ones() -> None:
    cells = load_recipe("pooling").cells()
    assert len(cells) == 7 * 3 + 1
    assert label_of(cells[0]) == "pool_factor 1, bits 1"
    assert label_of(cells[-1]) == "one_vector, bits 4"
    assert label_of({"engine": "raycol", "prune": False, "threads": None}) == "engine raycol, no prune"
    seeds = [cell.get("seed") for cell in load_recipe("batch-size").cells()]
    assert seeds == [0, 1, 2] * 4 + [None]


def test_a_collection_is_cut_by_its_seed() -> None:
    whole = dataset()
    small = cut(whole, 10, seed=0)
    assert len(small.passages) == 10
    assert len(small.queries) == 5
    ids = {passage.id for passage in small.passages}
    assert all(grades.keys() <= ids for grades in small.qrels.values())
    assert small == cut(whole, 10, seed=0)
    assert small.passages != cut(whole, 10, seed=1).passages
    assert cut(whole, 40, seed=0) is whole
    with pytest.raises(InputError, match="documents is 1: no query's relevant documents are so few"):
        cut(whole, 1, seed=0)
    fewer = sample_queries(whole, 3, seed=0)
    assert list(fewer.queries) == [query for query in whole.queries if query in fewer.queries]
    assert len(fewer.queries) == 3
    assert fewer.qrels.keys() == fewer.queries.keys()
    assert fewer.passages is whole.passages
    assert fewer == sample_queries(whole, 3, seed=0)
    assert sample_queries(whole, 8, seed=0) is whole


def test_maxsim_is_the_sum_of_the_best_products() -> None:
    rng = np.random.default_rng(0)
    queries = [rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 1, 5)]
    documents = [rng.normal(size=(n, 8)).astype(np.float32) for n in (4, 1, 7, 2)]
    blocks = [(np.concatenate(documents[:3]), np.array([4, 1, 7])), (documents[3], np.array([2]))]
    expected = [[(query @ tokens.T).max(axis=1).sum() for tokens in documents] for query in queries]
    assert maxsim(queries, blocks) == pytest.approx(np.array(expected), rel=1e-5)
    assert np.linalg.norm(mean_token(documents[0])) == pytest.approx(1)


@pytest.mark.slow
def test_pooling(collections: list[str], tiny_colbert: Path, tmp_path: Path) -> None:
    recipe = {
        "study": "pooling",
        "vary": {"pool_factor": [1, 2]},
        "also": [{"one_vector": True}],
        "baseline": {"pool_factor": 1},
    }
    settings = {"data": collections, "model": str(tiny_colbert)}
    result = run(recipe, tmp_path, **settings)
    whole, pooled, vector = (row for row in result.rows if (row.collection, row.stratum) == ("one", None))
    assert whole.numbers["bytes/document"] > pooled.numbers["bytes/document"] > vector.numbers["bytes/document"]
    assert vector.numbers["tokens/document"] == 1
    assert whole.difference is None
    assert pooled.difference is not None
    assert {row.collection for row in result.rows} == {"one", "two", AVERAGE}
    assert {row.stratum for row in result.rows} >= {"short queries", "long documents"}
    out = tmp_path / "out"
    report = json.loads((out / "study.json").read_text())
    assert len(report["points"]) == 6
    assert "| pool_factor 2 |" in (out / "table.md").read_text()
    assert "<table>" in result._repr_html_()

    cells = {path: path.stat().st_mtime_ns for path in out.glob("cells-*/0*.json")}
    assert len(cells) == 6
    lost = min(cells)
    lost.write_bytes(b"damaged")
    picture = (out / "picture.svg").read_bytes()
    assert run(recipe, tmp_path, **settings) == result
    assert (out / "picture.svg").read_bytes() == picture
    again = {path for path, time in cells.items() if path.stat().st_mtime_ns != time}
    assert again == {lost}
    with pytest.raises(InputError, match=r"differs in vary \(.*\[1, 2\].* there, .*\[1, 4\].* here\)"):
        run({**recipe, "vary": {"pool_factor": [1, 4]}}, tmp_path, **settings)


@pytest.mark.slow
def test_first_stages(collections: list[str], tiny_colbert: Path, tmp_path: Path) -> None:
    recipe = {
        "study": "first-stage",
        "fixed": {"budgets": [5, 20]},
        "cases": [{"first": name} for name in ("exact", "lists", "proxy", "bm25", "hnsw")],
        "pooled": True,
    }
    result = run(recipe, tmp_path, data=collections, model=str(tiny_colbert))
    assert result.notes == ("1 cells that need `peers=` are left out",)
    assert {row.collection for row in result.rows} == {"one", "two", "all pooled", AVERAGE}
    rows = {row.label: row for row in result.rows if row.collection == "all pooled"}
    assert list(rows) == [
        "first exact, budget 20",
        *(f"first {name}, budget {budget}" for name in ("lists", "proxy", "bm25") for budget in (5, 20)),
    ]
    found = {name: row.means["R of exact@10"].value for name, row in rows.items()}
    assert found["first exact, budget 20"] == 1
    for name in ("lists", "proxy", "bm25"):
        assert found[f"first {name}, budget 5"] < found[f"first {name}, budget 20"]
    assert all(row.numbers["p50 ms"] <= row.numbers["p99 ms"] for row in rows.values())


def test_builds_are_compared_with_the_first_of_their_engine() -> None:
    def point(*hits: str, digest: str) -> Point:
        return Point(collection="c", hits=[list(each) for each in hits], digest=digest)

    points = [
        (DeterminismSettings(engine="raycol"), point("ab", "cd", digest="1")),
        (DeterminismSettings(engine="fast-plaid"), point("xy", "cd", digest="2")),
        (DeterminismSettings(engine="raycol", threads=2), point("ab", "dc", digest="1")),
        (DeterminismSettings(engine="raycol", prune=False), point("ae", "cd", digest="1")),
        (DeterminismSettings(engine="fast-plaid", repeat=1), point("xz", "cd", digest="3")),
        (DeterminismSettings(engine="raycol", workers=2), point("ab", "cd", digest="4")),
    ]
    found = relate(points)
    assert [each["identical lists"] for each in found] == [1, 1, 0.5, 1, 0.5, 1]
    assert [each["overlap@10"] for each in found] == [1, 1, 1, 1, 0.75, 1]
    assert [each["same bytes"] for each in found] == [1, 1, 1, 1, 0, 1]


def test_seeds_are_averaged() -> None:
    recipe = load_recipe("scoring")
    kind = KINDS[recipe.study]
    points = []
    for name, seed, value in (("maxsim", 0, 0.2), ("maxsim", 1, 0.4), ("xtr", 0, 0.5), ("xtr", 1, 0.7)):
        cell = Cell(kind.settings.load(None, {"name": name, "seed": seed}), {"name": name, "seed": seed}, None)
        per_query = {"nDCG@10": {f"q{number}": value for number in range(6)}}
        points.append((cell, Point(collection="c", per_query=per_query, numbers={"steps": 5})))
    baseline, other = rows_of(points, kind, recipe, {}, {}, {"n_resamples": 50})
    assert (baseline.label, other.label) == ("maxsim", "xtr")
    assert baseline.means["nDCG@10"].value == pytest.approx(0.3)
    assert (baseline.numbers["lowest"], baseline.numbers["highest"]) == (pytest.approx(0.2), pytest.approx(0.4))
    assert other.difference is not None
    assert other.difference.difference == pytest.approx(0.3)


def test_wrong_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study 'poling': expected one of batch-size, determinism, first-stage"):
        load_recipe("poling")
    settings = {"data": "d", "model": "m"}
    with pytest.raises(InputError, match="study is 'cooking'; expected one of pooling"):
        run({"study": "cooking"}, tmp_path, **settings)
    with pytest.raises(InputError, match="the recipe has no cells"):
        run({"study": "pooling"}, tmp_path, **settings)
    with pytest.raises(InputError, match="unknown key 'bit'; the nearest known key is 'bits'"):
        run({"study": "pooling", "vary": {"bit": [1]}}, tmp_path, **settings)
    with pytest.raises(InputError, match="the study trains models; name training examples with `train_data=`"):
        run_study(StudyConfig.load(None, {**settings, "name": "scoring", "out": tmp_path / "out"}))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training(collections: list[str], tiny_backbone: Path, tmp_path: Path) -> None:
    write_examples(tmp_path / "pairs.jsonl")
    write_examples(tmp_path / "scored.jsonl", negatives=2, scores=True)
    common = {"batch_size": 4, "mini_batch_size": 4, "embedding_size": 16, "query_length": 8, "document_length": 32}
    stages = [
        {**common, "objective": "contrastive", "max_steps": 2, "allow_duplicates": True},
        {"objective": "distillation", "batch_size": 4, "max_steps": 1},
    ]
    recipe = {
        "study": "training",
        "cases": [{"name": "one", "stages": stages[:1]}, {"name": "both", "stages": stages}],
        "also": [{"name": "untrained"}],
    }
    result = run(
        recipe, tmp_path, data=collections, model=str(tiny_backbone), train_data=str(tmp_path / "pairs.jsonl"),
        teacher_data=str(tmp_path / "scored.jsonl"),
    )  # fmt: skip
    assert [(row.label, row.numbers["steps"]) for row in result.rows if row.collection == "one"] == [
        ("one", 2), ("both", 3), ("untrained", 0),
    ]  # fmt: skip
    assert not list((tmp_path / "out").glob(".scratch-*"))


@pytest.mark.slow
@pytest.mark.long
def test_determinism(collections: list[str], tiny_colbert: Path, tmp_path: Path) -> None:
    recipe = {"study": "determinism", "cases": [{"engine": "raycol"}, {"engine": "raycol", "search_threads": 2}]}
    result = run(recipe, tmp_path, data=collections[0], model=str(tiny_colbert))
    assert all(row.numbers == {"identical lists": 1, "overlap@10": 1, "same bytes": 1} for row in result.rows)
