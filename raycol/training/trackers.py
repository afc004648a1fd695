"""Experiment trackers by Hugging Face's names: transformers' callbacks, with raycol's settings and metrics.

Only worker 0 reports. A run has the id of the training, so that a resumed training goes on in the same run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from raycol.errors import InputError
from raycol.training.config import TrainConfig
from raycol.training.evaluation import eval_metrics

# By tracker: the module that it needs, and the package that has it.
_NEEDS = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "trackio": ("trackio", "trackio"),
    "comet": ("comet_ml", "comet-ml"),
}
_MLFLOW_TAG = "raycol.run"


def check_trackers(config: TrainConfig) -> None:
    """Raise `InputError` if the package of a tracker is missing."""
    for name in config.report_to:
        module, package = _NEEDS[name]
        if not find_spec(module):
            raise InputError(f"`report_to={name}` needs the package {package}; pip install {package}, or leave it out")


@contextmanager
def tracking(config: TrainConfig, run_id: str, step: int) -> Iterator[list[TrainerCallback]]:
    """Yield the callbacks of `config.report_to`, and end their runs after the block.

    Args:
        config: the settings, which the trackers show.
        run_id: the same for all starts of a training.
        step: that the training starts after; TensorBoard hides later ones of an earlier start.
    """
    name = f"{config.name}-{run_id[:8]}"
    folder = Path(config.tracking_folder)
    settings, metrics = config.effective(), tuple(eval_metrics(config))
    with _restored_environment(), ExitStack() as stack:
        callbacks: list[TrainerCallback] = []
        for tracker in config.report_to:
            start, end = _STARTS.get(tracker), _ENDS.get(tracker)
            if start:
                for variable, value in start(folder, run_id).items():
                    os.environ.setdefault(variable, value)
            if end:
                stack.callback(end)
            callbacks.append(_Tracker(_make(tracker, folder / name, step), name, settings, metrics))
        yield callbacks


def _make(tracker: str, folder: Path, step: int) -> Any:
    (kind,) = get_reporting_integration_callbacks("comet_ml" if tracker == "comet" else tracker)
    if tracker != "tensorboard":
        return kind()
    from tensorboardX import SummaryWriter

    return kind(SummaryWriter(str(folder), purge_step=step + 1))


class _Tracker(TrainerCallback):
    """One of transformers' callbacks, which gets raycol's settings and names of metrics."""

    def __init__(self, callback: Any, name: str, settings: dict[str, Any], metrics: Collection[str]) -> None:
        self._callback, self._metrics = callback, metrics
        self._settings, self._name = settings, name

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._callback.on_train_begin(_Arguments(args, self._name, self._settings), state, control, **others)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        named = {_tag(name, evaluated=name.partition(" ")[0] in self._metrics): logs[name] for name in logs}
        arguments = _Arguments(args, self._name, self._settings)
        self._callback.on_log(arguments, state, control, logs=named, **others)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._callback.on_train_end(_Arguments(args, self._name, self._settings), state, control, **others)


def _tag(name: str, *, evaluated: bool) -> str:
    """A metric's name as all trackers accept it: transformers' prefix of evaluations, and nDCG_at_10 for nDCG@10."""
    return ("eval_" if evaluated else "") + re.sub(r"[^\w./-]+", "_", name.replace("@", "_at_"))


class _Arguments:
    """The Trainer's arguments, with other settings to show."""

    def __init__(self, arguments: Any, run_name: str, settings: dict[str, Any]) -> None:
        self._arguments, self._settings = arguments, settings
        self.run_name, self.project = run_name, os.environ.get("TRACKIO_PROJECT", "raycol")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._arguments, name)

    def to_dict(self) -> dict[str, Any]:
        return dict(self._settings)

    def to_json_string(self) -> str:
        return json.dumps(self._settings, indent=2)


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Remove the environment variables that the block adds, so that the next training has its own run."""
    before = set(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def _start_wandb(folder: Path, run_id: str) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    return {"WANDB_RUN_ID": run_id, "WANDB_RESUME": "allow", "WANDB_DIR": str(folder), "WANDB_PROJECT": "raycol"}


def _start_mlflow(folder: Path, run_id: str) -> dict[str, str]:
    """MLflow chooses the ids of its runs, so a training's is found by a tag."""
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "raycol")
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    tags = json.loads(os.environ.get("MLFLOW_TAGS", "{}")) | {_MLFLOW_TAG: run_id}
    found = mlflow.search_runs(filter_string=f"tags.`{_MLFLOW_TAG}` = '{run_id}'", output_format="list")
    os.environ["MLFLOW_TAGS"] = json.dumps(tags)
    values = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": experiment}
    return values | ({"MLFLOW_RUN_ID": found[0].info.run_id} if found else {})


def _end_wandb() -> None:
    import wandb

    wandb.finish()


def _end_comet() -> None:
    import comet_ml

    comet_ml.end()


_STARTS: dict[str, Callable[[Path, str], dict[str, str]]] = {
    "wandb": _start_wandb,
    "mlflow": _start_mlflow,
    "comet": lambda folder, run_id: {"COMET_EXPERIMENT_KEY": run_id, "COMET_PROJECT_NAME": "raycol"},
}
_ENDS: dict[str, Callable[[], None]] = {"wandb": _end_wandb, "comet": _end_comet}
