import json
from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.models import load_encoder
from raycol.training import TrainConfig, train
from raycol.training.worker import fit
from tests.conftest import TOPICS, write_jsonl


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    records = []
    for number in range(32):
        words = TOPICS[sorted(TOPICS)[number % 4]].split()
        records.append(
            {"query": " ".join(rng.choice(words, 3)), "positive": " ".join(rng.choice(words, rng.integers(4, 9)))}
        )
    return write_jsonl(tmp_path / "pairs.jsonl", records)


def settings(model: Path, pairs: Path, out: Path, **values) -> TrainConfig:
    defaults = {"batch_size": 8, "mini_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "seed": 1}
    return TrainConfig(model=str(model), data=pairs, out=out, **{**defaults, **values})


def weights(encoder) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in encoder.parameters()])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_train_as_one_does(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    """Gathered, with equal halves of each batch: the same losses and, to rounding, the same weights."""
    (tmp_path / "alone").mkdir()
    alone, losses = fit(settings(tiny_colbert, pairs, tmp_path / "x"), tmp_path / "alone", lambda *_: None)
    steps: list[tuple] = []
    report = train(settings(tiny_colbert, pairs, tmp_path / "m", num_workers=2), lambda *step: steps.append(step))
    assert report.losses == pytest.approx(losses, rel=1e-3)
    before, together = load_encoder(tiny_colbert, device="cpu"), load_encoder(tmp_path / "m", device="cpu")
    moved = np.abs(weights(alone) - weights(before)).max()
    assert moved > 1e-4
    assert np.abs(weights(alone) - weights(together)).max() < 0.02 * moved
    assert (report.steps, report.pairs) == (3, 32)
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "m", "pairs.jsonl"}


@pytest.mark.slow
def test_training_learns(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    _, losses = fit(settings(tiny_colbert, pairs, tmp_path / "x", max_steps=40), tmp_path, lambda *_: None)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_cached_gradient_does_not_depend_on_the_mini_batch(
    tiny_colbert: Path, pairs: Path, tmp_path: Path
) -> None:
    results = []
    for size in (2, 8):
        config = settings(tiny_colbert, pairs, tmp_path / "x", mini_batch_size=size, max_steps=2)
        results.append(fit(config, tmp_path / str(size), lambda *_: None))
    (one, one_losses), (other, other_losses) = results
    assert one_losses == pytest.approx(other_losses, rel=1e-5)
    assert np.abs(weights(one) - weights(other)).max() < 1e-5


def test_a_folder_that_exists_is_left_alone(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InputError, match="exists already"):
        train(settings(tiny_colbert, pairs, tmp_path / "m"))


def test_too_few_pairs_for_a_batch(tiny_colbert: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="32 training pairs, fewer than the batch of 64"):
        train(settings(tiny_colbert, pairs, tmp_path / "m", batch_size=64))
    assert not (tmp_path / "m").exists()


def test_a_missing_model_is_found_before_anything_starts(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        train(settings(tmp_path / "gone", pairs, tmp_path / "m"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_model_that_cannot_be_opened_is_named_and_nothing_is_left(pairs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="cannot be opened"):
        train(settings(broken, pairs, tmp_path / "m"))
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "pairs.jsonl"}
