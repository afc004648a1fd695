"""Preparation on the driver: the training set, the evaluation collections, the number of steps.

All input errors surface here, before any worker starts.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from raycol.core.progress import Report, no_report
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.errors import InputError
from raycol.training.batches import BatchPlan, MixtureSource
from raycol.training.config import TrainConfig
from raycol.training.dataset import SourceInfo, TrainingSet
from raycol.training.evaluation import EvaluationSet, held_out_queries, store_collections, store_held_out
from raycol.training.preparation import write_training_set


class TrainingTask(BaseModel):
    """What workers train.

    Args:
        sources: the prepared sources.
        steps: optimiser steps of the training.
        collections: to evaluate on.
        run_id: for trackers.
        until: step to stop at, with a checkpoint; None for the last one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceInfo, ...]
    steps: int
    collections: tuple[EvaluationSet, ...] = ()
    run_id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    until: int | None = None

    @property
    def ends(self) -> bool:
        """Whether it ends the training."""
        return self.until in (None, self.steps)


def prepare(
    config: TrainConfig,
    data: str | Path,
    collections: Path,
    executor: Executor = IN_PROCESS,
    report: Report = no_report,
) -> TrainingTask:
    """Write the training set to `data`, unless it is there, and the evaluation collections, if any, to `collections`.

    Args:
        config: the settings.
        data: folder or URI of the training set.
        collections: an empty folder.
        executor: where the workers run if the data have several parts.
        report: receives the progress.

    Raises:
        InputError: unusable data or collections, or too few examples for a batch.
    """
    prepared = write_training_set(config, data, executor, report)
    sources = tuple(
        info.model_copy(update={"weight": source.weight or float(info.examples)})
        for info, source in zip(prepared.sources, config.data, strict=True)
    )
    examples = TrainingSet(data)
    plan = make_plan(config, sources, examples)
    plan.check()
    _check_negatives(config, plan)
    epochs = config.epochs or 1
    n_batches = epochs * sum(source.n_examples for source in plan.sources) // config.batch_size
    epoch_steps = n_batches // config.accumulate
    steps = (
        min(config.max_steps, epoch_steps) if config.max_steps and config.epochs else config.max_steps or epoch_steps
    )
    if not steps:
        raise InputError(
            f"`accumulate={config.accumulate}`: the data has only {n_batches} batches of {config.batch_size} "
            "examples, too few for a step; lower `accumulate=` or add examples"
        )
    if config.first_mined_step and config.first_mined_step >= steps:
        raise InputError(
            f"`remine_every={config.remine_every}`: training has only {steps} steps, and would use the first mined "
            f"negatives from step {config.first_mined_step} on; lower it"
        )
    _check_average(config, steps)
    sets = store_collections(config, collections)
    if config.held_out:
        sets = (store_held_out(collections, config.data, examples, _held_out(config, examples)),)
    return TrainingTask(sources=sources, steps=steps, collections=sets)


def check_round(config: TrainConfig, sources: tuple[SourceInfo, ...], data: str) -> None:
    """Raise `InputError` if the training set of a round cannot fill a batch."""
    make_plan(config, sources, TrainingSet(data)).check()


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
    n_queries = config.batch_size if config.gather_across_workers else config.batch_size // config.num_workers
    for source, own in zip(plan.sources, config.by_source, strict=True):
        if not own.distils and n_queries * source.n_ways < 2:
            batch = "a batch" if config.gather_across_workers else "a worker's share of a batch"
            raise InputError(
                f"{source.name}: {batch} is one query and its positive, without negatives, so its loss is always 0; "
                f"raise `batch_size=` ({config.batch_size}) or mine negatives (raycol mine)"
            )


def make_plan(config: TrainConfig, sources: tuple[SourceInfo, ...], examples: TrainingSet) -> BatchPlan:
    """Return the batch plan of a training set, without the examples of held-out queries."""
    held_out = frozenset(_held_out(config, examples).tolist()) if config.held_out else frozenset()
    mixture = [_mixture_source(number, info, examples, held_out) for number, info in enumerate(sources)]
    n_ways = max(source.n_ways for source in mixture)
    return BatchPlan(
        sources=tuple(
            replace(
                source,
                weight=source.weight ** (1 / config.mixing_temperature),
                # All examples of a batch have the same number of documents.
                n_ways=n_ways if config.mixing == "examples" else source.n_ways,
                # If a document is compared with its own query only, equal positives do no harm.
                distinct_positives=own.in_batch,
            )
            for source, own in zip(mixture, config.by_source, strict=True)
        ),
        batch_size=config.batch_size,
        seed=config.seed,
        allow_duplicates=config.allow_duplicates,
        held_out=held_out,
        mixing=config.mixing,
    )


def _mixture_source(number: int, info: SourceInfo, examples: TrainingSet, held_out: frozenset[int]) -> MixtureSource:
    indices = [index for index, shard in enumerate(examples.shards) if shard.source == number]
    shards = [partial(examples.shard, index) for index in indices]
    n_examples = sum(len(load().without(held_out).numbers_N) for load in shards) if held_out else info.examples
    return MixtureSource(info.path, n_examples, info.weight, info.n_ways, shards)


def _held_out(config: TrainConfig, examples: TrainingSet) -> NDArray[np.int64]:
    return held_out_queries(examples, config.held_out, config.seed)
