"""For every objective, the gradient of N workers equals that of one worker on the joined batch."""

import json
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_jsonl
from tests.training.material import (
    Hinge,
    SquaredError,
    end_group,
    gradient,
    repeated_features,
    save_albert,
    settings,
    start_group,
    write_examples,
)

pytestmark = pytest.mark.slow

GradientOf = Callable[..., np.ndarray]

CASES = {
    "cached pairs": ({"objective": "cached", "max_steps": 0}, "pairs"),
    "cached tuples": ({"objective": "cached", "temperature": 0.5}, "tuples"),
    "contrastive pairs": ({"objective": "contrastive", "max_steps": 0}, "pairs"),
    "contrastive tuples": ({"objective": "contrastive", "temperature": 0.5}, "tuples"),
    "mean maxsim": ({"objective": "cached", "scoring": "mean-maxsim", "temperature": 0.1}, "tuples"),
    "xtr": ({"objective": "cached", "scoring": "xtr", "xtr_tokens": 16}, "tuples"),
    "accumulated": ({"objective": "cached", "accumulate": 2}, "pairs"),
    "partly kept": ({"objective": "cached", "mini_batch_size": 1, "activation_tokens": 60}, "tuples"),
    "distillation": ({"objective": "distillation", "teacher_temperature": 2.0}, "scored"),
    "stretched": ({"objective": "distillation", "normalize_scores": True, "temperature": 0.5}, "scored"),
    "margins": ({"objective": "margin-mse"}, "scored"),
    "varying": ({"objective": "cached", "max_steps": 0}, "varying"),
    "masked": ({"objective": "cached", "mask_margin": 0.5}, "repeated"),
    "symmetric": ({"objective": "cached", "symmetric": True, "matryoshka": (8,)}, "repeated"),
    "distilled beside contrastive": ({"objective": "distillation", "contrastive_weight": 0.5}, "scored"),
    "lambda loss": ({"objective": "lambda-loss"}, "scored"),
    "distilled in mini-batches": ({"objective": "distillation", "grad_cache": True}, "scored"),
    "distilled by xtr": ({"objective": "distillation", "scoring": "xtr", "xtr_tokens": 16}, "scored"),
    "own loss": ({"objective": Hinge()}, "tuples"),
    "own loss with scores": ({"objective": SquaredError()}, "scored"),
    "unused pooler": ({"objective": "cached", "max_steps": 0}, "pairs"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Thirty examples: three batches of eight, and six examples that no batch has."""
    folder = tmp_path_factory.mktemp("gradients")
    varying = write_examples(folder / "varying.jsonl", 30, negatives=2)
    records = [json.loads(line) for line in varying.read_text().splitlines()]
    for number, record in enumerate(records):
        del record["negatives"][number % 3 :]
    write_jsonl(varying, records)
    pairs = [json.loads(line) for line in write_examples(folder / "repeated.jsonl", 10).read_text().splitlines()]
    repeated = [{"query": pairs[n % 4]["query"], "positive": pairs[n % 10]["positive"]} for n in range(30)]
    return {
        "repeated": write_jsonl(folder / "repeated.jsonl", repeated),
        "varying": varying,
        "pairs": write_examples(folder / "pairs.jsonl", 30),
        "tuples": write_examples(folder / "tuples.jsonl", 30, negatives=2),
        "scored": write_examples(folder / "scored.jsonl", 30, negatives=3, scores=True),
    }


def save_gradients(
    data: dict[str, Path], models: dict[str, Path], folder: Path, cases: Collection[str], n: int, rank: int
) -> None:
    for name in cases:
        values, kind = CASES[name]
        model = models.get(name, models["usual"])
        config = settings(model, data[kind], folder / "x", num_workers=n, **{"max_steps": 1, **values})
        vector = gradient(config, folder / f"{name}-{n}-{rank}")
        if not rank:
            np.save(folder / f"{name}-{n}.npy", vector)


@pytest.fixture(scope="module")
def gradient_of(
    data: dict[str, Path], tiny_colbert: Path, tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> GradientOf:
    """Gradient of a case with n workers; computes it together with further cases, once."""
    folder = tmp_path_factory.mktemp("gradients")
    models = {"usual": tiny_colbert, "unused pooler": save_albert(tiny_backbone, folder / "albert")}

    def find(case: str, n: int, cases: Collection[str] = tuple(CASES)) -> np.ndarray:
        if not (folder / f"{case}-{n}.npy").exists():
            work = [partial(save_gradients, data, models, folder, cases, n, rank) for rank in range(n)]
            end_group(start_group(work, folder / f"group-{n}"))
        return np.load(folder / f"{case}-{n}.npy")

    return find


# Settings of a step on `REPEATED`.
STEPS = {
    "one query at a time": {"mini_batch_size": 2, "score_mini_batch_size": 1},
    "all queries at once": {"mini_batch_size": 3, "score_mini_batch_size": 8},
    "kept activations": {"objective": "contrastive", "mini_batch_size": 8, "score_mini_batch_size": 3},
    "float32": {"mini_batch_size": 2},
    "symmetric": {"symmetric": True, "mini_batch_size": 3, "score_mini_batch_size": 3, "matryoshka": (4,)},
    "trained temperature": {"temperature_learning_rate": 1e-3, "mini_batch_size": 3, "score_mini_batch_size": 3},
    "guided": {"guide": "tiny", "symmetric": True, "mini_batch_size": 3, "score_mini_batch_size": 3},
    "pooled": {"pool_factor": 2.0, "mini_batch_size": 3, "score_mini_batch_size": 3},
    "with scores": {"objective": "distillation", "contrastive_weight": 0.5, "score_mini_batch_size": 3},
}
COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_reduce", "broadcast", "reduce", "reduce_scatter")


def save_steps(model: Path, folder: Path, n: int, rank: int) -> None:
    """Save the gradient of each of `STEPS`, and the number of collective operations of the loss."""
    import torch
    from torch import distributed

    from raycol.models.encoder import load_encoder
    from raycol.training.objective import make_loss

    def counted(name: str) -> Callable[..., object]:
        run = getattr(distributed, name)

        def count(*arguments: object, **settings: object) -> object:
            counts[name] += 1
            return run(*arguments, **settings)

        return count

    for name, values in STEPS.items():
        encoder = load_encoder(model, device="cpu").train()
        encoder = encoder if name == "float32" else encoder.double()
        values = {**values, "guide": str(model)} if "guide" in values else values
        config = settings(model, folder / "d", folder / "x", num_workers=n, temperature=0.5, **values)
        counts: Counter[str] = Counter()
        with pytest.MonkeyPatch.context() as patch:
            for collective in COLLECTIVES:
                patch.setattr(distributed, collective, counted(collective))
            part = slice(rank * 8 // n, (rank + 1) * 8 // n)
            teacher_QW = torch.linspace(-2, 2, 24, dtype=torch.float64).sin().reshape(8, 3)[part]
            loss = make_loss(encoder, config)
            loss(repeated_features(encoder, part, guide=loss.guide), teacher_QW).backward()
        vector = torch.cat([p.grad.ravel() for p in loss.parameters() if p.grad is not None]) / n
        if n > 1:
            distributed.all_reduce(vector)
        if not rank:
            masked = float(loss.masked_pairs)
            np.savez(folder / f"{name}-{n}.npz", gradient=vector.numpy(), n_collectives=counts.total(), masked=masked)


def test_two_workers_take_one_workers_step_in_three_collectives(tiny_colbert: Path, tmp_path: Path) -> None:
    for n in (1, 2):
        end_group(
            start_group([partial(save_steps, tiny_colbert, tmp_path, n, rank) for rank in range(n)], tmp_path / str(n))
        )
    for name in STEPS:
        one, two = (np.load(tmp_path / f"{name}-{n}.npz") for n in (1, 2))
        tolerance = 1e-5 if name == "float32" else 1e-6
        difference = np.linalg.norm(two["gradient"] - one["gradient"])
        assert difference <= tolerance * np.linalg.norm(one["gradient"]), name
        expected = {"symmetric": 6, "trained temperature": 4, "guided": 10}.get(name, 3)
        assert (one["n_collectives"], two["n_collectives"]) == (0, expected)


@pytest.mark.long
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_one_worker(gradient_of: GradientOf, case: str, n: int) -> None:
    one, many = gradient_of(case, 1), gradient_of(case, n)
    n_steps = 3 if "max_steps" in CASES[case][0] else 1
    assert np.linalg.norm(one[:-n_steps]) > 1e-4
    assert np.linalg.norm(many[:-n_steps] - one[:-n_steps]) <= 1e-5 * np.linalg.norm(one[:-n_steps])
    assert many[-n_steps:] == pytest.approx(one[-n_steps:], rel=1e-4)


@pytest.mark.parametrize("kind", ["pairs", "tuples"])
def test_the_cached_gradient_equals_the_contrastive_one(gradient_of: GradientOf, kind: str) -> None:
    cases = [f"{objective} {data}" for objective in ("cached", "contrastive") for data in ("pairs", "tuples")]
    cached, plain = gradient_of(f"cached {kind}", 1, cases), gradient_of(f"contrastive {kind}", 1, cases)
    assert np.linalg.norm(cached - plain) <= 1e-5 * np.linalg.norm(plain)
