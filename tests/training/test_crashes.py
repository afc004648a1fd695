"""Training that loses a worker, a node and the driver ends with the weights of an undisturbed one."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raycol.models.encoder import load_encoder
from raycol.storage import open_store
from raycol.training.checkpoints import list_checkpoints
from tests.indexing.cluster import TRAINERS, Command, Nodes, nodes
from tests.training.material import (
    end_group,
    fit_in_process,
    losses,
    settings,
    start_group,
    weights,
    write_examples,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS, SAVE_EVERY = 200, 10


def fit_and_save(config, folder: Path, rank: int) -> None:
    encoder, _ = fit_in_process(config, folder / f"work-{rank}")
    if not rank:
        encoder.save_pretrained(str(folder / "undisturbed"))


def test_training_survives_the_loss_of_a_worker_a_node_and_the_driver(tiny_colbert: Path, tmp_path: Path) -> None:
    data, out = write_examples(tmp_path / "pairs.jsonl", 64), tmp_path / "m"
    values = {"max_steps": STEPS, "save_every": SAVE_EVERY, "num_workers": 2}
    config = settings(tiny_colbert, data, out, **values)
    work = [partial(fit_and_save, config, tmp_path, rank) for rank in range(2)]
    undisturbed = start_group(work, tmp_path / "g")  # threads as in the workers: see OMP_NUM_THREADS in conftest.py
    words = ["train", "--model", tiny_colbert, "--data", data, "--out", out, "--resources", "CPU=2",
             "--learning-rate", config.learning_rate, "--batch-size", 8, "--mini-batch-size", 4, "--seed", 1,
             "--allow-duplicates"]  # fmt: skip
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", value]
    rng = random.Random(0)
    with nodes(2) as cluster:
        store = open_store(tmp_path / ".m-training")
        run(cluster, words, store, rng)
    end_group(undisturbed)
    before, after = (weights(load_encoder(folder, device="cpu")) for folder in (tmp_path / "undisturbed", out))
    moved = np.abs(before - weights(load_encoder(tiny_colbert, device="cpu"))).max()
    assert moved > 1e-3
    assert np.abs(before - after).max() <= 1e-6
    assert not (tmp_path / ".m-training").exists()


def run(cluster: Nodes, words: list, store, rng: random.Random) -> None:
    def at(step: int):
        return lambda: (saved := list_checkpoints(store)) and saved[-1].step >= step

    with Command(cluster, *words) as training:
        assert training.wait_for(at(30))
        assert cluster.kill_worker(rng, TRAINERS)
        reached = list_checkpoints(store)[-1].step
        assert training.wait_for(at(reached + 2 * SAVE_EVERY))
        # Two workers of two CPUs each: one of them is on the lost node.
        cluster.lose()
        reached = list_checkpoints(store)[-1].step
        cluster.add()
        assert training.wait_for(at(reached + 2 * SAVE_EVERY))
        training.kill()
    cluster.settle(TRAINERS)
    assert list_checkpoints(store)[-1].step < STEPS
    with Command(cluster, *words) as training:
        training.finish()


def test_an_elastic_training_uses_the_workers_that_fit(tiny_colbert: Path, tmp_path: Path) -> None:
    """Four workers, two after a node is lost, and three with a smaller node: the losses of one worker.

    Ray Train looks for more room once a minute, which training must last. At a larger rate, the rounding of sums over
    other numbers of workers grows to more than 1e-4 in a thousand steps.
    """
    data, out, steps = write_examples(tmp_path / "pairs.jsonl", 96), tmp_path / "m", 1500
    config = settings(tiny_colbert, data, out, batch_size=12, max_steps=steps, save_every=10, learning_rate=1e-5)
    _, history = fit_in_process(config, tmp_path / "undisturbed")
    words = ["train", "--model", tiny_colbert, "--data", data, "--out", out, "--learning-rate", config.learning_rate,
             "--batch-size", 12, "--mini-batch-size", 4, "--seed", 1, "--allow-duplicates", "--max-steps", steps,
             "--save-every", 10, "--keep-checkpoints", 99, "--num-workers", 4, "--min-workers", 1]  # fmt: skip
    store = open_store(tmp_path / ".m-training")

    def reached() -> int:
        return max((saved.step for saved in list_checkpoints(store)), default=0)

    def goes_on(cluster: Nodes, workers: int) -> bool:
        """Whether that many workers are there, and a checkpoint after the newest one."""
        before = reached()
        return training.wait_for(lambda: len(cluster.workers(TRAINERS)) == workers and reached() > before + 10)

    with nodes(2) as cluster, Command(cluster, *words) as training:
        assert goes_on(cluster, 4)
        cluster.lose()
        assert goes_on(cluster, 2)
        cluster.add(num_cpus=1)
        assert goes_on(cluster, 3)
        training.finish()
    records = [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]
    assert losses(records) == pytest.approx(losses(history), rel=1e-4)
