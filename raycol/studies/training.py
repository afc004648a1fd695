"""Training studies: ways to train a model, with several seeds, each evaluated exactly on all collections."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from pydantic import Field

from raycol.distributed.executor import ON_RAY
from raycol.evaluation.config import EvaluateConfig
from raycol.evaluation.measure import evaluate
from raycol.studies.cells import SCRATCH, Bench, CellSettings, Point
from raycol.training.config import TrainConfig
from raycol.training.launch import train

_DISTILLED = ("distillation", "lambda-loss", "margin-mse")
_EVALUATED = {"num_workers", "resources", "wait_for_nodes", "dtype", "resamples", "confidence", "seed"}


class TrainingSettings(CellSettings):
    """Settings of a cell: trainings, one after the other."""

    name: str
    """Name of the row."""

    stages: tuple[dict[str, Any], ...] = ()
    """Settings of `raycol train` for each training; no stage leaves the model as it is. A later stage trains the model
    of the one before. Distillation takes `teacher_data`."""

    common: dict[str, Any] = Field({})
    """Settings of every stage."""

    seed: int = 0
    """Seed of all stages; rows are averaged over seeds."""


def measure(settings: TrainingSettings, collection: str | None, bench: Bench) -> list[Point]:
    """Train, and evaluate the last model on every collection."""
    config, started, steps = bench.config, time.perf_counter(), 0
    with tempfile.TemporaryDirectory(dir=config.out, prefix=SCRATCH) as folder:
        model = config.model
        for number, stage in enumerate(settings.stages):
            values = {**settings.common, **stage, "model": model, "seed": settings.seed}
            distilled = values.get("objective") in _DISTILLED
            values["data"] = [str(path) for path in (config.teacher_data if distilled else ()) or config.train_data]
            values["out"] = model = f"{folder}/{number}"
            checked = TrainConfig.load(None, values, f"stage {number} of {settings.name}")
            steps += train(checked, executor=bench.executor or ON_RAY).steps
        seconds = time.perf_counter() - started
        folders = tuple(str(each.folder) for each in bench.collections.values())
        common = config.model_dump(include=_EVALUATED)
        done = evaluate(
            EvaluateConfig(data=folders, model=model, metrics=bench.metrics, **common), executor=bench.executor
        )
    return [
        Point(
            collection=name,
            per_query={metric: dict(values) for metric, values in result.per_query.items()},
            numbers={"steps": steps, "seconds": seconds},
        )
        for name, result in zip(bench.collections, done.results, strict=True)
    ]
