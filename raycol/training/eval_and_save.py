"""When a training evaluates, saves and stops."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class EvalAndSaveCallback(TrainerCallback):
    """Decides when to evaluate, save and stop.

    Args:
        save_every: steps between checkpoints; 0 saves none.
        eval_every: steps between evaluations, each followed by a checkpoint; 0 disables evaluation.
        patience: evaluations without improvement before training stops; 0 disables early stopping.
        keep: newest checkpoints kept, in addition to the best ones.
        averaged: checkpoints whose mean is the final model; so many of the best ones are kept.
        until: step to stop at, with a checkpoint; None for the last one.
    """

    def __init__(
        self,
        save_every: int,
        eval_every: int,
        patience: int,
        keep: int,
        averaged: int = 1,
        until: int | None = None,
    ) -> None:
        self._until = until
        self._save_every, self._eval_every, self._patience = save_every, eval_every, patience
        self.keep, self.averaged = keep, averaged

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to evaluate and save after a step. The last step always does."""
        last = state.global_step >= state.max_steps
        control.should_evaluate = bool(self._eval_every) and (last or state.global_step % self._eval_every == 0)
        stops = state.global_step == self._until
        due = last or stops or control.should_evaluate or state.global_step % max(self._save_every, 1) == 0
        control.should_save = bool(self._save_every) and due
        if stops:
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do nothing at the end of an epoch: its last step was handled by `on_step_end`."""
        control.should_evaluate = control.should_save = False

    def pauses(self, steps: int) -> bool:
        """Whether a training of this number of steps goes on after `until`."""
        return self._until not in (None, steps)

    def is_exhausted(self, metrics: list[float]) -> bool:
        """Whether the metric of the last `patience` evaluations never exceeded the best one before them."""
        return bool(self._patience) and len(metrics) - 1 - metrics.index(max(metrics)) >= self._patience
