"""Before the first step: the training set, the collection to evaluate on, and all batches that there will be.

Whatever is wrong with the input is found here, by the process that was started, before any worker is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from raycol.core.progress import console
from raycol.data import load_beir
from raycol.errors import InputError
from raycol.training.batches import BatchPlan, Share
from raycol.training.config import TrainConfig
from raycol.training.dataset import SourceInfo, TrainingSet, write_training_set
from raycol.training.evaluation import held_out_collection, held_out_rows, save_collection


class TrainingTask(BaseModel):
    """What there is to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[SourceInfo, ...]
    steps: int


def prepare(config: TrainConfig, data: Path, collection: Path) -> TrainingTask:
    """Write the training set to one empty folder and the collection to evaluate on, if any, to another.

    Raises:
        InputError: unusable data, or too few examples for a batch.
    """
    sources = tuple(write_training_set(config, data))
    examples = TrainingSet(data)
    plan = make_plan(config, sources, examples)
    plan.check()
    _check_negatives(config, plan)
    epochs = config.epochs or 1
    batches = epochs * sum(len(share.examples) for share in plan.shares) // config.batch_size
    of_epochs = batches // config.accumulate
    steps = min(config.max_steps, of_epochs) if config.max_steps and config.epochs else config.max_steps or of_epochs
    if not steps:
        raise InputError(
            f"{batches} batches of {config.batch_size} examples make no step of {config.accumulate}; "
            "lower --accumulate or bring more"
        )
    if config.eval_data:
        dataset = load_beir(config.eval_data, config.eval_split, config.on_error)
        for note in dataset.notes:
            console.print(f"eval_data: {note}")
        save_collection(collection, dataset)
    elif config.held_out:
        save_collection(collection, held_out_collection(examples, _held_out(config, examples)))
    return TrainingTask(sources=sources, steps=steps)


def _check_negatives(config: TrainConfig, plan: BatchPlan) -> None:
    """Raise `InputError` where a query has no document but its positive to compare: its loss is 0 and says nothing."""
    if config.distils:
        return
    n_queries = config.batch_size if config.gather_across_workers else config.batch_size // config.num_workers
    for share in plan.shares:
        if n_queries * share.n_ways < 2:
            whose = "a batch" if config.gather_across_workers else "a worker's part of a batch"
            raise InputError(
                f"{share.name}: {whose} is one query and its positive, without any negative, so that nothing is "
                f"learned; raise --batch-size ({config.batch_size}), or bring negatives (raycol mine)"
            )


def make_plan(config: TrainConfig, sources: tuple[SourceInfo, ...], examples: TrainingSet) -> BatchPlan:
    """All batches of a training set; those of queries that are held out are in none."""
    source_N = examples.column("source")
    kept_N = np.ones(len(examples), bool)
    if config.held_out:
        kept_N[_held_out(config, examples)] = False
    shares = tuple(
        Share(info.path, np.flatnonzero(kept_N & (source_N == number)), info.weight, info.n_ways)
        for number, info in enumerate(sources)
    )
    return BatchPlan(
        shares=shares,
        queries_N=examples.column("query"),
        # A teacher scores each document for its own query only.
        positives_N=None if config.distils else examples.positives(),
        batch_size=config.batch_size,
        seed=config.seed,
        distinct=config.no_duplicates,
    )


def _held_out(config: TrainConfig, examples: TrainingSet) -> np.ndarray:
    return held_out_rows(examples, config.held_out, config.seed)
