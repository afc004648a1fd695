"""A training that mines its own negatives: its rounds, and resuming from any point of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raycol.distributed.executor import IN_PROCESS, ON_RAY
from raycol.errors import InputError
from raycol.models.encoder import load_encoder
from raycol.training import TrainConfig, train
from raycol.training.dataset import TrainingSet
from tests.conftest import make_passages, write_jsonl
from tests.training.material import settings, weights, write_examples


class HaltError(Exception):
    pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"remine": {"corpus": "c"}}, "remine has no effect"),
        ({"remine_every": 5}, "remine_every needs the corpus"),
        ({"remine_every": 5, "remine": "corpus=c,out=x"}, "remine has out, which the training sets"),
        ({"remine_every": 5, "remine": "corpus=c,negative=3"}, "remine.negative: Extra inputs"),
        ({"remine_every": 5, "remine": "corpus=c,negatives=200"}, "200 negatives from 100 ranks"),
        ({"remine_every": 5, "remine": "corpus=c", "data": ["a", "b"]}, "for a single source"),
        ({"remine_every": 5, "remine": "corpus=c", "data": [{"path": "a", "query_prompt": "q"}]}, "query_prompt"),
        ({"remine_every": 5, "remine": "corpus=c", "objective": "distillation"}, "without teacher scores"),
        ({"remine_every": 5, "remine": "corpus=c", "held_out": 5, "patience": 1}, "does not go with patience"),
    ],
)
def test_wrong_settings(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"model": "m", "data": "d", "out": "o", **values})


@pytest.fixture
def config_of(tiny_colbert: Path, tmp_path: Path) -> Callable[[str], TrainConfig]:
    data = write_examples(tmp_path / "pairs.jsonl", 24, negatives=1)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_passages(40))
    remine = {"corpus": str(corpus), "negatives": 2}
    values = {"max_steps": 7, "remine_every": 3, "remine": remine, "save_every": 2, "held_out": 4, "eval_every": 4}
    return lambda name: settings(tiny_colbert, data, tmp_path / name / "model", **values)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [("sampling", 7), pytest.param((2, "0 of 1 parts", 4, 7), marks=pytest.mark.long)])
def test_a_training_with_rounds_of_mining_is_resumed_from_anywhere(
    config_of: Callable[[str], TrainConfig], tmp_path: Path, stops: tuple[int | str, ...]
) -> None:
    whole = train(config_of("whole"), executor=IN_PROCESS)
    assert whole.steps == 7
    config, storage = config_of("halted"), tmp_path / "halted" / ".model-training"
    sets = {}
    for stop in stops:
        with pytest.raises(HaltError):
            train(config, *halting_at(stop), executor=IN_PROCESS)
        for folder in storage.glob("rounds/*/data"):
            if (folder.parent / "round.json").exists():
                sets.setdefault(folder.parent.name, [TrainingSet(str(folder))[n] for n in range(24)])
                assert sorted(path.name for path in folder.parent.iterdir()) == ["data", "round.json"]
    resumed = train(config, executor=IN_PROCESS)
    assert resumed.losses == whole.losses
    assert resumed.metrics == whole.metrics
    trained = [load_encoder(one.model, device="cpu") for one in (whole, resumed)]
    assert np.array_equal(*map(weights, trained))
    # Both rounds have the queries of the data, with negatives from the corpus.
    assert sorted(sets) == ["1", "2"]
    passages = {f"{one['title']} {one['text']}" for one in make_passages(40)}
    queries = [json.loads(line)["query"] for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for rows in sets.values():
        assert [row.query for row in rows] == queries
        assert {text for row in rows for text in row.documents[1:]} <= passages
    assert sets["1"] != sets["2"]


@pytest.mark.slow
@pytest.mark.long
def test_mining_beside_training(config_of: Callable[[str], TrainConfig]) -> None:
    """Negatives are used a round later, training does not mine, and a resumed training equals an undisturbed one."""
    values = {"remine_every": 2, "remine_in_background": True}
    whole, halted = (config_of(name).model_copy(update=values) for name in ("whole", "halted"))
    said: list[str] = []
    undisturbed = train(whole, lambda done, total, message: said.append(message), executor=IN_PROCESS)
    assert not [message for message in said if message.startswith(("sampling", "0 of 1 parts"))]
    for stop in (1, 3, 4, 7):
        with pytest.raises(HaltError):
            train(halted, *halting_at(stop), executor=IN_PROCESS)
    resumed = train(halted, executor=IN_PROCESS)
    assert resumed.losses == undisturbed.losses
    assert np.array_equal(*(weights(load_encoder(one.model, device="cpu")) for one in (resumed, undisturbed)))
    waiting = train(config_of("waiting").model_copy(update={"remine_every": 2}), executor=IN_PROCESS)
    assert [one == two for one, two in zip(waiting.losses, resumed.losses, strict=True)] == [True] * 2 + [False] * 5


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_train_while_another_process_mines(config_of: Callable[[str], TrainConfig]) -> None:
    values = {"remine_every": 2, "remine_in_background": True}
    one = train(config_of("one").model_copy(update=values), executor=IN_PROCESS)
    said: list[str] = []
    config = config_of("two").model_copy(update={**values, "num_workers": 2})
    two = train(config, lambda done, total, message: said.append(message), executor=ON_RAY)
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    assert not [message for message in said if message.startswith(("sampling", "0 of 1 parts"))]


def halting_at(stop: int | str) -> tuple[Callable, Callable]:
    """Callbacks of `train` that halt it at the record of a step, or at a report of progress."""

    def report(done: float, total: float | None, message: str) -> None:
        if isinstance(stop, str) and message.startswith(stop):
            raise HaltError

    def on_record(record: dict) -> None:
        if not isinstance(stop, str) and record["step"] >= stop:
            raise HaltError

    return report, on_record


def test_remining_needs_steps_behind_it(config_of: Callable[[str], TrainConfig]) -> None:
    for values, first in (({"remine_every": 7}, 7), ({"remine_every": 4, "remine_in_background": True}, 8)):
        with pytest.raises(InputError, match=rf"has only 7 steps, and .* from step {first} on; lower it"):
            train(config_of("short").model_copy(update=values), executor=IN_PROCESS)
