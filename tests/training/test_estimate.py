"""The estimate of a training: its counts against a training's own, its memory against what steps store."""

from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import raycol
from raycol import display
from raycol.errors import InputError
from raycol.training import worker
from raycol.training.command import TrainCommandConfig
from raycol.training.estimate import RoundsEstimate, TrainEstimate, estimate_training
from tests.conftest import make_passages, write_jsonl
from tests.training.material import fit_in_process, settings, write_examples


@pytest.mark.slow
def test_counts(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl", 32, negatives=1)
    config = settings(tiny_colbert, data, tmp_path / "m", max_steps=0, epochs=3, num_workers=2, batch_size=8)
    found = estimate_training(config, tokens_per_second=1000.0)
    assert (found.examples, found.steps) == (32, 12)
    assert found.hours == pytest.approx(found.tokens / (2 * 1000 * 3600))
    assert found.parameters == found.trained_parameters
    gradient = 4 * found.parameters  # half of a ring of two is sent twice
    assert found.network_bytes > gradient
    assert found.mining is None
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_passages(40))
    remine = {"corpus": str(corpus), "num_workers": 1, "negatives": 7}
    values = {"gather_across_workers": False, "freeze_layers": 1, "remine_every": 6, "remine": remine}
    frozen = estimate_training(config.model_copy(update=values), tokens_per_second=1000.0)
    assert frozen.network_bytes == 4 * frozen.trained_parameters
    assert frozen.trained_parameters < found.trained_parameters
    assert frozen.memory["optimiser"] == 8 * frozen.trained_parameters
    # Half of the steps have seven negatives instead of one, which memory must hold: of half as many examples.
    assert 2 < frozen.tokens / found.tokens < 2.5
    assert frozen.memory["embeddings"] > 1.3 * found.memory["embeddings"]
    # A symmetric loss gathers the queries too: the other worker's tokens and their gradient, in float32.
    values = {"symmetric": True, "remine_every": 5, "remine": {**remine, "negatives": 1}}
    symmetric = estimate_training(config.model_copy(update=values), tokens_per_second=1000.0)
    query_tokens = (symmetric.network_bytes - found.network_bytes) / (config.batch_size / 2 * 16 * 8)
    assert 4 < query_tokens < found.tokens / (found.steps * config.batch_size)
    more = symmetric.memory["embeddings"] - found.memory["embeddings"]
    assert more >= 8 * 16 * config.batch_size * 2 * query_tokens
    # Mining after steps 5 and 10 encodes the corpus, all of it once more for the codebook, and the queries.
    mining = symmetric.mining
    assert (mining.rounds, mining.texts) == (2, 40 + 40 + 32)
    assert 80 * 5 + 32 * query_tokens < mining.tokens < 80 * 50 + 32 * query_tokens
    # In one of training's two workers; a step of GradCache takes four times a forward pass.
    assert mining.hours == pytest.approx(2 * mining.tokens / (4 * 1000 * 3600), rel=1e-3)


def test_a_dry_run_prints_its_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    memory = {"weights": 91_000_000, "activations": 9_000_000}
    values = {"examples": 1200, "steps": 10, "tokens": 12_000, "padded_share": 0.05, "parameters": 22_000_000,
              "trained_parameters": 22_000_000, "worker_bytes": 100_000_000, "memory": memory, "network_bytes": 0,
              "sampled": 512}  # fmt: skip
    display.train_estimate(TrainEstimate(**values, tokens_per_second=1000.0, hours=0.5))
    assert capsys.readouterr().out.splitlines() == [
        "examples     1,200, 10 steps",
        "tokens       1,200 a step, 12,000 in all (estimated from 512 examples)",
        "padding      5.0% of what is encoded",
        "weights      22,000,000, 22,000,000 of them trained",
        "memory       100 MB a worker: weights 91 MB, activations 9 MB",
        "network      0 bytes a step, sent by each worker",
        "time         30.0 minutes at 1,000 tokens/s a worker",
    ]
    mining = RoundsEstimate(rounds=2, texts=1500, tokens=40_000, hours=None)
    display.train_estimate(TrainEstimate(**values, tokens_per_second=None, hours=None, mining=mining))
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "time         unknown: pass --tokens-per-second",
        "mining       2 rounds, each encodes 1,500 texts of 40,000 tokens",
    ]


def test_wrong_settings_of_a_dry_run() -> None:
    with pytest.raises(InputError, match=r"^raycol\.plan_training: unknown key 'lerning_rate'; the nearest known key"):
        raycol.plan_training(model="m", data="d", out="o", lerning_rate=1.0)
    with pytest.raises(InputError, match=r"tokens_per_second has no effect: it is for dry_run"):
        TrainCommandConfig.load(None, {"model": "m", "data": "d", "out": "o", "tokens_per_second": 9.0})


@pytest.mark.slow
def test_tokens_and_padding_are_those_of_the_training(tiny_colbert: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path / "pairs.jsonl", 32)
    config = settings(tiny_colbert, data, tmp_path / "m", max_steps=4, mini_batch_tokens=64)
    found = estimate_training(config)
    assert found.tokens_per_second > 0
    assert found.hours > 0
    _, history = fit_in_process(config, tmp_path / "w")
    shares = [entry["padded_share"] for entry in history if "padded_share" in entry]
    assert found.padded_share == pytest.approx(sum(shares) / len(shares), rel=0.05)


class Stored:
    """A tensor stored for the backward pass; the class counts the bytes of live ones, each storage once."""

    live: ClassVar[Counter[int]] = Counter()
    weights: ClassVar[set[int]] = set()
    n_bytes = peak = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
        if self.key not in Stored.weights:
            Stored.n_bytes += tensor.untyped_storage().nbytes() * (not Stored.live[self.key])
            Stored.live[self.key] += 1
            Stored.peak = max(Stored.peak, Stored.n_bytes)

    def __del__(self) -> None:
        if self.key not in Stored.weights:
            Stored.live[self.key] -= 1
            Stored.n_bytes -= self.tensor.untyped_storage().nbytes() * (not Stored.live[self.key])


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 32, "mini_batch_size": 16},
        {"batch_size": 128, "mini_batch_tokens": 256, "activation_tokens": 1024},
        {"batch_size": 32, "objective": "contrastive"},
        {"batch_size": 128, "objective": "contrastive", "attn_implementation": "eager"},
    ],
    ids=lambda values: " ".join(map(str, values.values())),
)
def test_activations_are_those_that_a_step_stores(
    tiny_colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict
) -> None:
    make = worker.make_losses

    def counting(encoder, config):
        forward = encoder.forward

        def counted(*arguments, **settings):
            with torch.autograd.graph.saved_tensors_hooks(Stored, lambda stored: stored.tensor):
                return forward(*arguments, **settings)

        encoder.forward = counted
        Stored.weights = {one.untyped_storage().data_ptr() for one in encoder.parameters()}
        return make(encoder, config)

    config = settings(tiny_colbert, write_examples(tmp_path / "a.jsonl", 128), tmp_path / "m", max_steps=1, **values)
    estimated = estimate_training(config, tokens_per_second=1.0).memory["activations"]
    monkeypatch.setattr(worker, "make_losses", counting)
    Stored.n_bytes = Stored.peak = 0
    fit_in_process(config, tmp_path / "w")
    assert estimated == pytest.approx(Stored.peak, rel=0.2)
