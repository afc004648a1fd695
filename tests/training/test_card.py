"""The model card and the other files next to a trained model's weights."""

import ast
import json
import re
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from raycol.models.encoder import load_encoder
from raycol.models.saving import save_encoder
from raycol.training.card import write_extras
from raycol.training.checkpoints import Checkpoint
from raycol.training.config import TrainConfig
from raycol.training.dataset import SourceInfo
from raycol.training.evaluation import EvaluationSet
from raycol.training.metrics import draw_curves
from raycol.training.prepare import TrainingTask

METRICS = {"nDCG@10": 0.61234567, "R@10": 0.7, "R@100": 0.9, "RR@10": 0.55}
UNTRAINED = {**METRICS, "nDCG@10": 0.5}


def history(steps: int, eval_every: int = 0) -> list[dict[str, float]]:
    """A log history as the Trainer writes it."""
    entries: list[dict[str, float]] = [{**UNTRAINED, "epoch": 0, "step": 0}] if eval_every else []
    for step in range(1, steps + 1):
        shared = {"tokens_per_second": 1e4, "memory_bytes": 2**30, "epoch": step / steps, "step": step}
        entries.append({"loss": 3 / step, "grad_norm": 1.5, "learning_rate": 1e-5 * step, "total_flos": 0.0, **shared})
        if eval_every and step % eval_every == 0:
            entries.append({**METRICS, "epoch": step / steps, "step": step})
    return [*entries, {"train_runtime": 9.0, "train_loss": 1.0, "epoch": 1.0, "step": steps}]


def settings(model: Path | str, out: Path, **values) -> TrainConfig:
    return TrainConfig.model_validate(
        {"model": str(model), "data": str(out.parent / "my pairs.jsonl"), "out": out, **values}
    )


opened = cache(partial(load_encoder, device="cpu"))


def make(config: TrainConfig, model: Path, steps: int = 6, planned: int | None = None) -> str:
    """Save a model, write the files next to it and return the card."""
    save_encoder(opened(model), Path(config.out))
    sources = tuple(
        SourceInfo(path=source.path, weight=source.weight or 1200.0, examples=1200, n_ways=2, skipped=3)
        for source in config.data
    )
    evaluates = config.evaluates
    best = Checkpoint(step=4 if evaluates else steps, folder="f", files={}, metrics=METRICS if evaluates else {})
    entries = history(steps, 2 if evaluates else 0)
    name = f"{config.held_out} held-out queries of the training data"
    sets = [EvaluationSet(name=name)] if config.held_out else [
        EvaluationSet(name=Path(each).name, split="dev") for each in config.eval_data or ()
    ]  # fmt: skip
    task = TrainingTask(sources=sources, steps=planned or steps, collections=sets)
    write_extras(Path(config.out), config, task, best, entries)
    return (Path(config.out) / "README.md").read_text()


def rows(card: str, section: str) -> list[list[str]]:
    """Cells of a section's table, without its header."""
    text = card.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in text.splitlines()
             if line.startswith("|")]  # fmt: skip
    assert {len(row) for row in cells} == {len(cells[0])}
    return cells[2:]


@pytest.mark.slow
def test_the_front_matter_parses_as_the_hubs(tiny_colbert: Path, tmp_path: Path) -> None:
    config = settings("org/some-backbone", tmp_path / "my-model", held_out=50, data=["hf:org/data", "pairs.jsonl"])
    data = ModelCard(make(config, tiny_colbert)).data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "feature-extraction")
    assert (data.base_model, data.datasets, data.model_name) == ("org/some-backbone", ["org/data"], "my-model")
    assert {"colbert", "late-interaction", "PyLate"} <= set(data.tags)
    results = {result.metric_name: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert results["nDCG@10"] == ("ndcg_at_10", 0.61235)
    assert results.keys() == METRICS.keys()
    assert {result.dataset_name for result in data.eval_results} == {"50 held-out queries of the training data"}


@pytest.mark.slow
def test_a_card_without_evaluation_has_no_scores(tiny_colbert: Path, tmp_path: Path) -> None:
    card = make(settings(tiny_colbert, tmp_path / "my-model"), tiny_colbert)
    data = ModelCard(card).data.to_dict()
    assert not {"model-index", "base_model", "datasets"} & data.keys()
    assert "Not evaluated; the weights are those of step 6." in card


@pytest.mark.slow
def test_the_card_describes_the_model_and_its_training(tiny_colbert: Path, tmp_path: Path) -> None:
    collection = tmp_path / "secret folder" / "cranfield"
    config = settings(
        tiny_colbert,
        tmp_path / "my-model",
        eval_data=collection,
        batch_size=32,
        temperature=0.02,
        n_ways=2,
        guide=str(tmp_path / "secret folder" / "my-guide"),
        resources={"GPU": 1},
        storage=str(tmp_path / "elsewhere"),
        data=[str(tmp_path / "my pairs.jsonl"), {"path": "s3://bucket/hidden/more.parquet", "weight": 2}],
    )
    card = make(config, tiny_colbert, planned=10)
    for text in ("| dimensions | 16 |", "| query prefix | `[Q] ` |", "| document | at most 32 tokens |"):
        assert text in card
    assert "8 tokens, padded with mask tokens that are scored too and not attended to" in card
    assert "6 steps of 10 planned. Loss: 3 in the first step, 0.5 in the last." in card
    assert "The weights are those of step 4, which scored best in nDCG@10 on cranfield (dev)." in card
    assert rows(card, "Data") == [
        ["my pairs.jsonl", "1,200", "2", "1,200", "3"],
        ["more.parquet", "1,200", "2", "2", "3"],
    ]
    assert ["cranfield (dev)", "nDCG@10", "0.5000", "0.6123"] in rows(card, "Scores")
    shown = {name.strip("`"): value for name, value in rows(card, "Settings")}
    assert shown["temperature"] == "0.02"  # differs from the default
    assert shown["warmup"] == "0.1"  # a default, but always listed
    assert shown["guide"] == "my-guide"
    assert (shown["resources"], shown["n_ways"], shown["steps"]) == ("CPU=1, GPU=1", "2", "10")
    assert not {"patience", "mini_batch_size", "data", "model", "out", "storage", "eval_data"} & shown.keys()
    assert {"raycol", "torch", "ray"} < {name for name, _ in rows(card, "Versions")}
    # The card has names only, no paths.
    for secret in (str(tmp_path), "secret folder", "hidden", tmp_path.name):
        assert secret not in card


@pytest.mark.slow
def test_the_examples_of_the_card_run(tiny_colbert: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    card = make(settings(tiny_colbert, tmp_path / "my-model"), tiny_colbert)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert ["raycol" in blocks[0], "sentence_transformers" in blocks[1], "pylate" in blocks[2]] == [True] * 3
    monkeypatch.chdir(tmp_path)
    for block in blocks[:2]:
        exec(compile(block, "card", "exec"), {})
    output = capsys.readouterr().out
    assert "Copy a whole directory tree." in output
    assert "tensor([[" in output


@pytest.mark.slow
def test_the_card_names_pylate_only_if_it_opens_the_model(tiny_colbert: Path, tmp_path: Path) -> None:
    encoder = load_encoder(tiny_colbert, device="cpu")
    encoder[0].query_expansion = {"strategy": "min", "attend": True, "length": 6}
    encoder.save_pretrained(str(tmp_path / "native"))
    card = make(settings(tiny_colbert, tmp_path / "my-model"), tmp_path / "native")
    assert "from pylate" not in card
    assert "PyLate cannot open this model" in card
    assert "PyLate" not in ModelCard(card).data.tags
    assert "at least 6 tokens, padded with mask tokens that are scored too and attended to" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a|b `c` *d* <e>", "quo\"te's \\ and\nlines", "über 模型"])
def test_names_cannot_break_the_card(tiny_colbert: Path, tmp_path: Path, name: str) -> None:
    config = settings(tiny_colbert, tmp_path / name, data=[f"{name}.jsonl", "hf:org/x"])
    card = make(config, tiny_colbert)
    assert ModelCard(card).data.library_name == "sentence-transformers"
    assert len(rows(card, "Data")) == 2
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        literals = [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
        assert name in literals


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"objective": "distillation", "teacher_temperature": 0.5, "normalize_scores": True, "n_ways": 8},
        {"data": ["a.jsonl", {"path": "hf:org/x", "weight": 0.25, "subset": "train", "queries": "q.jsonl"}]},
        {"storage": "s3://bucket/runs", "eval_data": "beir/x", "resources": {"GPU": 0.5}, "query_expansion": False},
    ],
)
def test_the_settings_file_round_trips(tiny_colbert: Path, tmp_path: Path, values: dict) -> None:
    config = settings(tiny_colbert, tmp_path / "my-model", **values)
    make(config, tiny_colbert)
    assert TrainConfig.load(Path(config.out) / "training" / "config.yaml") == config


@pytest.mark.slow
def test_uris_appear_without_their_options_and_not_as_hub_names(tiny_colbert: Path, tmp_path: Path) -> None:
    uris = {"model": "s3://bucket/start?region=eu-west-1", "data": "s3://bucket/pairs.jsonl?region=eu-west-1"}
    config = TrainConfig.model_validate({**uris, "out": tmp_path / "my-model"})
    card = make(config, tiny_colbert)
    assert " from start." in card
    assert "pairs.jsonl" in card
    assert "huggingface.co/s3" not in card
    assert "base_model" not in card
    assert "region" not in card.partition("\n## Settings\n")[0]


@pytest.mark.slow
def test_the_settings_file_leaves_out_a_default_storage(tiny_colbert: Path, tmp_path: Path) -> None:
    out = tmp_path / "my-model"
    config = settings(tiny_colbert, out, storage=str(tmp_path / ".my-model-training"), data="s3://bucket/x.csv")
    make(config, tiny_colbert)
    written = yaml.safe_load((out / "training" / "config.yaml").read_text())
    assert "storage" not in written
    assert written["data"] == [{"path": "s3://bucket/x.csv"}]


@pytest.mark.slow
def test_metrics_jsonl_has_a_line_per_step_and_evaluation(tiny_colbert: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, tmp_path / "my-model", held_out=5)
    make(config, tiny_colbert)
    lines = [json.loads(line) for line in (Path(config.out) / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "nDCG@10" in line] == [0, 2, 4, 6]
    assert len(lines) == 10
    assert {name for line in lines for name in line if name.startswith(("train", "total"))} == set()
    assert lines[1]["tokens_per_second"] == 1e4


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "held_out"), [(1, 0), (1, 5), (300, 5)])
def test_the_curves_are_a_png_with_a_subplot_per_metric(
    tiny_colbert: Path, tmp_path: Path, steps: int, held_out: int
) -> None:
    config = settings(tiny_colbert, tmp_path / "my-model", held_out=held_out)
    make(config, tiny_colbert, steps=steps)
    picture = (Path(config.out) / "training" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    height = int.from_bytes(picture[20:24])
    assert height == (4 if held_out else 3) * 240


def test_curves_are_drawn_without_pyplot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    draw_curves(tmp_path / "c.png", [], (1,))
    assert (tmp_path / "c.png").stat().st_size > 0
