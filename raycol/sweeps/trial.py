"""A trial of a sweep: a training in this process, which reports its evaluations. Nothing here needs Ray.

    NUMBER/settings.json    the training's settings
    NUMBER/reports.jsonl    a line an evaluation: its step and metric
    NUMBER/model            the model, if the training ended
    NUMBER/done.json        seconds, once it has ended; or the error

A trial that is repeated reports its lines again, so that the scheduler knows them, and goes on from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from raycol.distributed.executor import IN_PROCESS
from raycol.errors import InputError, RaycolError
from raycol.training.config import TrainConfig
from raycol.training.launch import train

SETTINGS, REPORTS, DONE = "settings.json", "reports.jsonl", "done.json"

# Takes an evaluation: its step and the metric. Whoever receives it may end the process.
OnEvaluation = Callable[[int, float], None]


class TrialRecord(BaseModel):
    """Outcome of a trial.

    Args:
        status: `stopped` early, `finished`, or `failed`.
        steps: step of each evaluation.
        values: its metric.
        seconds: of a finished training.
        error: of a failed one.
    """

    status: Literal["stopped", "finished", "failed"] = "stopped"
    steps: list[int] = []
    values: list[float] = []
    seconds: float | None = None
    error: str | None = None

    @property
    def best(self) -> float | None:
        """The best evaluation's metric; None without one."""
        return max(self.values, default=None)


def run_trial(config: TrainConfig, on_evaluation: OnEvaluation) -> None:
    """Train, unless the trial has ended before, and report every evaluation of the trained model.

    An error of raycol is recorded: a sweep goes on without the trial.

    Raises:
        InputError: the folder has a trial with other settings.
    """
    folder = Path(config.out).parent
    # Whether its training set is shared depends on the other trials.
    _claim(folder, {name: value for name, value in config.effective().items() if name != "prepared"})
    record = read_trial(folder)
    for step, value in zip(record.steps, record.values, strict=True):
        on_evaluation(step, value)
    if record.status != "stopped":
        return
    last = record.steps[-1] if record.steps else 0

    def on_record(entry: dict[str, float]) -> None:
        step = int(entry["step"])
        if config.eval_metric in entry and step > last:
            with (folder / REPORTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "value": entry[config.eval_metric]}) + "\n")
            on_evaluation(step, entry[config.eval_metric])

    try:
        done: dict[str, Any] = {"seconds": train(config, on_record=on_record, executor=IN_PROCESS).seconds}
    except RaycolError as error:
        done = {"error": str(error)}
    (folder / DONE).write_text(json.dumps(done), encoding="utf-8")


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if json.loads((folder / SETTINGS).read_text(encoding="utf-8")) != settings:
            raise InputError(f"{folder}: a trial with other settings; pass another folder")
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")


def read_trial(folder: Path) -> TrialRecord:
    """Return what a trial has recorded; a step that was repeated after a crash counts once."""
    values: dict[int, float] = {}
    with suppress(FileNotFoundError):
        for line in (folder / REPORTS).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # the last line may be truncated
                entry = json.loads(line)
                values[entry["step"]] = entry["value"]
    record = TrialRecord(steps=sorted(values), values=[values[step] for step in sorted(values)])
    with suppress(FileNotFoundError):
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        record = record.model_copy(update={"status": "failed" if "error" in done else "finished", **done})
    return record
