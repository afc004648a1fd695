"""Settings of single sources: objective, temperature, prompts and lengths."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycol.data import ExampleSource
from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.models.tokenization import tokenize
from raycol.training import TrainConfig
from raycol.training.collator import SourceTokenizer, make_collator
from raycol.training.preparation import write_training_set
from raycol.training.setting_types import TrainingSource
from tests.conftest import write_jsonl
from tests.training.material import (
    Hinge,
    end_group,
    fit_in_process,
    losses,
    settings,
    start_group,
    weights,
    write_examples,
)

ROUND_ROBIN = {"mixing": "round-robin", "learning_rate": 1e-12, "max_steps": 4, "schedule": "constant"}


def config_of(*sources: dict[str, Any], **values: Any) -> TrainConfig:
    return TrainConfig(model="m", data=[{"path": "d", **one} for one in sources], out="o", **values)


@pytest.mark.parametrize(
    ("sources", "values", "message"),
    [
        ([{"objective": "klein"}], {}, r"data\.0\.objective"),
        ([{}, {"query_prompt": "q: "}], {"mixing": "examples"}, r"data\[1\]\.query_prompt applies to whole batches"),
        ([{}, {"objective": "distillation"}], {"n_ways": 1}, "n_ways is 1; distillation compares"),
        ([{"objective": "margin-mse", "temperature": 2.0}], {}, r"data\[0\]\.temperature has no effect: margin-mse"),
        ([{"objective": "margin-mse"}], {"scoring": "xtr"}, "scoring is xtr"),
        ([{"objective": "cached"}], {"objective": "contrastive"}, "objective has no effect: every source"),
        ([{"temperature": 2.0}], {"temperature": 1.5}, "temperature has no effect: every source"),
        ([{"objective": "margin-mse"}] * 2, {"temperature": 1.5}, "temperature has no effect: margin-mse"),
        ([{"objective": "distillation"}] * 2, {"mask_margin": 1.0}, "mask_margin has no effect: distillation"),
        ([{"objective": "contrastive"}] * 2, {"contrastive_weight": 1.0}, "contrastive_weight has no effect"),
        ([{}, {"objective": "contrastive"}], {"normalize_scores": True}, "normalize_scores apply to objective"),
    ],
)
def test_wrong_settings_of_sources(sources: list[dict[str, Any]], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(*sources, **values)


def test_settings_apply_if_a_source_needs_them() -> None:
    contrastive, distilling = {"objective": "contrastive"}, {"objective": Hinge()}
    values = {"mask_margin": 1.0, "symmetric": True, "grad_cache": True}
    config = config_of(contrastive, {"objective": "distillation"}, normalize_scores=True, **values)
    assert config.objective_name == "contrastive, distillation"
    assert [one.distils for one in config.by_source] == [False, True]
    assert config_of(distilling).objective_name == Hinge().fingerprint
    plain = config_of({}, {})
    for own in ({"objective": "contrastive"}, {"query_prompt": "q: "}, {"document_length": 9}, {"temperature": 0.1}):
        assert config_of({}, own).outcome() != plain.outcome()
    assert TrainConfig(model="m", data=ExampleSource(path="d", split="s"), out="o").data == (
        TrainingSource(path="d", split="s"),
    )


@pytest.mark.parametrize("expansion", [False, True])
def test_prompts_are_behind_the_marker_and_lengths_are_the_sources(tiny_backbone: Path, expansion: bool) -> None:
    values = {"embedding_size": 16, "query_expansion": expansion}
    encoder = load_encoder(tiny_backbone, device="cpu", **values)
    source = TrainingSource(path="d", query_prompt="rain: ", query_length=7, document_length=9)
    texts = ["wind", "a violin and a piano in the storm of tonight, and bread"]
    other = load_encoder(tiny_backbone, device="cpu", query_length=7, document_length=9, **values)
    ids = {task: SourceTokenizer(encoder, source)(texts, task)["input_ids"] for task in ("query", "document")}
    assert torch.equal(ids["query"], tokenize(other, [f"rain: {text}" for text in texts], "query")["input_ids"])
    assert torch.equal(ids["document"], tokenize(other, texts, "document")["input_ids"])
    assert ids["query"].shape[1] == 7
    assert encoder.tokenizer.convert_ids_to_tokens(ids["query"][0])[1:4] == ["[Q]", "rain", ":"]
    plain = SourceTokenizer(encoder, TrainingSource(path="d"))
    assert torch.equal(plain(texts, "query")["input_ids"], tokenize(encoder, texts, "query")["input_ids"])
    with pytest.raises(InputError, match=r"^data\[1\]\.query_length is 9999, but the model has only"):
        make_collator(encoder, [source, TrainingSource(path="d", query_length=9999)])


@pytest.mark.slow
def test_a_source_trains_as_with_the_same_settings_of_the_training(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "scored.jsonl", negatives=2, scores=True)
    records = [json.loads(line) for line in data.read_text().splitlines()]
    prompted = [
        {**one, "query": f"rain: {one['query']}", "documents": [f"oven: {text}" for text in one["documents"]]}
        for one in records
    ]
    values = {"objective": "distillation", "temperature": 0.5, "query_length": 9, "document_length": 11}
    by_training = settings(tiny_colbert, write_jsonl(tmp_path / "prompted.jsonl", prompted), tmp_path / "m", **values)
    source = {"path": str(data), "query_prompt": "rain: ", "document_prompt": "oven: ", **values}
    by_source = settings(tiny_colbert, source, tmp_path / "m")
    encoders = [fit_in_process(config, tmp_path / name)[0] for name, config in (("a", by_training), ("b", by_source))]
    assert np.array_equal(*map(weights, encoders))


def save_losses(config: TrainConfig, folder: Path, rank: int) -> None:
    """Train as one of several workers, and save the losses."""
    history = fit_in_process(config, folder / str(rank))[1]
    (folder / f"{rank}.json").write_text(json.dumps([losses(history), [one.get("masked_pairs") for one in history]]))


@pytest.mark.slow
@pytest.mark.long
def test_objectives_by_source_have_the_losses_of_separate_trainings(tiny_colbert: Path, tmp_path: Path) -> None:
    paths = [write_examples(tmp_path / f"{n}.jsonl", negatives=2, scores=True, seed=n) for n in range(2)]

    def losses_of(name: str, *own: dict[str, Any], **values: Any) -> list[float]:
        sources = [{"path": str(path), **one} for path, one in zip(paths, own or ({}, {}), strict=True)]
        config = settings(tiny_colbert, sources, tmp_path / "m", **ROUND_ROBIN, **values)
        n = config.num_workers
        work: list[Callable[[], None]] = [partial(save_losses, config, tmp_path / name, rank) for rank in range(n)]
        if n > 1:
            end_group(start_group(work, tmp_path / f"{name}-group"))
        else:
            work[0]()
        found, masked = json.loads((tmp_path / name / "0.json").read_text())
        assert (masked[0] is None) == (name == "distilled")
        return found

    distilled = losses_of("distilled", objective="distillation")
    contrastive = losses_of("contrastive", objective="cached", temperature=0.5)
    expected = [distilled[0], contrastive[1], distilled[2], contrastive[3]]
    own = ({"objective": "distillation"}, {"objective": "cached", "temperature": 0.5})
    assert losses_of("mixed", *own) == expected
    assert losses_of("shared", *own, num_workers=2) == pytest.approx(expected, rel=1e-5)


def test_a_prepared_set_has_the_scores_that_the_sources_need(tmp_path: Path) -> None:
    path = str(write_examples(tmp_path / "scored.jsonl", negatives=1, scores=True))
    prepared = tmp_path / "prepared"

    def write(*own: dict[str, Any], **values: Any) -> None:
        config = TrainConfig(model="m", data=[{"path": path, **one} for one in own], out="o", batch_size=8, **values)
        write_training_set(config, prepared)

    write({"objective": "distillation"}, {"query_prompt": "a: "})
    write({"query_length": 8}, {"objective": "cached"}, objective="margin-mse")
    with pytest.raises(InputError, match="differs in teacher scores"):
        write({}, {})
