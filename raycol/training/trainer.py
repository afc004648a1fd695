"""sentence-transformers' Trainer with raycol's batches, checkpoints and checks. Knows nothing of Ray.

Three things are replaced: which examples make a batch (`batches.py`), what a checkpoint consists of and where it goes
(`state.py`, `checkpoints.py`), and evaluation, which all workers share (`evaluation.py`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from raycol.core.memory import peak_memory
from raycol.data import Dataset
from raycol.errors import InputError, RaycolError
from raycol.evaluation.metrics import METRICS
from raycol.models.tokenization import Task, tokenize
from raycol.storage import Store
from raycol.training.batches import BatchPlan, Share, WorkerBatches
from raycol.training.checkpoints import Background, list_checkpoints
from raycol.training.dataset import TrainingRow, TrainingSet
from raycol.training.evaluation import METRIC, evaluate_on
from raycol.training.group import of_all
from raycol.training.record import OnRecord
from raycol.training.state import (
    OPTIMISER,
    RANDOM,
    SETTINGS,
    WEIGHTS,
    load_optimiser,
    load_weights,
    mixed,
    random_state,
    set_random_state,
    snapshot,
    snapshot_optimiser,
)

# Examples that an error names.
_ROWS_SHOWN = 8


class StoppedError(RaycolError):
    """Raised by all workers at the same step."""


# Examples that are looked at for each document that a short one lacks.
_TRIES = 16


class Examples(torch.utils.data.Dataset[dict[str, Any]]):
    """The training set in columns: the query first, then its documents, and a teacher's scores as labels.

    All examples of a source have equally many documents. Where scores are learned, a short example repeats its own
    documents with their scores. Elsewhere it takes positives of other queries, which are negatives as those of its
    batch are: drawn by the example's number, so that they are the same for any number of workers.
    """

    def __init__(self, examples: TrainingSet, plan: BatchPlan) -> None:
        self._examples = examples
        self._plan = plan
        self._sources = examples.column("source")

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row, share = self._examples[number], self._plan.shares[self._sources[number]]
        missing = share.n_ways - len(row.documents)
        if missing and row.scores is not None:
            again = list(islice(cycle(range(len(row.documents))), share.n_ways))
            row = TrainingRow(
                row.query, [row.documents[place] for place in again], [row.scores[place] for place in again]
            )
        elif missing:
            row = TrainingRow(row.query, [*row.documents, *self._others(number, row, share, missing)], None)
        return columns(row)

    def _others(self, number: int, row: TrainingRow, share: Share, n: int) -> list[str]:
        """Positives of `n` examples of other queries; the example's negatives again where there are too few.

        Raises:
            InputError: there are neither.
        """
        rng = np.random.default_rng([self._plan.seed, 3, number])
        found: list[str] = []
        for other in rng.choice(share.examples, _TRIES * n).tolist():
            text = self._examples[other].documents[0]
            if self._plan.queries_N[other] != self._plan.queries_N[number] and text not in (*row.documents, *found):
                found.append(text)
            if len(found) == n:
                return found
        rest = [*row.documents[1:], *found]
        if not rest:
            raise InputError(
                f"{self._examples.where(number)}: no negative for it, as no other query has another positive"
            )
        return [*found, *islice(cycle(rest), n - len(found))]


def columns(row: TrainingRow) -> dict[str, Any]:
    """An example as columns."""
    found: dict[str, Any] = {"query": row.query}
    found |= {f"document_{place}": text for place, text in enumerate(row.documents, start=1)}
    return found if row.scores is None else {**found, "label": row.scores}


class Trainer(MultiVectorEncoderTrainer):
    """Runs one worker's share of a training.

    Args:
        encoder: what is trained, in place.
        arguments: the Trainer's own.
        loss: from `objective.make_loss`.
        examples: the training set.
        plan: all batches.
        rhythm: when to evaluate, to save and to stop.
        store: where checkpoints are; None where nothing is saved.
        evaluation: the collection to evaluate on.
        on_record: told of every step and evaluation.
        initial: the weights at the start, and how much of them the model has that is evaluated.
    """

    def __init__(
        self,
        encoder: MultiVectorEncoder,
        arguments: MultiVectorEncoderTrainingArguments,
        loss: torch.nn.Module,
        examples: TrainingSet,
        plan: BatchPlan,
        rhythm: Rhythm,
        store: Store | None,
        evaluation: Dataset | None,
        on_record: OnRecord,
        initial: tuple[dict[str, Tensor], float] | None = None,
    ) -> None:
        super().__init__(model=encoder, args=arguments, loss=loss, callbacks=[rhythm])
        self.remove_callback(PrinterCallback)
        self._examples = examples
        self._plan = plan
        self._rhythm = rhythm
        self._store = store
        leads = self.args.process_index == 0
        self._checkpoints = Background(store, rhythm.keep, METRIC) if store and leads else None
        self._initial = initial
        self._evaluation: Any = evaluation  # there is one where `rhythm` evaluates
        self._on_record = on_record
        self._tokens, self._since = 0, time.monotonic()
        self._batch = (-1, 0)

    def train(self, *arguments: Any, **settings: Any) -> Any:
        """Train to the end; what was saved in the background is on disk then."""
        try:
            done = super().train(*arguments, **settings)
            self._agree_on_the_last()
            return done
        finally:
            if self._checkpoints:
                self._checkpoints.close()

    def get_data_collator(self, model: Any, *_: Any, **__: Any) -> Any:
        """Tokenize columns as encoding does; by itself sentence-transformers' collator leaves out the prompts."""
        return self.data_collator_class(preprocess_fn=partial(_tokenize, model))

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """One worker's slices of all batches; a training that goes on skips those that it had."""
        n = self.args.max_steps * self.args.gradient_accumulation_steps
        return DataLoader(
            Examples(self._examples, self._plan),
            batch_sampler=WorkerBatches(self._plan, n, self.args.process_index, self.args.world_size),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any) -> Tensor:
        """Forward and backward of one batch; stops all workers where one's loss is no number."""
        step = self.state.global_step
        self._batch = (step, self._batch[1] + 1 if self._batch[0] == step else 0)
        self._tokens += sum(int(mask.sum()) for name, mask in inputs.items() if name.endswith("_attention_mask"))
        loss: Tensor = super().training_step(model, inputs, *arguments)
        bad = [rank for rank, value in enumerate(self._numbers(loss)) if not math.isfinite(value)]
        if bad:
            self._stop("the loss", bad)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm, before the weights are touched. It is the same on all workers."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(float(norm)):
            self._stop("the gradient", list(range(self.args.world_size)))
        return norm

    def _numbers(self, value: float | Tensor) -> list[float]:
        """A number of every worker."""
        return [float(one) for one in of_all(torch.as_tensor(value, dtype=torch.float32, device=self.args.device))]

    def _stop(self, what: str, workers: list[int]) -> None:
        """Raise an error that names the step, the examples of these workers, and where to go on from."""
        step, number = self._batch
        *_, batch = self._plan.batches(step * self.args.gradient_accumulation_steps + number + 1)
        slices = np.split(batch, self.args.world_size)
        rows = [self._examples.where(row) for rank in workers for row in slices[rank].tolist()]
        shown = "; ".join(rows[:_ROWS_SHOWN]) + (f" and {len(rows) - _ROWS_SHOWN} more" if rows[_ROWS_SHOWN:] else "")
        if self._checkpoints:
            self._checkpoints.wait()
        saved = list_checkpoints(self._store) if self._store else []
        last = f"step {saved[-1].step} ({saved[-1].folder} in {self._store})" if saved else "none yet"
        raise StoppedError(
            f"step {step + 1}: {what} is not finite, with the examples {shown}; the last good checkpoint: {last}. "
            "Look at these examples, or train anew with a lower --learning-rate"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Note a step or an evaluation, and tell of it."""
        if "loss" in logs:
            now = time.monotonic()
            rate = self._tokens * self.args.world_size / max(now - self._since, 1e-9)
            logs = {**logs, "tokens_per_second": rate, "memory_bytes": _most_memory()}
            self._tokens, self._since = 0, now
        super().log(logs, start_time)
        if "loss" in logs or METRIC in logs:
            self._on_record({"step": self.state.global_step, "steps": self.state.max_steps, **logs})

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the model as it is; stop where it has not become better for too long."""
        with mixed(self.model, *self._initial) if self._initial else nullcontext():
            metrics = evaluate_on(self.model, self._evaluation)
        self.log(metrics)
        if self._rhythm.has_enough([entry[METRIC] for entry in self.state.log_history if METRIC in entry]):
            self.control.should_training_stop = True
        self._since = time.monotonic()
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Copy the state and save it while training goes on."""
        if not self._store:
            return
        numbers = self._random_states()
        self._agree_on_the_last()
        if not self._checkpoints:
            return
        weights = snapshot(self.model)
        tensors, settings = snapshot_optimiser(self.optimizer, self.lr_scheduler)
        step, history = self.state.global_step, json.dumps(dataclasses.asdict(self.state), sort_keys=True)
        measured = (entry for entry in self.state.log_history if entry["step"] == step and METRIC in entry)
        metrics: dict[str, float] = next(measured, {})

        def write(folder: Path) -> None:
            save_file(weights, folder / WEIGHTS)
            save_file(tensors, folder / OPTIMISER)
            (folder / SETTINGS).write_text(json.dumps(settings))
            (folder / RANDOM).write_text(json.dumps(numbers))
            (folder / TRAINER_STATE_NAME).write_text(history)

        self._checkpoints.save(step, {name: value for name, value in metrics.items() if name in METRICS}, write)

    def _agree_on_the_last(self) -> None:
        """Stop all workers where the last checkpoint could not be saved."""
        error: RaycolError | None = None
        if self._checkpoints:
            try:
                self._checkpoints.wait()
            except RaycolError as found:
                error = found
        if any(self._numbers(float(error is not None))):
            raise StoppedError(str(error or "the leading worker cannot save checkpoints"))

    def _random_states(self) -> list[dict[str, Any]]:
        """Every worker's random numbers, on all workers."""
        mine = torch.tensor(list(json.dumps(random_state()).encode()), dtype=torch.uint8, device=self.args.device)
        sizes = [int(size) for size in self._numbers(len(mine))]
        padded = torch.nn.functional.pad(mine, (0, max(sizes) - len(mine)))
        return [json.loads(bytes(one[:size].tolist())) for one, size in zip(of_all(padded), sizes, strict=True)]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint) / WEIGHTS, self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            load_optimiser(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """There is none: half precision is bfloat16, whose range is float32's."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint:
            states = json.loads((Path(checkpoint) / RANDOM).read_bytes())
            set_random_state(states[self.args.process_index])


def _tokenize(encoder: MultiVectorEncoder, texts: list[str], prompt: str | None, task: Task) -> dict[str, Any]:
    """See `tokenize`. `prompt` is what the Trainer's arguments have, which are given none."""
    return tokenize(encoder, texts, task)


class Rhythm(TrainerCallback):
    """When to evaluate, to save, and to stop.

    Args:
        save_every: steps between two checkpoints; 0 saves none.
        eval_every: steps between two evaluations, after each of which there is a checkpoint; 0 evaluates never.
        patience: evaluations without a better one after which training stops; 0 never stops early.
        keep: checkpoints kept, beside the best one.
    """

    def __init__(self, save_every: int, eval_every: int, patience: int, keep: int) -> None:
        self._save_every, self._eval_every, self._patience, self.keep = save_every, eval_every, patience, keep

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what follows on a step. The last one is always saved."""
        last = state.global_step >= state.max_steps
        control.should_evaluate = bool(self._eval_every) and (last or state.global_step % self._eval_every == 0)
        due = last or control.should_evaluate or state.global_step % max(self._save_every, 1) == 0
        control.should_save = bool(self._save_every) and due

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Nothing follows on the end of the batches: the last step had it all."""
        control.should_evaluate = control.should_save = False

    def has_enough(self, found: list[float]) -> bool:
        """Whether the evaluations so far have not become better for too long."""
        return bool(self._patience) and len(found) - 1 - found.index(max(found)) >= self._patience


def _most_memory() -> int:
    """Bytes: of the GPU, where there is one."""
    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else peak_memory()
