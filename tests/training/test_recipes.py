"""Every recipe in jobs/configs trains, here with a tiny model on a few examples in the recipe's data format.

`make recipes` runs this file.
"""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.models.tokenization import prompt_of
from raycol.training import TrainConfig
from tests.conftest import PROJECT, write_jsonl
from tests.training.material import fit_in_process, losses, save_collection, write_examples

RECIPES = sorted((PROJECT / "jobs" / "configs").glob("*.yaml"))
# What `make test` trains, of one objective each; `make recipes` trains all.
_QUICK = ("colbert-zero-1-unsupervised", "gte-moderncolbert")


def examples(folder: Path, negatives: int = 0) -> list[dict]:
    """Queries with a positive and negatives."""
    path = write_examples(folder / "pairs.jsonl", negatives=negatives)
    return [json.loads(line) for line in path.read_text().splitlines()]


def beir(folder: Path) -> Path:
    """A BEIR folder with a train split."""
    records = examples(folder)
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": one["positive"]} for n, one in enumerate(records)])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": one["query"]} for n, one in enumerate(records)])
    (folder / "qrels").mkdir()
    lines = [f"q{n}\td{n}\t1" for n in range(len(records))]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder


def scored_ids(n: int) -> list[tuple[int, list[int], list[float]]]:
    """A query id, `n` document ids and their scores, `n` times."""
    rng = np.random.default_rng(0)
    return [(number, rng.permutation(n).tolist(), rng.normal(size=n).tolist()) for number in range(n)]


def by_ids(folder: Path, missing: bool = False) -> Path:
    """PyLate's format for distillation: ids and scores, with queries and documents in separate folders."""
    records = examples(folder)
    made = folder / "kd"
    for name in ("train", "queries", "documents"):
        (made / name).mkdir(parents=True)
    write_jsonl(made / "queries" / "a.jsonl", [{"query_id": n, "text": one["query"]} for n, one in enumerate(records)])
    write_jsonl(
        made / "documents" / "a.jsonl", [{"document_id": n, "text": one["positive"]} for n, one in enumerate(records)]
    )
    rows = [{"query_id": id_, "document_ids": ids, "scores": scores} for id_, ids, scores in scored_ids(32)]
    if missing:
        rows[3]["document_ids"][5] = 99
    write_jsonl(made / "train" / "a.jsonl", rows)
    return made


def triples(folder: Path) -> list[dict]:
    """Stanford's format for distillation: lines of [qid, [pid, score], ...], with queries and passages as TSV."""
    records = examples(folder)
    write_jsonl(folder / "a.json", [[id_, *zip(ids, scores, strict=True)] for id_, ids, scores in scored_ids(32)])
    for name, column in (("queries", "query"), ("collection", "positive")):
        (folder / f"{name}.tsv").write_text("".join(f"{n}\t{one[column]}\n" for n, one in enumerate(records)))
    return [{"path": folder / "a.json", "queries": folder / "queries.tsv", "documents": folder / "collection.tsv"}]


def parquet(path: Path, columns: dict[str, list]) -> Path:
    """A Parquet file."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def sources(n: int, name: str = "document", negatives: int = 0, **named: str) -> Callable[[Path], list[dict]]:
    """Make Parquet files of pairs or triplets: the positive in a column `name`, besides columns of other names."""

    def write(folder: Path) -> list[dict]:
        records = examples(folder, negatives)
        columns = {"query": [one["query"] for one in records], name: [one["positive"] for one in records]}
        if negatives:
            columns["negative"] = [one["negatives"] for one in records]
        columns |= {column: [value] * len(records) for column, value in named.items()}
        return [{"path": parquet(folder / f"{number}.parquet", columns)} for number in range(n)]

    return write


def run_example(name: str, *arguments: object, **settings: object) -> None:
    """Run the function of an example script."""
    runpy.run_path(str(PROJECT / "docs" / "examples" / f"{name}.py"))["main"](*map(str, arguments), **settings)


def reasonir(folder: Path) -> str:
    """ReasonIR's hq data and BRIGHT's documents, one of them missing, as triplets of the example script."""
    records = examples(folder, negatives=1)
    ids = [f"docs/{n}.txt" for n in range(len(records))]
    hq = {
        "query": [["Given a question, retrieve", one["query"]] for one in records],
        "pos": [[["", id_]] for id_ in ids],
        "neg": [[["", one["negatives"][0]]] for one in records],
    }
    documents = {"id": ids[1:], "content": [one["positive"] for one in records[1:]]}
    run_example(
        "reasonir_pairs",
        parquet(folder / "hq" / "0.parquet", hq).parent / "*.parquet",
        parquet(folder / "documents" / "biology.parquet", documents).parent / "*.parquet",
        folder / "hq.jsonl",
    )
    return str(folder / "hq.jsonl")


def mined(folder: Path) -> list[str]:
    """Scored candidates with the positive first, as the example script draws negatives from them."""
    records = examples(folder)
    n = len(records)
    scores = {
        "query_id": [*range(n)],
        "document_ids": [[(one + k) % n for k in range(n)] for one in range(n)],
        # The last query has a positive that no candidate scores below.
        "scores": [[0.9 - 0.02 * k if one < n - 1 else 0.9 for k in range(n)] for one in range(n)],
    }
    queries = {"query_id": [*range(n)], "query": [one["query"] for one in records]}
    documents = {"document_id": [*range(n)], "document": [one["positive"] for one in records]}
    names = [parquet(folder / f"{name}.parquet", columns) for name, columns in
             {"scores": scores, "queries": queries, "documents": documents}.items()]  # fmt: skip
    run_example("lateon_negatives", *names, folder / "negatives.jsonl", passes=2, pool=20)
    return [str(folder / "negatives.jsonl")]


def questions_and_titles(folder: Path) -> list[dict]:
    """A BEIR folder, and a corpus with titles as queries."""
    titled = [{"_id": f"t{n}", "title": f"rain {n}", "text": f"wind and rain {n}"} for n in range(16)]
    (folder / "other").mkdir()
    corpus = write_jsonl(folder / "other" / "corpus.jsonl", titled)
    return [{"path": beir(folder)}, {"path": corpus, "columns": {"query": "title", "positive": "text"}}]


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "minilm-transfer": questions_and_titles,
    "minilm-medquad": lambda folder: str(beir(folder)),
    "minilm-distillation": lambda folder: str(write_examples(folder / "a.jsonl", negatives=7, scores=True)),
    "gte-moderncolbert": lambda folder: str(by_ids(folder, missing=True)),
    "reason-moderncolbert": reasonir,
    "colbert-zero-1-unsupervised": sources(29, dataset="squad", shard="0"),
    "colbert-zero-2-supervised": sources(10, negatives=3, dataset="nli"),
    "colbert-zero-3-distillation": lambda folder: str(by_ids(folder, missing=True)),
    "colbertv2": triples,
    "jacolbertv2.5": triples,
    "answerai-colbert-small": lambda folder: str(by_ids(folder)),
    "lateon-1-pretraining": sources(3),
    "lateon-2-fine-tuning": mined,
}


def tiny(recipe: Path, model: Path, folder: Path) -> TrainConfig:
    """A recipe for two steps with a tiny model and its data, in this process."""
    published = TrainConfig.load(recipe)
    mini_batch = {"mini_batch_tokens": 512} if published.mini_batch_tokens else {"mini_batch_size": 8}
    small = {"model": str(model), "num_workers": 1, "resources": {"CPU": 1}, "batch_size": 8, "max_steps": 2,
             **mini_batch}  # fmt: skip
    if published.epochs:
        small["epochs"] = 2
    if published.eval_data:
        (folder / "eval").mkdir()
        small["eval_data"] = str(save_collection(folder / "eval", "dev"))
    config = TrainConfig.load(recipe, {**small, "data": LAYOUTS[recipe.stem](folder), "out": folder / "m"})
    lengths = {"query_length": 16, "document_length": 64}  # the tiny model has 128 positions
    return config.model_copy(update={"allow_duplicates": True, **lengths})


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [path if path.stem in _QUICK else pytest.param(path, marks=pytest.mark.long) for path in RECIPES],
    ids=lambda path: path.stem,
)
def test_a_recipe_trains(recipe: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    config = tiny(recipe, tiny_backbone, tmp_path)
    encoder, history = fit_in_process(config, tmp_path / "work")
    assert len(losses(history)) == 2
    assert np.isfinite(losses(history)).all()
    for task in ("query", "document"):
        marker, _, prompt = prompt_of(encoder, task).partition(" ")
        assert encoder.tokenizer.tokenize(f"{marker} {prompt}rain")[0] == marker
    n_skipped = json.loads((tmp_path / "work" / "work.json").read_text())["sources"][0]["skipped"]
    assert n_skipped == (config.on_error == "skip" and recipe.stem != "answerai-colbert-small")


def test_every_recipe_has_test_data_and_a_source() -> None:
    assert {path.stem for path in RECIPES} == LAYOUTS.keys()
    page = (PROJECT / "docs" / "recipes.md").read_text()
    for path in RECIPES:
        comment = "".join(re.findall(r"^# (.*)\n", path.read_text(), re.MULTILINE))
        assert path.stem in page
        assert f"train jobs/configs/{path.name} --out" in comment
        assert path.stem.startswith("minilm") or {"Source:", "Hardware:"} <= {*comment.replace(".", " ").split()}


def test_examples_without_texts_or_negatives_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    triplet = json.loads(Path(reasonir(tmp_path)).read_text().splitlines()[0])
    assert triplet.keys() == {"query", "positive", "negative"}
    assert triplet["query"].startswith("Given a question, retrieve ")
    first, second, *_ = map(json.loads, Path(mined(tmp_path)[0]).read_text().splitlines())
    assert [len(row["negatives"]) for row in (first, second)] == [7, 7]
    assert first["negatives"] != second["negatives"]
    assert first["positive"] not in first["negatives"]
    printed = [line.replace(str(tmp_path), "") for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "31 examples in /hq.jsonl; 1 left out, whose positive is in none of the document files",
        "62 examples in /negatives.jsonl; 1 queries left out, with fewer than 20 negatives",
    ]
