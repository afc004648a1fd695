"""sentence-transformers' Trainer with raycol's batches, checkpoints and finiteness checks; independent of Ray.

It replaces the composition of batches (`batches.py`), the contents and storage of checkpoints (`state.py`,
`checkpoints.py`) and the evaluation, which is distributed over the workers (`evaluation.py`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ir_measures import Measure
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from transformers.trainer import TRAINER_STATE_NAME

from raycol.core.memory import peak_memory
from raycol.data.collection import Collection
from raycol.errors import RaycolError
from raycol.storage import Store
from raycol.training.averaging import AVERAGE, MovingAverage, load_mean
from raycol.training.batches import BatchPlan, WorkerBatches
from raycol.training.checkpoints import (
    AsyncCheckpointer,
    CheckpointAverage,
    checkpoints_to_average,
    list_checkpoints,
    save_average,
)
from raycol.training.collator import make_collator
from raycol.training.dataset import TrainingSet
from raycol.training.eval_and_save import EvalAndSaveCallback
from raycol.training.evaluation import evaluate_on
from raycol.training.example_dataset import ExampleDataset
from raycol.training.gradcache import GradCache
from raycol.training.group import all_gather
from raycol.training.metrics import OnRecord
from raycol.training.setting_types import TrainingSource
from raycol.training.sharding import whole, whole_weights
from raycol.training.state import (
    OPTIMISER,
    SETTINGS,
    WEIGHTS,
    changed_weights,
    load_optimiser,
    load_weights,
    snapshot,
    snapshot_optimiser,
)

# Examples named in an error message.
_MAX_EXAMPLES_SHOWN = 8


class StoppedError(RaycolError):
    """Raised by all workers at the same step."""


class Trainer(MultiVectorEncoderTrainer):
    """Trains one worker's share of every batch.

    Args:
        encoder: trained in place.
        arguments: of the base class.
        losses: of each source, from `objective.make_losses`.
        optimiser: from `optimiser.make_optimiser`.
        sources: the sources of the examples.
        examples: the training set.
        plan: the batch plan.
        eval_and_save: decides when to evaluate, save and stop.
        store: destination of checkpoints; None saves none.
        collections: the evaluation collections; empty for no evaluation.
        metrics: of an evaluation by name, the deciding one first.
        on_record: called on every step and evaluation.
        moving_average: of the weights, saved with them; None for none.
        changes: to the trained weights, in place, before an evaluation.
    """

    def __init__(
        self,
        encoder: MultiVectorEncoder,
        arguments: MultiVectorEncoderTrainingArguments,
        losses: Sequence[GradCache],
        optimiser: torch.optim.Optimizer,
        sources: Sequence[TrainingSource],
        examples: TrainingSet,
        plan: BatchPlan,
        eval_and_save: EvalAndSaveCallback,
        store: Store | None,
        collections: Sequence[Collection],
        metrics: Mapping[str, Measure],
        on_record: OnRecord,
        moving_average: MovingAverage | None = None,
        changes: Sequence[Callable[[], None]] = (),
    ) -> None:
        callbacks = [eval_and_save, *([moving_average] if moving_average else [])]
        super().__init__(
            model=encoder,
            args=arguments,
            loss={str(number): loss for number, loss in enumerate(losses)},
            optimizers=(optimiser, None),
            callbacks=callbacks,
            data_collator=make_collator(encoder, sources, [loss.guide for loss in losses]),
        )
        self._losses: Sequence[GradCache] = tuple(self.loss.values())
        self._distinct = tuple(dict.fromkeys(self._losses))
        self._log_temperature = self._losses[0].log_temperature  # sources share a trained one
        self.remove_callback(PrinterCallback)
        self._examples = examples
        self._plan = plan
        self._eval_and_save = eval_and_save
        self._store = store
        self._collections, self._metrics, self._metric = collections, metrics, next(iter(metrics))
        self._evaluated: tuple[int, dict[str, float]] = (0, {})  # step and metrics of the last evaluation
        is_rank_0 = self.args.process_index == 0
        self._checkpointer = (
            AsyncCheckpointer(store, eval_and_save.keep, self._metric, eval_and_save.averaged)
            if store and is_rank_0
            else None
        )
        self._moving_average, self._changes = moving_average, changes
        self._on_record = on_record
        self._n_tokens, self._masked_pairs, self._last_log_time = 0, 0.0, time.monotonic()
        self._batch = (-1, 0)  # step, and number of the batch in it

    def train(self, *arguments: Any, **settings: Any) -> Any:
        """Train to the end and wait for the last checkpoint."""
        try:
            output = super().train(*arguments, **settings)
            self._wait_for_checkpoint()
            pauses = self._eval_and_save.pauses(self.state.max_steps)
            if self._store and self._eval_and_save.averaged > 1 and not pauses:
                self._evaluate_mean(self._store)
            return output
        finally:
            if self._checkpointer:
                self._checkpointer.close()

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Load this worker's slice of every batch; on resume the base class skips the batches already trained on."""
        n = self.args.max_steps * self.args.gradient_accumulation_steps
        return DataLoader(
            ExampleDataset(
                self._examples,
                self._plan,
                with_ids=[number for number, loss in enumerate(self._losses) if loss.masks_positives],
                symmetric=[number for number, loss in enumerate(self._losses) if loss.symmetric],
            ),
            batch_sampler=WorkerBatches(self._plan, n, self.args.process_index, self.args.world_size),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any) -> Tensor:
        """Forward and backward pass of one batch; all workers stop if the loss of any is not finite."""
        step = self.state.global_step
        self._batch = (step, self._batch[1] + 1 if self._batch[0] == step else 0)
        if self._log_temperature is not None and not self._batch[1]:
            self._log_temperature.grad = None  # the Trainer clears those of the encoder only
        # Dropout depends on the batch and the worker, not on earlier batches: checkpoints need no random states, and
        # any number of workers can continue from them.
        seeds = np.random.SeedSequence([self.args.seed, *self._batch, self.args.process_index])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self._n_tokens += sum(int(mask.sum()) for name, mask in inputs.items() if name.endswith("_attention_mask"))
        source_loss = self.loss[inputs["dataset_name"]]
        loss: Tensor = super().training_step(model, inputs, *arguments)
        losses, masked_pairs = self._gather(torch.stack([loss.detach(), source_loss.masked_pairs])).T.tolist()
        self._masked_pairs += sum(masked_pairs)
        failed_ranks = [rank for rank, value in enumerate(losses) if not math.isfinite(value)]
        if failed_ranks:
            self._stop("the loss", failed_ranks)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Gradient norm, the same on all workers; they stop before the optimiser step if it is not finite.

        In float16 the loss scaler skips such a step and lowers its scale, which helps until the scale is 1.
        """
        norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        if not math.isfinite(float(norm)) and self._loss_scale() <= 1:
            self._stop("the gradient", list(range(self.args.world_size)))
        return norm

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Do not defer: of sharded weights, no worker holds a whole gradient."""
        return nullcontext()

    def _loss_scale(self) -> float:
        """Factor of the loss in the backward pass, which keeps float16 gradients from underflowing; otherwise 1."""
        return float(self.accelerator.scaler.get_scale()) if self.accelerator.scaler else 1.0

    def _gather(self, values: float | Tensor) -> Tensor:
        """Gather numbers from every worker, in rank order."""
        return torch.stack(all_gather(torch.as_tensor(values, dtype=torch.float32, device=self.args.device)))

    def _stop(self, quantity: str, ranks: list[int]) -> None:
        """Raise an error that names the step, the examples of these workers, and the last checkpoint."""
        step, number = self._batch
        *_, batch = self._plan.batches(step * self.args.gradient_accumulation_steps + number + 1)
        slices = np.split(batch, self.args.world_size)
        rows = [self._examples.where(row) for rank in ranks for row in slices[rank].tolist()]
        n_more = len(rows) - _MAX_EXAMPLES_SHOWN
        shown = "; ".join(rows[:_MAX_EXAMPLES_SHOWN]) + (f" and {n_more} more" if n_more > 0 else "")
        if self._checkpointer:
            self._checkpointer.wait()
        saved = list_checkpoints(self._store) if self._store else []
        last = f"step {saved[-1].step} ({saved[-1].folder} in {self._store})" if saved else "none yet"
        raise StoppedError(
            f"step {step + 1}: {quantity} is not finite; examples: {shown}; last good checkpoint: {last}. "
            "Check these examples, or train again with a lower `learning_rate=`"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step or an evaluation and pass it to `on_record`."""
        if "loss" in logs:
            now = time.monotonic()
            rate = self._n_tokens * self.args.world_size / max(now - self._last_log_time, 1e-9)
            padded_share = sum(one.n_padding for one in self._distinct) / sum(one.n_encoded for one in self._distinct)
            logs |= {"tokens_per_second": rate, "padded_share": padded_share, "memory_bytes": _peak_memory()}
            if any(one.masks for one in self._distinct):
                n_pairs = sum(one.n_pairs for one in self._distinct)
                logs["masked_pairs"] = self._masked_pairs
                logs["masked_share"] = self._masked_pairs / (n_pairs * self.args.world_size)
            if self._log_temperature is not None:
                logs["temperature"] = self._losses[0].temperature
            self._n_tokens, self._masked_pairs, self._last_log_time = 0, 0.0, now
            for one in self._distinct:
                one.n_padding = one.n_encoded = one.n_pairs = 0
            if self.accelerator.scaler:
                logs["loss_scale"] = self._loss_scale()
                if not math.isfinite(logs["grad_norm"]):  # a step that the scaler skipped
                    del logs["grad_norm"]
        super().log(logs, start_time)
        if "loss" in logs or self._metric in logs:
            self._on_record({"step": self.state.global_step, "steps": self.state.max_steps, **logs})

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the current model; stop if the metric has not improved within the patience."""
        metrics = self._metrics_with(self._changes)
        self._evaluated = (self.state.global_step, dict(metrics))
        self.log(metrics)
        # The untrained model is not a candidate.
        values = [entry[self._metric] for entry in self.state.log_history if self._metric in entry and entry["step"]]
        if values and self._eval_and_save.is_exhausted(values):
            self.control.should_training_stop = True
        self._last_log_time = time.monotonic()
        return metrics

    def _metrics_with(self, changes: Sequence[Callable[[], None]]) -> dict[str, float]:
        """Evaluate the model after changes to its weights, which are undone."""
        with changed_weights(self.model, changes), whole_weights(self.model):
            return evaluate_on(self.model, self._collections, self._metrics, self._losses[0].pool_factor)

    def _evaluate_mean(self, store: Store) -> None:
        """Evaluate the mean of several checkpoints' weights; save which ones, and the metrics."""
        checkpoints = checkpoints_to_average(store, self._eval_and_save.averaged, self._metric)
        mean = partial(load_mean, [one.open(store) / WEIGHTS for one in checkpoints], self.model)
        metrics = self._metrics_with([mean, *self._changes]) if self._collections else {}
        if self._checkpointer:
            save_average(store, CheckpointAverage(steps=tuple(one.step for one in checkpoints), metrics=metrics))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Copy the state and save it in the background."""
        if not self._store:
            return
        self._wait_for_checkpoint()
        keep = bool(self._checkpointer)
        weights = snapshot(self.model, keep=keep)
        average = self._moving_average.snapshot(keep=keep) if self._moving_average else {}
        tensors, settings = snapshot_optimiser(
            self.optimizer, self.lr_scheduler, self.accelerator.scaler, self._log_temperature, keep=keep
        )
        if not self._checkpointer:
            return
        step, history = self.state.global_step, json.dumps(dataclasses.asdict(self.state), sort_keys=True)
        metrics = self._evaluated[1] if self._evaluated[0] == step else {}

        def write(folder: Path) -> None:
            save_file(weights, folder / WEIGHTS)
            save_file(tensors, folder / OPTIMISER)
            if average:
                save_file(average, folder / AVERAGE)
            (folder / SETTINGS).write_text(json.dumps(settings))
            (folder / TRAINER_STATE_NAME).write_text(history)

        self._checkpointer.save(step, metrics, write)

    def _wait_for_checkpoint(self) -> None:
        """Wait for the pending save; raise on all workers if it failed."""
        error: RaycolError | None = None
        if self._checkpointer:
            try:
                self._checkpointer.wait()
            except RaycolError as raised:
                error = raised
        if self._gather(float(error is not None)).any():
            raise StoppedError(str(error or "worker 0 cannot save checkpoints"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint) / WEIGHTS, self.model)
        if self._moving_average:
            self._moving_average.load(Path(resume_from_checkpoint) / AVERAGE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            parts = (self.optimizer, self.lr_scheduler, self.accelerator.scaler, self._log_temperature)
            load_optimiser(Path(checkpoint), *parts)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do nothing: the loss scaler is loaded with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: `training_step` seeds the generators."""


def _peak_memory() -> int:
    """Peak memory in bytes: of the GPU if there is one, otherwise of the process."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory()
