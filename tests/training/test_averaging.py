"""Averages over the steps: evaluated, exported and resumed like the trained weights."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raycol.display import trained
from raycol.distributed.executor import IN_PROCESS
from raycol.models.encoder import load_encoder
from raycol.storage import open_store
from raycol.training import TrainConfig, train
from raycol.training.averaging import MovingAverage
from raycol.training.checkpoints import Exported, list_checkpoints, open_average
from raycol.training.evaluation import evaluate_on, open_collections
from raycol.training.run_storage import export_model, is_done, mark_done, open_run, prepare_run
from raycol.training.state import WEIGHTS
from raycol.training.worker import fit
from tests.training.material import settings, weights, write_examples
from tests.training.test_resume import HaltError, until


def test_a_moving_average_is_the_weighted_mean_of_all_steps(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    average, seen = MovingAverage(layer, 0.7), []
    for step in range(1, 6):
        layer.weight.data.normal_()
        seen.append(layer.weight.detach().clone())
        average.on_step_end(None, SimpleNamespace(global_step=step), None)
        save_file(average.snapshot(keep=True), tmp_path / "average")
        average = MovingAverage(layer, 0.7)
        average.load(tmp_path / "average")
    shares = torch.tensor([0.7 ** (5 - step) for step in range(1, 6)])
    average.apply()
    expected = sum(share * weight for share, weight in zip(shares / shares.sum(), seen, strict=True))
    torch.testing.assert_close(layer.weight.detach(), expected)


def run_to_the_end(config: TrainConfig, folder: Path, halts: tuple[int, ...] = ()) -> tuple[Exported, float]:
    """Train in this process, halted and resumed at some steps.

    Returns:
        What was exported, and nDCG@10 of the exported model.
    """
    store = open_store(config.storage_uri)
    prepare_run(store, config)
    run = open_run(store, config)
    places = run.data.open(store), run.collection.open(store)

    def train_until(on_record: Callable) -> None:
        fit(config, run.work, *places, folder / "own", store, on_record)

    for step in halts:
        with pytest.raises(HaltError):
            train_until(until(step))
    train_until(lambda record: None)
    mark_done(store)
    exported, _ = export_model(store, config, run)
    encoder = load_encoder(config.out, device="cpu")
    return exported, evaluate_on(encoder, open_collections(places[1], run.work.collections))["nDCG@10"]


def last_record(config: TrainConfig) -> dict[str, float]:
    lines = (Path(config.out) / "training" / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])


def saved_weights(config: TrainConfig) -> dict[int, dict[str, torch.Tensor]]:
    store = open_store(config.storage_uri)
    return {one.step: load_file(one.open(store) / WEIGHTS) for one in list_checkpoints(store)}


def flat(tensors: dict[str, torch.Tensor], like: Path) -> np.ndarray:
    names = [name for name, _ in load_encoder(like, device="cpu").named_parameters()]
    return np.concatenate([tensors[name].numpy().ravel() for name in names])


def make_config(model: Path, tmp_path: Path, name: str, **values) -> TrainConfig:
    data = tmp_path / "pairs.jsonl"
    if not data.exists():
        write_examples(data)
    values = {"held_out": 8, "max_steps": 4, "learning_rate": 0.02, "save_every": 1, **values}
    config = settings(model, data, tmp_path / name, **values)
    return config.model_copy(update={"storage": config.storage_uri})


@pytest.mark.slow
def test_the_moving_average_is_evaluated_exported_and_resumed(tiny_colbert: Path, tmp_path: Path) -> None:
    values = {"ema_decay": 0.8, "keep_checkpoints": 4, "eval_every": 2}
    config = make_config(tiny_colbert, tmp_path, "m", **values)
    exported, ndcg = run_to_the_end(config, tmp_path, halts=(3,))
    assert exported.metrics["nDCG@10"] == pytest.approx(ndcg)
    assert last_record(config) == {
        "step": max(exported.steps),
        **{f"averaged {name}": value for name, value in exported.metrics.items()},
    }
    tensors = saved_weights(config)
    shares = np.array([0.8 ** (exported.step - step) for step in range(1, exported.step + 1)])
    expected = sum(
        share * flat(tensors[step], tiny_colbert) for step, share in enumerate(shares / shares.sum(), start=1)
    )
    assert np.abs(weights(load_encoder(config.out, device="cpu")) - expected).max() < 1e-6
    assert np.abs(expected - flat(tensors[exported.step], tiny_colbert)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.long), 0.25])
def test_the_mean_of_the_best_checkpoints_is_evaluated_and_exported(
    tiny_colbert: Path, tmp_path: Path, share: float
) -> None:
    values = {"average_checkpoints": 2, "eval_every": 1, "keep_checkpoints": 1, "keep_initial": share}
    config = make_config(tiny_colbert, tmp_path, "m", **values)
    store = open_store(config.storage_uri)
    exported, ndcg = run_to_the_end(config, tmp_path, halts=(3,))
    assert exported.metrics["nDCG@10"] == pytest.approx(ndcg)
    assert last_record(config) == {
        "step": max(exported.steps),
        **{f"averaged {name}": value for name, value in exported.metrics.items()},
    }
    by_step = {one.step: one.metrics["nDCG@10"] for one in list_checkpoints(store)}
    assert exported.steps == tuple(sorted(by_step, key=lambda step: (-by_step[step], step))[:2])
    tensors = saved_weights(config)
    mean = np.mean([flat(tensors[step], tiny_colbert) for step in exported.steps], axis=0)
    initial = weights(load_encoder(tiny_colbert, device="cpu"))
    assert np.abs(weights(load_encoder(config.out, device="cpu")) - share * initial - (1 - share) * mean).max() < 1e-6
    card = (tmp_path / "m" / "README.md").read_text()
    assert f"the mean of those of steps {min(exported.steps)} and {max(exported.steps)}" in card
    assert is_done(store)
    _, (first, _) = open_average(store)
    (first.open(store) / WEIGHTS).write_bytes(b"")
    assert not is_done(store)
    run = open_run(store, config)
    fit(config, run.work, run.data.open(store), run.collection.open(store), tmp_path / "own", store, lambda _: None)
    mark_done(store)
    assert is_done(store)


@pytest.mark.slow
def test_without_evaluations_the_last_checkpoints_are_averaged(
    tiny_colbert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"average_checkpoints": 3, "held_out": 0, "keep_checkpoints": 1}
    config = make_config(tiny_colbert, tmp_path, "m", **values)
    assert config.outcome() != config.model_copy(update={"save_every": 2}).outcome()
    report = train(config, executor=IN_PROCESS)
    assert (report.averaged_steps, report.metrics) == ((4, 3, 2), {})
    trained(report)
    assert "(mean of steps 2, 3, 4)" in capsys.readouterr().out
    assert not Path(config.storage).exists()
