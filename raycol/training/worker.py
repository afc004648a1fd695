"""What each Ray Train worker runs: sentence-transformers' Trainer on its share of every batch.

Nothing here needs Ray: `fit` runs in a plain process too, alone or under torch.distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from raycol.data import load_pairs
from raycol.models import load_encoder
from raycol.training.config import TrainConfig

OnStep = Callable[[int, int, float | None], None]


class _StepReports(TrainerCallback):
    """Passes on each step: its number, how many there are, and the loss."""

    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_step(0, state.max_steps, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.on_step(state.global_step, state.max_steps, float(logs["loss"]))


def fit(config: TrainConfig, workspace: Path, on_step: OnStep) -> tuple[MultiVectorEncoder, list[float]]:
    """Train an encoder, as one worker of `config.num_workers`; return it with the loss of each step.

    Each worker takes `batch_size / num_workers` pairs of a batch and gathers the others' passages, with
    their gradients, so that the step equals that of one worker on the whole batch. A ragged last batch
    is dropped, on every worker alike.

    Args:
        config: the settings.
        workspace: a folder for the Trainer's own files.
        on_step: called on every step with its number, the number of steps, and the loss.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    device = None if config.use_gpu else "cpu"
    encoder = load_encoder(
        config.model,
        device=device,
        embedding_size=config.embedding_size,
        query_length=config.query_length,
        document_length=config.document_length,
        query_expansion=config.query_expansion,
        seed=config.seed,
    )
    loss = CachedMultiVectorMultipleNegativesRankingLoss(
        encoder,
        scale=1 / config.temperature,
        mini_batch_size=config.mini_batch_size,
        gather_across_devices=config.num_workers > 1,
    )
    arguments = MultiVectorEncoderTrainingArguments(
        output_dir=str(workspace),
        per_device_train_batch_size=config.batch_size // config.num_workers,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=not config.use_gpu,
        dataloader_drop_last=True,
        dataloader_pin_memory=config.use_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = MultiVectorEncoderTrainer(
        model=encoder,
        args=arguments,
        train_dataset=load_pairs(config.data, config.split, config.on_error),
        loss=loss,
        callbacks=[_StepReports(on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return encoder, losses
