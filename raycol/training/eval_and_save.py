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
        keep: newest checkpoints kept, in addition to the best one.
    """

    def __init__(self, save_every: int, eval_every: int, patience: int, keep: int) -> None:
        self._save_every, self._eval_every, self._patience, self.keep = save_every, eval_every, patience, keep

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to evaluate and save after a step. The last step always does."""
        last = state.global_step >= state.max_steps
        control.should_evaluate = bool(self._eval_every) and (last or state.global_step % self._eval_every == 0)
        due = last or control.should_evaluate or state.global_step % max(self._save_every, 1) == 0
        control.should_save = bool(self._save_every) and due

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do nothing at the end of an epoch: its last step was handled by `on_step_end`."""
        control.should_evaluate = control.should_save = False

    def is_exhausted(self, metrics: list[float]) -> bool:
        """Whether the metric of the last `patience` evaluations never exceeded the best one before them."""
        return bool(self._patience) and len(metrics) - 1 - metrics.index(max(metrics)) >= self._patience
