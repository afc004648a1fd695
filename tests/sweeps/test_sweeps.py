"""`raycol sweep`: sampled trainings, their records, the best model."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

import raycol
from raycol.core.progress import no_report
from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.storage import open_store
from raycol.sweeps.picture import draw
from raycol.sweeps.recipe import SweepRecipe, trainings_of, with_absolute_inputs
from raycol.sweeps.result import SweepResult, Trial
from raycol.sweeps.run import share_training_set
from raycol.sweeps.trial import read_trial, run_trial
from raycol.training import TrainConfig
from tests.training.material import write_examples

RANGES = {
    "learning_rate": {"from": 1e-6, "to": 1e-4, "log": True},
    "warmup": {"from": 0, "to": 0.5},
    "freeze_layers": {"from": 0, "to": 2},
    "batch_size": {"from": 8, "to": 512, "log": True},
    "schedule": ["linear", "cosine"],
}


def write_recipe(path: Path, model: Path, ranges: dict, **train) -> Path:
    data = write_examples(path.parent / "pairs.jsonl")
    settings = {"model": str(model), "data": str(data), "held_out": 8, "eval_every": 1, "max_steps": 4,
                "batch_size": 8, "mini_batch_size": 4, "allow_duplicates": True, **train}  # fmt: skip
    path.write_text(yaml.safe_dump({"train": settings, "ranges": ranges}))
    return path


def test_trials_find_files_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "guide", "collection"):
        (tmp_path / name).mkdir()
    train = {"model": "model", "guide": "guide", "data": "pairs.jsonl",
             "eval_data": ["collection", "nanobeir"], "prepared": "set", "remine_every": 5,
             "remine": {"corpus": "corpus.jsonl"}}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps({"train": train, "ranges": {"seed": [1]}}))
    monkeypatch.chdir(tmp_path)
    ((_, config),) = trainings_of(Path("recipe.yaml"), 0, 1, tmp_path / "trials")
    config = with_absolute_inputs(config)
    monkeypatch.chdir("/")
    inputs = {"model": config.model, "guide": config.guide, "set": config.prepared,
              "pairs.jsonl": config.data[0].path, "collection": config.eval_data[0],
              "corpus.jsonl": config.remine["corpus"]}  # fmt: skip
    assert inputs == {name: str(tmp_path / name) for name in inputs}
    assert config.eval_data[1] == "nanobeir"


def test_settings_are_sampled_in_their_ranges() -> None:
    recipe = SweepRecipe(train={}, ranges=RANGES)
    sampled = [recipe.sample(3, number) for number in range(200)]
    assert sampled == [recipe.sample(3, number) for number in range(200)]
    assert recipe.sample(4, 0) != sampled[0]
    rates = [each["learning_rate"] for each in sampled]
    assert 1e-6 <= min(rates) < 2e-6 < 5e-5 < max(rates) <= 1e-4
    assert 70 < sum(rate < 1e-5 for rate in rates) < 130
    assert {each["freeze_layers"] for each in sampled} == {0, 1, 2}
    assert {each["schedule"] for each in sampled} == {"linear", "cosine"}
    sizes = [each["batch_size"] for each in sampled]
    assert all(isinstance(size, int) and 8 <= size <= 512 for size in sizes)
    assert math.log(64) == pytest.approx(sum(map(math.log, sizes)) / len(sizes), abs=0.3)
    assert all(isinstance(each["warmup"], float) and 0 <= each["warmup"] <= 0.5 for each in sampled)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train": {}}, "'ranges' is missing"),
        ({"train": {}, "ranges": {}}, "ranges is {}: dictionary should have at least 1 item"),
        ({"train": {}, "ranges": {"seed": []}}, "ranges: seed has no values"),
        ({"train": {}, "ranges": {"seed": {"from": 3, "to": 3}}}, "found 3 to 3; expected two numbers"),
        (
            {"train": {}, "ranges": {"seed": {"from": 0, "to": 3, "log": True}}},
            "log: found 0; expected numbers above",
        ),
        ({"train": {"seed": 1}, "ranges": {"seed": [1]}}, "seed is in train and in ranges"),
        ({"train": {"out": "x"}, "ranges": {"seed": [1]}}, "out: the sweep sets it"),
        ({"train": {"num_workers": 2}, "ranges": {"seed": [1]}}, "num_workers: the sweep sets it, with one worker"),
        ({"train": {"model": "m", "data": "d"}, "ranges": {"sed": [1]}}, "unknown key 'sed'; the nearest known key"),
        ({"train": {"model": "m", "data": "d"}, "ranges": {"seed": ["x"]}}, "trial 0 of "),
        ({"train": {"model": "m", "data": "d"}, "ranges": {"seed": [1]}}, "set eval_data or held_out in train"),
    ],
)
def test_recipes_are_checked_before_any_work(tmp_path: Path, recipe: dict, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError) as refused:
        raycol.sweep(path, out=tmp_path / "sweep")
    assert message in str(refused.value)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_trial_reports_and_continues(tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_colbert, {"learning_rate": [1e-3]})
    monkeypatch.chdir(tmp_path)
    ((sampled, config),) = trainings_of(recipe, 0, 1, tmp_path / "trials")
    assert (sampled, config.learning_rate) == ({"learning_rate": 1e-3}, 1e-3)
    prepared = tmp_path / "trials" / "prepared"
    (config,) = share_training_set([config], prepared, no_report)
    written = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}

    class StopError(Exception):
        pass

    def stop(step: int, value: float) -> None:
        if step == 2:
            raise StopError

    # Another trial may open the set, or write it, at the same time.
    with pytest.raises(StopError), open_store(str(prepared)).lock("waiting"):
        run_trial(config, stop)
    assert not (tmp_path / "trials" / "000" / ".model-training" / "data").exists()
    folder = tmp_path / "trials" / "000"
    assert (read_trial(folder).status, read_trial(folder).steps) == ("stopped", [1, 2])
    reported: list[tuple[int, float]] = []
    run_trial(config, lambda *evaluation: reported.append(evaluation))
    record = read_trial(folder)
    assert (record.status, record.steps, record.error) == ("finished", [1, 2, 3, 4], None)
    assert reported == list(zip(record.steps, record.values, strict=True))
    load_encoder(folder / "model", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == written
    again: list[tuple[int, float]] = []
    run_trial(config, lambda *evaluation: again.append(evaluation))
    assert again == reported
    with pytest.raises(InputError, match="a trial with other settings"):
        run_trial(config.model_copy(update={"seed": 9}), stop)
    failing = config.model_copy(update={"out": str(tmp_path / "trials" / "001" / "model"), "held_out": 10_000})
    run_trial(failing, stop)
    assert read_trial(tmp_path / "trials" / "001").status == "failed"


def test_a_training_set_is_shared_only_by_trials_that_have_the_same(tmp_path: Path) -> None:
    data = str(write_examples(tmp_path / "pairs.jsonl"))
    trainings = [TrainConfig(model="m", data=data, out=f"o{n}", n_ways=n, held_out=8) for n in (2, 3)]
    assert share_training_set(trainings, tmp_path / "set", no_report) == trainings
    assert not (tmp_path / "set").exists()
    seeds = [trainings[0].model_copy(update={"seed": seed}) for seed in (1, 2)]
    shared = share_training_set(seeds, tmp_path / "set", no_report)
    assert [(one.seed, one.prepared) for one in shared] == [(seed, str(tmp_path / "set")) for seed in (1, 2)]
    assert share_training_set(shared, tmp_path / "other", no_report) == shared


@pytest.mark.slow
def test_tables_and_pictures() -> None:
    trials = (
        Trial(0, {"learning_rate": 1e-5, "schedule": "linear"}, "stopped", [10], [0.2]),
        Trial(1, {"learning_rate": 1e-3, "schedule": "cosine"}, "finished", [10, 20], [0.3, 0.625], 5.0),
        Trial(2, {"learning_rate": 1e-2, "schedule": "cosine"}, "failed", [], [], None, "the loss is NaN"),
    )
    result = SweepResult("out", "out/model", "nDCG@10", 1, trials)
    assert (result.value, result.settings["schedule"]) == (0.625, "cosine")
    assert result.markdown() == (
        "| trial | learning_rate | schedule | nDCG@10 | steps | status |\n| --- | --- | --- | --- | --- | --- |\n"
        "| 1 | 0.001 | cosine | 0.6250 | 20 | best |\n| 0 | 1e-05 | linear | 0.2000 | 10 | stopped |\n"
        "| 2 | 0.01 | cosine |  |  | failed: the loss is NaN |\n"
    )
    picture = draw(result)
    assert picture == draw(result)
    texts = {element.text for element in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert {"step", "nDCG@10", "learning_rate", "schedule", "cosine"} <= texts


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_a_sweep_on_ray(tiny_colbert: Path, tmp_path: Path) -> None:
    """Four trials, one hopeless; the same command trains nothing, and one more trial is added."""
    rates = [1e-9, 1e-4, 1e-3, 3e-3]
    recipe = write_recipe(tmp_path / "recipe.yaml", tiny_colbert, {"learning_rate": rates, "seed": [1, 2]})
    out = tmp_path / "sweep"
    result = raycol.sweep(recipe, out=out, trials=4, concurrent=2, reduction=2)
    assert len(result.trials) == 4
    assert {trial.status for trial in result.trials} <= {"finished", "stopped"}
    finished = [trial for trial in result.trials if trial.status == "finished"]
    assert all(trial.steps == [1, 2, 3, 4] for trial in finished)
    assert result.value == max(max(trial.values) for trial in finished)
    assert {path.name for path in out.iterdir()} == {"model", "trials", "table.md", "sweep.json", "picture.svg"}
    load_encoder(out / "model", device="cpu")
    saved = json.loads((out / "sweep.json").read_text())
    assert (saved["best"], len(saved["trials"])) == (result.best, 4)
    written = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/done.json")}
    more = raycol.sweep(recipe, out=out, trials=5, concurrent=2, reduction=2)
    assert len(more.trials) == 5
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert more.value >= result.value
    assert (out / "model" / "modules.json").is_file()
    assert (out / "trials" / "prepared" / "prepared.json").is_file()
