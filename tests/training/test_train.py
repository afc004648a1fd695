"""End-to-end tests of `raycol train`, and the errors it raises before the first step."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from raycol.distributed.executor import IN_PROCESS, ON_RAY
from raycol.errors import InputError, RaycolError
from raycol.models.encoder import load_encoder
from raycol.training import train
from raycol.training.worker import new_encoder
from tests.conftest import write_jsonl
from tests.training.material import Hinge, fit_in_process, losses, settings, weights, write_examples
from tests.training.test_preparation import config_of, contents


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "pairs.jsonl")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_match_a_single_worker(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    """Losses and evaluations are equal, and the weights up to rounding."""
    values = {"held_out": 4, "eval_every": 2, "max_steps": 3}
    alone, history = fit_in_process(settings(tiny_colbert, pairs, tmp_path / "x", **values), tmp_path / "alone")
    steps: list[tuple] = []
    records: list[dict] = []
    config = settings(tiny_colbert, pairs, tmp_path / "m", num_workers=2, **values)
    sigint_handler = signal.getsignal(signal.SIGINT)
    report = train(config, lambda *step: steps.append(step), records.append)
    assert signal.getsignal(signal.SIGINT) is sigint_handler
    assert report.losses == pytest.approx(losses(history), rel=1e-4)
    assert (report.steps, report.examples) == (3, 32)
    ndcg_by_step = {entry["step"]: entry["nDCG@10"] for entry in history if "nDCG@10" in entry}
    recorded = {record["step"]: record["nDCG@10"] for record in records if "nDCG@10" in record}
    assert recorded == pytest.approx(ndcg_by_step)
    assert report.untrained["nDCG@10"] == pytest.approx(ndcg_by_step.pop(0))
    best = max(ndcg_by_step, key=lambda step: (ndcg_by_step[step], -step))
    assert (report.best_step, report.metrics["nDCG@10"]) == (best, pytest.approx(ndcg_by_step[best]))
    assert [step[:2] for step in steps if step[0] == 2]
    if best == 3:
        before, together = load_encoder(tiny_colbert, device="cpu"), load_encoder(tmp_path / "m", device="cpu")
        moved = np.abs(weights(alone) - weights(before)).max()
        assert moved > 1e-4
        assert np.abs(weights(alone) - weights(together)).max() < 0.02 * moved
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "m", "pairs.jsonl"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_a_worker_arrives_unchanged(
    tiny_colbert: Path, pairs: Path, tmp_path: Path, num_workers: int
) -> None:
    """One of several workers cannot end the training alone: Ray starts all of them again."""
    from raycol.storage import open_store
    from raycol.training.run_storage import prepare_run

    config = settings(tiny_colbert, pairs, tmp_path / "m", num_workers=num_workers)
    prepare_run(open_store(tmp_path / ".m-training"), config)
    largest = max((tmp_path / ".m-training" / "data").glob("*/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    message = r"^.*\.m-training: the training's storage is damaged .*train again$"
    with pytest.raises(RaycolError, match=message) as failed:
        train(config)
    assert type(failed.value) is RaycolError


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"objective": "cached"},
        {"objective": "contrastive", "gradient_checkpointing": True},
        {"objective": "cached", "dtype": "bfloat16"},
        {"objective": "cached", "lora_rank": 4, "learning_rate": 2e-2},
        {"objective": "distillation", "scoring": "xtr"},
        {"objective": "margin-mse", "scoring": "mean-maxsim"},
        {"objective": Hinge(), "max_steps": 8},
    ],
    ids=lambda values: " ".join(map(str, values.values())),
)
def test_the_loss_decreases(tiny_colbert: Path, tmp_path: Path, values: dict) -> None:
    scored = values["objective"] in ("distillation", "margin-mse")
    data = write_examples(tmp_path / "data.jsonl", negatives=2, scores=scored)
    if scored:  # a teacher that knows the topics
        records = [json.loads(line) for line in data.read_text().splitlines()]
        write_jsonl(data, [{**record, "scores": [1.0, -1.0, -2.0]} for record in records])
    values = {"learning_rate": 4e-3, "max_steps": 18, **values}
    _, history = fit_in_process(settings(tiny_colbert, data, tmp_path / "x", **values), tmp_path / "w")
    assert np.mean(losses(history)[-4:]) < 0.8 * np.mean(losses(history)[:4])


@pytest.mark.slow
def test_the_cached_gradient_does_not_depend_on_the_mini_batch(
    tiny_colbert: Path, pairs: Path, tmp_path: Path
) -> None:
    results = []
    for number, size in enumerate(
        (
            {"mini_batch_size": 2},
            {"mini_batch_size": 8},
            {"mini_batch_tokens": 24},
            {"mini_batch_size": 2, "activation_tokens": 75},
        )
    ):
        config = settings(tiny_colbert, pairs, tmp_path / "x", max_steps=2, **size)
        results.append(fit_in_process(config, tmp_path / str(number)))
    (one, one_history), *others = results
    for other, other_history in others:
        assert losses(one_history) == pytest.approx(losses(other_history), rel=1e-5)
        assert np.abs(weights(one) - weights(other)).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "masked"),
    [
        ({"symmetric": True}, 16),
        ({"contrastive_weight": 0.5}, 8),
        ({"mask_margin": 9.0}, 8),
        ({"guide": "tiny", "mask_margin": -9.0}, 7 * 8),
    ],
)
def test_masked_pairs_are_recorded(tiny_colbert: Path, tmp_path: Path, values: dict, masked: int) -> None:
    scored = "contrastive_weight" in values
    path = write_examples(tmp_path / "data.jsonl", 8, negatives=1 if scored else 0)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record, other in zip(records[4:], records, strict=False):
        record["positive"] = other["positive"]
    if scored:
        records = [
            {"query": one["query"], "documents": [*one["negatives"], one["positive"]], "scores": [0.0, 1.0]}
            for one in records
        ]
        values = {**values, "objective": "distillation"}
    if "guide" in values:
        values = {**values, "guide": str(tiny_colbert)}
    write_jsonl(path, records)
    _, history = fit_in_process(settings(tiny_colbert, path, tmp_path / "x", max_steps=1, **values), tmp_path / "w")
    assert [one["masked_pairs"] for one in history if "loss" in one] == [masked]


def test_matryoshka_sizes_are_below_the_models(tiny_colbert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`matryoshka=\[4, 512\]`: .* expected fewer than that instead of 512"):
        new_encoder(settings(tiny_colbert, tmp_path / "d", tmp_path / "x", matryoshka=(4, 512)), "cpu")


@pytest.mark.slow
def test_early_stopping(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    values = {"held_out": 6, "eval_every": 1, "patience": 2, "max_steps": 30, "learning_rate": 1e-12}
    _, history = fit_in_process(settings(tiny_colbert, pairs, tmp_path / "x", **values), tmp_path / "w")
    assert len(losses(history)) == 3


def test_an_existing_out_folder_is_refused(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match="already exists"):
        train(settings(tiny_colbert, pairs, tmp_path / "m"))


SCORED = {"query": "rain", "documents": ["wind", "snow"], "scores": [1.0, 2.0]}
PAIR = {"query": "rain", "positive": "wind"}


@pytest.mark.parametrize(
    ("records", "values", "message"),
    [
        ([PAIR] * 20, {"batch_size": 64}, "20 examples to train on, fewer than `batch_size=64`"),
        ([PAIR] * 20, {"batch_size": 2, "allow_duplicates": False}, "only 1 examples differ"),
        ([], {}, "no training examples"),
        ([{"query": "rain"}], {}, "line 1.*'positive'"),
        ([PAIR], {"objective": "distillation"}, "line 1: has no teacher scores"),
        ([{**SCORED, "scores": [1.0]}], {"objective": "distillation"}, "line 1"),
        ([{**SCORED, "scores": [1.0, None]}], {"objective": "distillation"}, "line 1"),
        ([{**SCORED, "scores": [1.0, float("nan")]}], {"objective": "margin-mse"}, "line 1"),
        ([{**SCORED, "documents": ["a"], "scores": [1]}], {"objective": "distillation"}, "has one document"),
        ([SCORED] * 9 + [{**SCORED, "documents": ["a"], "scores": [1]}], {"objective": "distillation"}, "line 10"),
        ([PAIR] * 20, {"held_out": 1}, "held_out is 1, but there are only 1 queries"),
        ([PAIR] * 20, {"accumulate": 8, "max_steps": 0}, "`accumulate=8`: the data has only 2 batches of 8 examples"),
        (
            [PAIR] * 20,
            {"average_checkpoints": 2},
            "3 steps have 1 checkpoints with `save_every=50`; lower one of them",
        ),
        ([PAIR] * 20, {"batch_size": 1}, "without negatives, so its loss is always 0; raise `batch_size=`"),
        (
            [PAIR] * 20,
            {"batch_size": 2, "num_workers": 2, "gather_across_workers": False},
            "a worker's share of a batch is one query and its positive",
        ),
        ([PAIR] * 20, {"eval_data": Path("missing")}, "missing: no such folder"),
    ],
)
def test_unusable_input_raises_before_training(
    tiny_colbert: Path, tmp_path: Path, records: list, values: dict, message: str
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", records)
    with pytest.raises(InputError, match=message):
        train(settings(tiny_colbert, data, tmp_path / "m", **values))
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl"}


@pytest.mark.slow
def test_distillation_accepts_negative_scores(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{**SCORED, "scores": [-1.0, -7.5]}] * 8)
    config = settings(tiny_colbert, data, tmp_path / "x", objective="distillation", max_steps=1)
    _, history = fit_in_process(config, tmp_path / "w")
    assert np.isfinite(losses(history)).all()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_ray_writes_the_same_training_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raycol.training import preparation, reading

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reading, "_PART", 3000)
    monkeypatch.setattr(preparation, "_SHARD", 6000)
    config = config_of(Path(), 300)
    for name, executor in (("here", IN_PROCESS), ("ray", ON_RAY)):
        preparation.write_training_set(config, name, executor)
    assert len(contents(Path("here"))) > 6
    assert contents(Path("here")) == contents(Path("ray"))


def test_skipped_examples_are_counted(tiny_colbert: Path, tmp_path: Path) -> None:
    from raycol.training.prepare import prepare

    lines = ["oops", *[json.dumps({**SCORED, "query": f"rain {n}"}) for n in range(9)], json.dumps(PAIR)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    for folder in ("d", "c"):
        (tmp_path / folder).mkdir()
    config = settings(tiny_colbert, data, tmp_path / "m", objective="distillation", on_error="skip")
    (source,) = prepare(config, tmp_path / "d", tmp_path / "c").sources
    assert (source.examples, source.skipped, source.n_ways) == (9, 2, 2)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, 4),
        ({"epochs": 2}, 8),
        ({"max_steps": 30}, 30),
        ({"epochs": 2, "max_steps": 30}, 8),
        ({"epochs": 2, "max_steps": 5}, 5),
    ],
)
def test_training_ends_at_the_earlier_of_epochs_and_max_steps(
    tiny_colbert: Path, pairs: Path, tmp_path: Path, values: dict, steps: int
) -> None:
    from raycol.training.prepare import prepare

    for folder in ("d", "c"):
        (tmp_path / folder).mkdir()
    config = settings(tiny_colbert, pairs, tmp_path / "m", **{"max_steps": 0, **values})
    assert prepare(config, tmp_path / "d", tmp_path / "c").steps == steps


def test_effective_settings_exclude_those_without_effect(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, pairs, tmp_path / "m")
    assert {"lora_alpha", "eval_split", "xtr_tokens"}.isdisjoint(config.effective())
    assert type(config).model_validate(config.effective()) == config


def test_a_missing_model_raises_before_training(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train(settings(tmp_path / "missing", pairs, tmp_path / "m"))


def test_an_unfinished_training_is_not_resumed_with_other_settings_or_data(
    tiny_colbert: Path, pairs: Path, tmp_path: Path
) -> None:
    from raycol.storage import open_store
    from raycol.training.run_storage import open_run, prepare_run

    config = settings(tiny_colbert, pairs, tmp_path / "m")
    store = open_store(tmp_path / ".m-training")
    prepare_run(store, config)
    assert open_run(store, config)
    with pytest.raises(InputError, match=r"differs in learning_rate \(0.001 there, 0.002 here\)"):
        train(config.model_copy(update={"learning_rate": 0.002}))
    with pytest.raises(InputError, match=r"differs in objective \(cached there, hinge, margin 0.5 here\)"):
        train(config.model_copy(update={"objective": Hinge()}))
    pairs.write_text(pairs.read_text() + json.dumps(PAIR) + "\n")
    with pytest.raises(InputError, match="data has changed"):
        train(config)


def test_only_the_training_is_removed_from_a_shared_folder(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    from raycol.storage import open_store
    from raycol.training.run_storage import prepare_run, remove_run

    (tmp_path / "shared" / "run").mkdir(parents=True)
    (tmp_path / "shared" / "foreign").write_text("foreign")
    for folder in ("shared", "new"):
        store = open_store(tmp_path / folder)
        prepare_run(store, settings(tiny_colbert, pairs, tmp_path / "m"))
        remove_run(store)
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"run", "foreign"}
    assert not (tmp_path / "new").exists()


def test_conflicting_settings_are_refused(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    from raycol.training import TrainConfig

    required = {"model": "m", "data": "d", "out": "o"}
    for values, message in (
        ({"batch_size": 9, "num_workers": 2}, "multiple of num_workers"),
        ({"eval_data": "x", "held_out": 3}, "eval_data and held_out are alternatives"),
        ({"patience": 1}, "patience needs evaluations"),
        ({"objective": "distillation", "n_ways": 1}, "at least 2 documents"),
        ({"objective": "margin-mse", "scoring": "xtr"}, "choose maxsim"),
        ({"normalize_scores": True}, "apply to objective distillation only"),
        ({"normalize_scores": True, "objective": "margin-mse"}, "apply to objective distillation only"),
        ({"temperature": 0.5, "objective": "margin-mse"}, "margin-mse has no softmax"),
        ({"temperature": 0.5, "objective": Hinge()}, "hinge, margin 0.5 has no softmax"),
        (
            {"objective": "hinge"},
            "objective is 'hinge': input should be 'cached', .* or 'margin-mse'",
        ),
        ({"objective": Hinge}, "input should be a name, or a Loss"),
        ({"xtr_tokens": 8}, "applies to scoring xtr only"),
        ({"mixing": "examples"}, "mixes several sources"),
        ({"mixing": "round-robin", "data": [{"path": "a", "weight": 2}, "b"]}, r"leave out data\[0\].weight"),
        ({"mixing": "round-robin", "mixing_temperature": 2, "data": ["a", "b"]}, "round-robin has no weights"),
        ({"symmetric": True, "objective": "lambda-loss"}, "variant of contrastive, not of lambda-loss"),
        ({"mask_margin": 0.1, "objective": "margin-mse"}, "margin-mse has no in-batch negatives"),
        ({"mask_margin": -0.1}, "mask_margin is -0.1; without a guide it must be 0 or more"),
        ({"guide": "a", "objective": "distillation"}, "distillation has no in-batch negatives"),
        ({"pool_factor": 2, "matryoshka": [4]}, "pool_factor pools whole embeddings, matryoshka cuts them"),
        (
            {"temperature_learning_rate": 0.1, "objective": "distillation"},
            "variant of contrastive, not of distillation",
        ),
        ({"temperature_learning_rate": 0.1, "temperature": 0.001}, "a trained one is at least 0.01"),
        ({"contrastive_weight": 0.1}, "it applies to distillation, lambda-loss and margin-mse"),
        ({"grad_cache": True, "objective": "contrastive"}, "objective cached is contrastive with GradCache"),
        ({"matryoshka": [0]}, "matryoshka"),
        ({"average_checkpoints": 2, "lora_rank": 4}, "average_checkpoints averages full weights, lora_rank trains"),
        ({"average_checkpoints": 2, "ema_decay": 0.9}, "ema_decay and average_checkpoints both average"),
        ({"average_checkpoints": 1}, "average_checkpoints"),
    ):
        with pytest.raises(InputError, match=message):
            TrainConfig.load(None, {**required, **values})


def test_an_unreadable_model_raises_and_leaves_no_files(pairs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="cannot be opened"):
        train(settings(broken, pairs, tmp_path / "m"))
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "pairs.jsonl"}
