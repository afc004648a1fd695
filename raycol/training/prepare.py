"""Preparation on the driver: the training set, the evaluation collections, the number of steps.

All input errors surface here, before any worker starts.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from raycol.errors import InputError
from raycol.training.batches import BatchPlan, MixtureSource
from raycol.training.config import TrainConfig
from raycol.training.dataset import SourceInfo, TrainingSet, write_training_set
from raycol.training.evaluation import EvaluationSet, held_out_rows, store_collections, store_held_out


class TrainingTask(BaseModel):
    """The prepared sources, the number of optimiser steps, the collections to evaluate on, and an id for trackers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceInfo, ...]
    steps: int
    collections: tuple[EvaluationSet, ...] = ()
    run_id: str = Field(default_factory=lambda: uuid.uuid4().hex)


def prepare(config: TrainConfig, data: Path, collections: Path) -> TrainingTask:
    """Write the training set to the empty folder `data`, and the evaluation collections, if any, to `collections`.

    Raises:
        InputError: unusable data or collections, or too few examples for a batch.
    """
    sources = tuple(write_training_set(config, data))
    examples = TrainingSet(data)
    plan = make_plan(config, sources, examples)
    plan.check()
    _check_negatives(config, plan)
    epochs = config.epochs or 1
    n_batches = epochs * sum(len(source.examples) for source in plan.sources) // config.batch_size
    epoch_steps = n_batches // config.accumulate
    steps = (
        min(config.max_steps, epoch_steps) if config.max_steps and config.epochs else config.max_steps or epoch_steps
    )
    if not steps:
        raise InputError(
            f"`accumulate={config.accumulate}`: the data has only {n_batches} batches of {config.batch_size} "
            "examples, too few for a step; lower `accumulate=` or add examples"
        )
    _check_average(config, steps)
    sets = store_collections(config, collections)
    if config.held_out:
        sets = (store_held_out(collections, examples, _held_out(config, examples), config.held_out),)
    return TrainingTask(sources=sources, steps=steps, collections=sets)


def _check_average(config: TrainConfig, steps: int) -> None:
    """Raise `InputError` if a training has fewer checkpoints than it averages."""
    setting = "eval_every" if config.evaluates else "save_every"
    every = getattr(config, setting)
    n_checkpoints = -(-steps // every)
    if config.average_checkpoints and n_checkpoints < config.average_checkpoints:
        raise InputError(
            f"`average_checkpoints={config.average_checkpoints}`: {steps} steps have {n_checkpoints} "
            f"{'evaluations' if config.evaluates else 'checkpoints'} with `{setting}={every}`; lower one of them"
        )


def _check_negatives(config: TrainConfig, plan: BatchPlan) -> None:
    """Raise `InputError` if a query is compared with its positive only: its loss is 0."""
    if config.distils:
        return
    n_queries = config.batch_size if config.gather_across_workers else config.batch_size // config.num_workers
    for source in plan.sources:
        if n_queries * source.n_ways < 2:
            batch = "a batch" if config.gather_across_workers else "a worker's share of a batch"
            raise InputError(
                f"{source.name}: {batch} is one query and its positive, without negatives, so its loss is always 0; "
                f"raise `batch_size=` ({config.batch_size}) or mine negatives (raycol mine)"
            )


def make_plan(config: TrainConfig, sources: tuple[SourceInfo, ...], examples: TrainingSet) -> BatchPlan:
    """Return the batch plan of a training set, without the examples of held-out queries."""
    source_N = examples.column("source")
    trained_N = np.ones(len(examples), bool)
    if config.held_out:
        trained_N[_held_out(config, examples)] = False
    positives_N = None
    if config.in_batch:
        positives_N = examples.best_documents() if config.distils else examples.positives()
    mixture = tuple(
        MixtureSource(info.path, np.flatnonzero(trained_N & (source_N == number)), info.weight, info.n_ways)
        for number, info in enumerate(sources)
    )
    return BatchPlan(
        sources=mixture,
        queries_N=examples.column("query"),
        # If a document is compared with its own query only, equal positives do no harm.
        positives_N=positives_N,
        batch_size=config.batch_size,
        seed=config.seed,
        allow_duplicates=config.allow_duplicates,
    )


def _held_out(config: TrainConfig, examples: TrainingSet) -> np.ndarray:
    return held_out_rows(examples, config.held_out, config.seed)
