"""A resumed training equals an uninterrupted one. Without Ray; with Ray in test_crashes.py."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError, RaycolError
from raycol.storage import open_store
from raycol.training import TrainConfig
from raycol.training.checkpoints import best_checkpoint, list_checkpoints, prune, save_checkpoint
from raycol.training.trainer import StoppedError
from tests.conftest import write_jsonl
from tests.training.material import (
    end_group,
    fit_in_process,
    losses,
    save_collection,
    settings,
    start_group,
    weights,
    write_examples,
)


@pytest.fixture(scope="module")
def with_dropout(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with dropout, so that a step depends on the RNG state."""
    folder = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_colbert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class HaltError(Exception):
    pass


def until(step: int):
    def on_record(record: dict[str, float]) -> None:
        if record["step"] == step:
            raise HaltError

    return on_record


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["cached", pytest.param("contrastive", marks=pytest.mark.long)])
def test_a_resumed_training_ends_with_the_same_weights(with_dropout: Path, tmp_path: Path, objective: str) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    values = {"max_steps": 14, "save_every": 4, "accumulate": 2, "held_out": 4, "eval_every": 6}
    if objective == "contrastive":
        values |= {"temperature": 0.5, "temperature_learning_rate": 0.02}
    config = settings(with_dropout, data, tmp_path / "m", objective=objective, **values)
    encoder, history = fit_in_process(config, tmp_path / "whole", open_store(tmp_path / "a"))
    store = open_store(tmp_path / "b")
    for step in (3, 7, 13):
        with pytest.raises(HaltError):
            fit_in_process(config, tmp_path / "parts", store, until(step))
    again, history_again = fit_in_process(config, tmp_path / "parts", store)
    assert np.array_equal(weights(encoder), weights(again))
    assert losses(history) == losses(history_again)
    assert len(losses(history)) == 14
    logs = (history, history_again)
    temperatures, temperatures_again = ([one.get("temperature") for one in log if "loss" in one] for log in logs)
    assert temperatures == temperatures_again
    if objective == "contrastive":
        assert len(set(temperatures)) > 10
    evaluations = [{name: entry[name] for name in ("step", "nDCG@10") if name in entry} for entry in history]
    assert evaluations == [
        {name: entry[name] for name in ("step", "nDCG@10") if name in entry} for entry in history_again
    ]
    assert [entry["step"] for entry in history if "nDCG@10" in entry] == [0, 6, 12, 14]


def fit_until(config: TrainConfig, folder: Path, step: int, rank: int) -> None:
    """Train as one of several workers, and stop after a step, or at the end."""
    work = partial(fit_in_process, config, folder / f"{config.num_workers}-{rank}", open_store(folder / "store"))
    if step:
        with pytest.raises(HaltError):
            work(until(step))
    elif rank == 0:
        (folder / "losses.json").write_text(json.dumps(losses(work()[1])))
    else:
        work()


@pytest.mark.slow
def test_other_numbers_of_workers_resume_a_training(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl", negatives=3)
    values = {"batch_size": 12, "max_steps": 9, "save_every": 1, "n_ways": 2, "sample_negatives": True}
    config = settings(tiny_colbert, data, tmp_path / "m", **values)
    _, history = fit_in_process(config, tmp_path / "whole")
    for n, step in ((4, 3), (2, 6), (3, 0)):
        shared = config.model_copy(update={"num_workers": n})
        assert shared.outcome() == config.outcome()
        work = [partial(fit_until, shared, tmp_path, step, rank) for rank in range(n)]
        end_group(start_group(work, tmp_path / f"group-{n}"))
    assert [saved.step for saved in list_checkpoints(open_store(tmp_path / "store"))] == [8, 9]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses(history), rel=1e-4)


@pytest.mark.slow
def test_evaluations_do_not_change_the_weights(with_dropout: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    trained = []
    for name, values in (
        ("seen", {"eval_data": [save_collection(tmp_path / "beir", "dev")], "eval_every": 2}),
        ("blind", {}),
    ):
        config = settings(with_dropout, data, tmp_path / "m", max_steps=4, **values)
        trained.append(fit_in_process(config, tmp_path / name))
    (seen, history), (blind, _) = trained
    assert [entry["step"] for entry in history if "nDCG@10" in entry] == [0, 2, 4]
    assert np.array_equal(weights(seen), weights(blind))


@pytest.fixture
def broken(tiny_colbert: Path, tmp_path: Path) -> Path:
    """A model in which the word `violin` has a NaN embedding."""
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_colbert, model)
    words = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name][words["violin"]] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    return model


def with_violin(folder: Path, **kind) -> Path:
    """Twenty-four examples without the word `violin`, then one with it."""
    records = [json.loads(line) for line in write_examples(folder / "all.jsonl", 64, **kind).read_text().splitlines()]
    clean = [record for record in records if "violin" not in json.dumps(record)]
    return write_jsonl(folder / "data.jsonl", [*clean[:24], clean[0] | {"query": "violin"}])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_names_the_examples_and_the_last_checkpoint(broken: Path, tmp_path: Path) -> None:
    model, data = broken, with_violin(tmp_path)
    config = settings(model, data, tmp_path / "m", max_steps=9, save_every=1, batch_size=4)
    with pytest.raises(RaycolError) as caught:
        fit_in_process(config, tmp_path / "work", open_store(tmp_path / "store"))
    message = str(caught.value)
    assert f"{data}, line 25" in message
    step = int(message.partition("step ")[2].partition(":")[0])
    last = list_checkpoints(open_store(tmp_path / "store"))[-1].step if step > 1 else 0
    assert last == step - 1
    assert ("none yet" if step == 1 else f"last good checkpoint: step {last} (checkpoints/") in message


def stopped(config: TrainConfig, folder: Path, rank: int) -> None:
    with pytest.raises(StoppedError) as caught:
        fit_in_process(config, folder / f"{rank}")
    (folder / f"{rank}.txt").write_text(str(caught.value))


@pytest.mark.slow
def test_all_workers_stop_if_the_loss_of_one_is_not_finite(broken: Path, tmp_path: Path) -> None:
    """With distillation the workers have different losses; all report the examples of the failed worker."""
    data = with_violin(tmp_path, negatives=1, scores=True)
    values = {"objective": "distillation", "max_steps": 12, "batch_size": 4, "num_workers": 2}
    config = settings(broken, data, tmp_path / "m", **values)
    end_group(start_group([partial(stopped, config, tmp_path, rank) for rank in range(2)], tmp_path / "group"))
    one, other = ((tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    assert one == other
    assert f"{data}, line 25" in one
    # The failed worker's half of a batch of four.
    assert one.count(", line ") == 2


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_refused(
    tiny_colbert: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    store = open_store(tmp_path / "store")
    fit_in_process(settings(tiny_colbert, data, tmp_path / "m", max_steps=2), tmp_path / "a", store)
    other = settings(tiny_backbone, data, tmp_path / "m", max_steps=3, embedding_size=24)
    with pytest.raises(InputError, match=r"another architecture: .* is of shape"):
        fit_in_process(other, tmp_path / "b", store)


def test_checkpoints_are_saved_atomically_and_pruned(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for step in range(1, 6):
        metrics = {"nDCG@10": (0.1, 0.9, 0.3, 0.9, 0.2)[step - 1]}
        save_checkpoint(store, step, metrics, lambda folder, step=step: (folder / "a").write_text(f"{step}") and None)
    checkpoints = list_checkpoints(store)
    assert [saved.step for saved in checkpoints] == [1, 2, 3, 4, 5]
    assert best_checkpoint(checkpoints, "nDCG@10") == checkpoints[1]
    assert best_checkpoint(checkpoints, "other") is None
    prune(store, 2, "nDCG@10")
    assert [saved.step for saved in list_checkpoints(store)] == [2, 4, 5]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 6
    (tmp_path / checkpoints[4].folder / "a").unlink()
    (tmp_path / "checkpoints/00000004.json").write_text('{"step": 4')
    assert [saved.step for saved in list_checkpoints(store)] == [2]

    def fail(folder: Path) -> None:
        (folder / "a").write_text("x")
        raise OSError("disk full")

    with pytest.raises(RaycolError, match="disk full"):
        save_checkpoint(store, 9, {}, fail)
    assert [saved.step for saved in list_checkpoints(store)] == [2]
    assert not [path for path in tmp_path.iterdir() if path.name != "checkpoints"]
