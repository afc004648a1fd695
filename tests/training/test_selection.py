"""Evaluation during training: before the first step, on which split, on several collections, by which metric."""

from pathlib import Path

import numpy as np
import pytest

from raycol.core.arguments import as_options
from raycol.data.collections import find_collections
from raycol.display import trained
from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError
from raycol.training import TrainConfig, train
from raycol.training.evaluation import selection_split
from raycol.training.launch import TrainReport
from tests.data.test_collections import save_hub
from tests.training.material import save_collection, settings, write_examples


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["test", "train", "dev", "validation"], "dev"),
        (["validation", "test", "other"], "validation"),
        (["train", "test", "val"], "val"),
        ([""], ""),
        ([], None),
    ],
)
def test_a_model_is_selected_on_dev_or_validation(splits: list[str], chosen: str | None) -> None:
    assert selection_split("x", splits) == chosen


@pytest.mark.parametrize(
    ("splits", "problem"),
    [
        (["test"], "has no split to select a model by, only test"),
        (["train", "test"], "has no split to select a model by, only test and train"),
        (["test", "a", "b"], "choose a split to select a model by, with `eval_split=`: a, b, test"),
    ],
)
def test_test_is_never_chosen(tmp_path: Path, splits: list[str], problem: str) -> None:
    folder = save_collection(tmp_path / "some", *splits)
    rows = [{"query-id": "q0", "corpus-id": "d", "score": 1}]
    hub = save_hub(tmp_path / "hub", {"corpus": {"x": rows}, "default": dict.fromkeys(splits, rows)})
    for name in (str(folder), hub):
        with pytest.raises(InputError) as error:
            find_collections(name, choose=selection_split)
        assert problem in str(error.value)
        assert "\n" not in str(error.value)
    if "only" in problem:
        assert "--held-out" in as_options(str(error.value))
        assert "--eval-split test" in as_options(str(error.value))


@pytest.mark.slow
def test_training_is_selected_on_several_collections_by_any_metric(
    tiny_colbert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    folders = [
        save_collection(tmp_path / "one", "dev", "test"),
        save_collection(tmp_path / "two", "test", "validation", first=12),
    ]
    values = {"eval_data": [*map(str, folders)], "eval_metric": "MAP", "eval_every": 6, "max_steps": 18}
    records: list[dict[str, float]] = []
    config = settings(tiny_colbert, data, tmp_path / "m", **values)
    report = train(config, on_record=records.append, executor=IN_PROCESS)
    evaluations = {record["step"]: record for record in records if "AP" in record}
    assert [*evaluations] == [0, 6, 12, 18]
    names = ("one (dev)", "two (validation)")
    assert (report.collections, report.eval_metric) == (names, "AP")
    for record in evaluations.values():
        for metric in ("AP", "nDCG@10", "R@10"):
            assert record[metric] == pytest.approx(np.mean([record[f"{metric} {name}"] for name in names]))
    by_step = {step: record["AP"] for step, record in evaluations.items()}
    assert report.untrained["AP"] == by_step.pop(0)
    assert report.best_step == max(by_step, key=lambda step: (by_step[step], -step))
    assert report.metrics == {name: evaluations[report.best_step][name] for name in report.metrics}
    assert report.improved == (report.metrics["AP"] > report.untrained["AP"])
    assert [*report.selection] == [*names, "average"]
    assert report.selection["average"] == (report.untrained["AP"], report.metrics["AP"])
    trained(report)
    before, after = report.selection["one (dev)"]
    assert f"one (dev): AP {before:.4f} -> {after:.4f}" in capsys.readouterr().out
    card = (tmp_path / "m" / "README.md").read_text()
    assert f"| two (validation) | AP | {report.untrained['AP two (validation)']:.4f} |" in card
    assert "scored best in AP on average over 2 collections" in card


def test_a_training_that_made_the_model_worse_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    scores = {"metrics": {"nDCG@10": 0.9565}, "untrained": {"nDCG@10": 0.9598}, "collections": ("x (dev)",)}
    report = TrainReport("m", 8, [1.0, 2.0], best_step=2, seconds=1.0, **scores)
    assert report.improved is False
    assert "improved=False" in repr(report)
    trained(report)
    _, selection, verdict = capsys.readouterr().out.splitlines()
    assert selection == "x (dev): nDCG@10 0.9598 -> 0.9565"
    assert verdict == "no step has a better nDCG@10 than the untrained model; the best step was kept"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval_metric": "ndcg@10", "held_out": 2}, "eval_metric is 'ndcg@10': no such metric; did you mean nDCG@10"),
        ({"eval_metric": "AP"}, "eval_metric has no effect: there is no evaluation"),
    ],
)
def test_unusable_settings(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig.load(overrides={"model": "m", "data": "d", "out": "o", **values})


def test_two_collections_of_one_name_are_refused(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl")
    folders = [str(save_collection(tmp_path / parent / "same", "dev")) for parent in ("a", "b")]
    with pytest.raises(InputError, match="eval_data: there are two collections 'same'; name each once"):
        train(settings(tiny_colbert, data, tmp_path / "m", eval_data=folders), executor=IN_PROCESS)
