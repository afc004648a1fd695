"""`raycol train`: the driver's side of training on Ray Train."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycol.checkpoints import find_checkpoint
from raycol.data import read_pairs
from raycol.errors import InputError, writing
from raycol.progress import Report, no_report
from raycol.ray_session import ray_errors, ray_session
from raycol.training.config import TrainConfig


@dataclass(frozen=True)
class TrainReport:
    """What training did."""

    model: Path
    pairs: int
    losses: list[float]
    seconds: float

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return len(self.losses)


def train(config: TrainConfig, report: Report = no_report) -> TrainReport:
    """Train an encoder on Ray Train and save it to `config.out`, whole or not at all.

    Raises:
        InputError: no such model or data, fewer pairs than a batch, or `out` exists.
        RaycolError: a worker failed.
    """
    started = time.monotonic()
    if config.out.exists():
        raise InputError(f"{config.out}: exists already; choose another folder for the model, or remove it")
    pairs = sum(1 for _ in read_pairs(config.data, config.split, config.on_error))
    if pairs < config.batch_size:
        raise InputError(
            f"{config.data}: {pairs} training pairs, fewer than the batch of {config.batch_size}; "
            "lower --batch-size or bring more"
        )
    # Workers run in folders of their own, so everything is named by its full path.
    full = {"model": find_checkpoint(config.model), "data": config.data.resolve(), "out": config.out.resolve()}
    config = config.model_copy(update=full)
    with writing(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
        # Beside `out`, so that the model is renamed into place; on a cluster, `out` is on shared storage.
        storage = Path(tempfile.mkdtemp(prefix=f".{config.out.name}-training-", dir=config.out.parent))
    try:
        with ray_session(CPU=config.num_workers, GPU=config.num_workers if config.use_gpu else 0):
            losses = _fit_on_ray(config, storage, report)
        with writing(config.out):
            os.rename(storage / "model", config.out)
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return TrainReport(config.out, pairs, losses, time.monotonic() - started)


def _fit_on_ray(config: TrainConfig, storage: Path, report: Report) -> list[float]:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raycol.training.board import Board, watch

    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"config": config.model_dump(), "storage": str(storage), "board": board},
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
        run_config=RunConfig(name="run", storage_path=str(storage)),
    )
    with ray_errors("training"), watch(board, report):
        losses: list[float] = trainer.fit().return_value
    return losses


def _train_worker(loop: dict[str, Any]) -> list[float]:
    """The train loop of one worker: the loss of each step. Rank 0 tells of the steps and saves the model."""
    import ray
    import ray.train

    from raycol.training.worker import fit

    board, storage = loop["board"], Path(loop["storage"])
    leads = ray.train.get_context().get_world_rank() == 0

    def on_step(step: int, steps: int, loss: float | None) -> None:
        if leads:
            board.post.remote(step, steps, loss)

    with tempfile.TemporaryDirectory() as workspace:
        encoder, losses = fit(TrainConfig.model_validate(loop["config"]), Path(workspace), on_step)
    if leads:
        encoder.save_pretrained(str(storage / "unfinished"))
        os.rename(storage / "unfinished", storage / "model")
    return losses
