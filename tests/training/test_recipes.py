"""Every recipe in jobs/configs trains, here with a tiny model on a few examples in the recipe's data format."""

import json
from pathlib import Path

import numpy as np
import pytest

from raycol.training import TrainConfig
from tests.conftest import PROJECT, write_jsonl
from tests.training.material import fit_in_process, losses, write_examples

RECIPES = sorted((PROJECT / "jobs" / "configs").glob("*.yaml"))


def beir(folder: Path) -> Path:
    """A BEIR folder with a train split."""
    records = [json.loads(line) for line in write_examples(folder / "pairs.jsonl").read_text().splitlines()]
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": one["positive"]} for n, one in enumerate(records)])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": one["query"]} for n, one in enumerate(records)])
    (folder / "qrels").mkdir()
    lines = [f"q{n}\td{n}\t1" for n in range(len(records))]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines) + "\n")
    return folder


def by_ids(folder: Path) -> Path:
    """PyLate's format for distillation: ids and scores, with queries and documents in separate folders."""
    rng = np.random.default_rng(0)
    records = [json.loads(line) for line in write_examples(folder / "pairs.jsonl").read_text().splitlines()]
    made = folder / "kd"
    for name in ("train", "queries", "documents"):
        (made / name).mkdir(parents=True)
    write_jsonl(made / "queries" / "a.jsonl", [{"query_id": n, "text": one["query"]} for n, one in enumerate(records)])
    write_jsonl(
        made / "documents" / "a.jsonl", [{"document_id": n, "text": one["positive"]} for n, one in enumerate(records)]
    )
    rows = [
        {"query_id": n, "document_ids": rng.permutation(32).tolist(), "scores": rng.normal(size=32).tolist()}
        for n in range(len(records))
    ]
    write_jsonl(made / "train" / "a.jsonl", rows)
    return made


def questions_and_titles(folder: Path) -> list[dict]:
    """A BEIR folder, and a corpus with titles as queries."""
    titled = [{"_id": f"t{n}", "title": f"rain {n}", "text": f"wind and rain {n}"} for n in range(16)]
    (folder / "other").mkdir()
    corpus = write_jsonl(folder / "other" / "corpus.jsonl", titled)
    return [{"path": beir(folder)}, {"path": corpus, "columns": {"query": "title", "positive": "text"}}]


LAYOUTS = {
    "minilm-transfer": questions_and_titles,
    "minilm-medquad": lambda folder: str(beir(folder)),
    "minilm-distillation": lambda folder: str(write_examples(folder / "a.jsonl", negatives=7, scores=True)),
    "gte-moderncolbert": lambda folder: str(by_ids(folder)),
    "reason-moderncolbert": lambda folder: str(write_examples(folder / "a.jsonl", negatives=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, tiny_backbone: Path, tmp_path: Path) -> None:
    small = {"model": str(tiny_backbone), "num_workers": 1, "resources": {"CPU": 1}, "batch_size": 8,
             "mini_batch_size": 8, "max_steps": 2}  # fmt: skip
    config = TrainConfig.load(recipe, {**small, "data": LAYOUTS[recipe.stem](tmp_path), "out": tmp_path / "m"})
    lengths = {"query_length": 16, "document_length": 64}  # the tiny model has 128 positions
    config = config.model_copy(update={"allow_duplicates": True, **lengths})
    _, history = fit_in_process(config, tmp_path / "work")
    assert len(losses(history)) == 2
    assert np.isfinite(losses(history)).all()


def test_every_recipe_has_test_data() -> None:
    assert {path.stem for path in RECIPES} == LAYOUTS.keys()
