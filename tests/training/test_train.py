"""`raycol train` as a whole, and what it refuses before the first step."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.training import train
from tests.conftest import write_jsonl
from tests.training.material import fit_here, losses, settings, weights, write_examples


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_examples(tmp_path / "pairs.jsonl")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_train_as_one_does(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    """Gathered, with equal halves of each batch: the same losses, evaluations and, to rounding, the same weights."""
    values = {"held_out": 4, "eval_every": 2, "max_steps": 3}
    alone, history = fit_here(settings(tiny_colbert, pairs, tmp_path / "x", **values), tmp_path / "alone")
    steps: list[tuple] = []
    records: list[dict] = []
    config = settings(tiny_colbert, pairs, tmp_path / "m", num_workers=2, **values)
    interrupts = signal.getsignal(signal.SIGINT)
    report = train(config, lambda *step: steps.append(step), records.append)
    assert signal.getsignal(signal.SIGINT) is interrupts
    assert report.losses == pytest.approx(losses(history), rel=1e-4)
    assert (report.steps, report.examples) == (3, 32)
    told = {entry["step"]: entry["nDCG@10"] for entry in history if "nDCG@10" in entry}
    assert {record["step"]: record["nDCG@10"] for record in records if "nDCG@10" in record} == pytest.approx(told)
    best = max(told, key=lambda step: (told[step], -step))
    assert (report.best_step, report.metrics["nDCG@10"]) == (best, pytest.approx(told[best]))
    assert [step[:2] for step in steps if step[0] == 2]
    if best == 3:
        before, together = load_encoder(tiny_colbert, device="cpu"), load_encoder(tmp_path / "m", device="cpu")
        moved = np.abs(weights(alone) - weights(before)).max()
        assert moved > 1e-4
        assert np.abs(weights(alone) - weights(together)).max() < 0.02 * moved
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "m", "pairs.jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"objective": "cached"},
        {"objective": "contrastive", "gradient_checkpointing": True},
        {"objective": "cached", "dtype": "bfloat16"},
        {"objective": "cached", "lora_rank": 4, "learning_rate": 5e-3},
        {"objective": "distillation", "scoring": "xtr"},
        {"objective": "margin-mse", "scoring": "mean-maxsim"},
    ],
    ids=lambda values: " ".join(map(str, values.values())),
)
def test_training_learns(tiny_colbert: Path, tmp_path: Path, values: dict) -> None:
    scored = values["objective"] in ("distillation", "margin-mse")
    data = write_examples(tmp_path / "data.jsonl", negatives=2, scores=scored)
    if scored:  # a teacher that knows the topics
        records = [json.loads(line) for line in data.read_text().splitlines()]
        write_jsonl(data, [{**record, "scores": [1.0, -1.0, -2.0]} for record in records])
    _, history = fit_here(settings(tiny_colbert, data, tmp_path / "x", max_steps=40, **values), tmp_path / "w")
    assert np.mean(losses(history)[-5:]) < 0.8 * np.mean(losses(history)[:5])


@pytest.mark.slow
def test_the_cached_gradient_does_not_depend_on_the_mini_batch(
    tiny_colbert: Path, pairs: Path, tmp_path: Path
) -> None:
    results = []
    for size in (2, 8):
        config = settings(tiny_colbert, pairs, tmp_path / "x", mini_batch_size=size, max_steps=2)
        results.append(fit_here(config, tmp_path / str(size)))
    (one, one_history), (other, other_history) = results
    assert losses(one_history) == pytest.approx(losses(other_history), rel=1e-5)
    assert np.abs(weights(one) - weights(other)).max() < 1e-5


@pytest.mark.slow
def test_training_stops_early_when_it_gets_no_better(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    values = {"held_out": 6, "eval_every": 1, "patience": 2, "max_steps": 30, "learning_rate": 1e-12}
    _, history = fit_here(settings(tiny_colbert, pairs, tmp_path / "x", **values), tmp_path / "w")
    assert len(losses(history)) == 3


def test_a_folder_that_exists_is_left_alone(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match="already exists"):
        train(settings(tiny_colbert, pairs, tmp_path / "m"))


SCORED = {"query": "rain", "documents": ["wind", "snow"], "scores": [1.0, 2.0]}
PAIR = {"query": "rain", "positive": "wind"}


@pytest.mark.parametrize(
    ("records", "values", "message"),
    [
        ([PAIR] * 20, {"batch_size": 64}, "20 examples to train on, fewer than the batch of 64"),
        ([PAIR] * 20, {"batch_size": 2, "no_duplicates": True}, "only 1 of the examples differ"),
        ([], {}, "no training examples"),
        ([{"query": "rain"}], {}, "line 1.*'positive'"),
        ([PAIR], {"objective": "distillation"}, "line 1: has no teacher scores"),
        ([{**SCORED, "scores": [1.0]}], {"objective": "distillation"}, "line 1"),
        ([{**SCORED, "scores": [1.0, None]}], {"objective": "distillation"}, "line 1"),
        ([{**SCORED, "scores": [1.0, float("nan")]}], {"objective": "margin-mse"}, "line 1"),
        ([{**SCORED, "documents": ["a"], "scores": [1]}], {"objective": "distillation"}, "has one document"),
        ([SCORED] * 9 + [{**SCORED, "documents": ["a"], "scores": [1]}], {"objective": "distillation"}, "line 10"),
        ([PAIR] * 20, {"held_out": 1}, "held_out is 1 and there are 1 queries"),
        ([PAIR] * 20, {"accumulate": 8, "max_steps": 0}, "2 batches of 8 examples make no step of 8"),
        ([PAIR] * 20, {"batch_size": 1}, "without any negative, so that nothing is learned; raise --batch-size"),
        (
            [PAIR] * 20,
            {"batch_size": 2, "num_workers": 2, "gather_across_workers": False},
            "a worker's part of a batch is one query and its positive",
        ),
        ([PAIR] * 20, {"eval_data": Path("gone")}, "gone: no such folder"),
    ],
)
def test_unusable_input_is_said_before_anything_starts(
    tiny_colbert: Path, tmp_path: Path, records: list, values: dict, message: str
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", records)
    with pytest.raises(InputError, match=message):
        train(settings(tiny_colbert, data, tmp_path / "m", **values))
    assert {path.name for path in tmp_path.iterdir()} == {"data.jsonl"}


@pytest.mark.slow
def test_negative_scores_are_scores(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{**SCORED, "scores": [-1.0, -7.5]}] * 8)
    config = settings(tiny_colbert, data, tmp_path / "x", objective="distillation", max_steps=1)
    _, history = fit_here(config, tmp_path / "w")
    assert np.isfinite(losses(history)).all()


def test_examples_that_are_skipped_are_counted(tiny_colbert: Path, tmp_path: Path) -> None:
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
def test_of_epochs_and_steps_what_comes_first_is_the_end(
    tiny_colbert: Path, pairs: Path, tmp_path: Path, values: dict, steps: int
) -> None:
    from raycol.training.prepare import prepare

    for folder in ("d", "c"):
        (tmp_path / folder).mkdir()
    config = settings(tiny_colbert, pairs, tmp_path / "m", **{"max_steps": 0, **values})
    assert prepare(config, tmp_path / "d", tmp_path / "c").steps == steps


def test_workers_get_no_setting_without_effect(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    config = settings(tiny_colbert, pairs, tmp_path / "m")
    assert {"lora_alpha", "eval_split", "xtr_tokens"}.isdisjoint(config.effective())
    assert type(config).model_validate(config.effective()) == config


def test_a_missing_model_is_found_before_anything_starts(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train(settings(tmp_path / "gone", pairs, tmp_path / "m"))


def test_an_unfinished_training_of_other_settings_is_not_gone_on_with(
    tiny_colbert: Path, pairs: Path, tmp_path: Path
) -> None:
    from raycol.storage import open_store
    from raycol.training.run_storage import begin, open_run

    config = settings(tiny_colbert, pairs, tmp_path / "m")
    store = open_store(tmp_path / ".m-training")
    begin(store, config)
    assert open_run(store, config)
    with pytest.raises(InputError, match=r"unfinished training with learning_rate 0.001, not 0.002"):
        train(config.model_copy(update={"learning_rate": 0.002}))
    pairs.write_text(pairs.read_text() + json.dumps(PAIR) + "\n")
    with pytest.raises(InputError, match="data has changed since"):
        train(config)


def test_of_a_storage_only_what_training_kept_is_removed(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    from raycol.storage import open_store
    from raycol.training.run_storage import begin, clear

    (tmp_path / "shared" / "run").mkdir(parents=True)
    (tmp_path / "shared" / "theirs").write_text("theirs")
    for place in ("shared", "new"):
        store = open_store(tmp_path / place)
        begin(store, settings(tiny_colbert, pairs, tmp_path / "m"))
        clear(store)
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {"run", "theirs"}
    assert not (tmp_path / "new").exists()


def test_settings_that_do_not_go_together_are_refused(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    from raycol.training import TrainConfig

    needed = {"model": "m", "data": "d", "out": "o"}
    for values, message in (
        ({"batch_size": 9, "num_workers": 2}, "multiple of num_workers"),
        ({"eval_data": "x", "held_out": 3}, "two ways to evaluate"),
        ({"patience": 1}, "patience is counted in evaluations"),
        ({"objective": "distillation", "n_ways": 1}, "at least 2 documents"),
        ({"objective": "margin-mse", "scoring": "xtr"}, "choose maxsim"),
        ({"normalize_scores": True}, "for the objective distillation"),
        ({"normalize_scores": True, "objective": "margin-mse"}, "for the objective distillation"),
        ({"temperature": 0.5, "objective": "margin-mse"}, "temperature divides scores before a softmax"),
        ({"xtr_tokens": 8}, "for the scoring xtr"),
    ):
        with pytest.raises(InputError, match=message):
            TrainConfig.load(None, {**needed, **values})


def test_a_model_that_cannot_be_opened_is_named_and_nothing_is_left(pairs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="cannot be opened"):
        train(settings(broken, pairs, tmp_path / "m"))
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "pairs.jsonl"}
