"""`raycol train --dry-run`: estimate a training's cost, without training."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from sentence_transformers import MultiVectorEncoder

from raycol.core.shown import Shown
from raycol.models.tokenization import tokenize
from raycol.training.batches import BatchPlan
from raycol.training.collator import SourceTokenizer
from raycol.training.config import TrainConfig
from raycol.training.dataset import TrainingSet
from raycol.training.encoding import backward, encode, select_texts
from raycol.training.example_dataset import ExampleDataset
from raycol.training.gradcache import GradCache
from raycol.training.objective import make_losses
from raycol.training.prepare import make_plan, prepare
from raycol.training.remining import indexing_of, mining_of
from raycol.training.step_memory import SampledBatch, SampledTexts, autocast, step_memory
from raycol.training.worker import freeze_unused, new_encoder

# Examples whose texts are tokenized.
_SAMPLED = 512
# Approximate number of tokens to measure the rate on.
_TIMED_TOKENS = 4096


class RoundsEstimate(Shown, BaseModel):
    """Estimated cost of the rounds of mining of a training.

    Args:
        rounds: number of them.
        texts: texts that each encodes: the corpus, once more the documents that its codebook is trained on, and the
            queries.
        tokens: tokens of these texts.
        hours: of encoding in all rounds, without search; None if the rate is unknown.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("rounds", "texts", "tokens", "hours")

    rounds: int
    texts: int
    tokens: int
    hours: float | None


class TrainEstimate(Shown, BaseModel):
    """Estimated cost of a training.

    Args:
        examples: number of examples to train on.
        steps: optimiser steps.
        tokens: tokens of all steps, padding not included.
        padded_share: share of padding in what is encoded.
        parameters, trained_parameters: weights of the model, and those that are trained.
        worker_bytes: memory of each worker, in batches of the source that needs most; on a GPU, of the GPU.
        memory: the same by what it holds.
        network_bytes: bytes that each worker sends in a step, in batches of the source that sends most.
        tokens_per_second: tokens of a worker per second, as passed or measured here; None if neither.
        hours: of all steps, without evaluation, scoring, a guide and mining; None without `tokens_per_second`.
        sampled: examples behind the tokens and the padding.
        mining: what mining during the training adds; None without `remine_every`. The tokens, memory and network of
            steps on mined negatives are counted, with random passages in their place.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("examples", "steps", "tokens", "worker_bytes", "network_bytes", "hours")

    examples: int
    steps: int
    tokens: int
    padded_share: float
    parameters: int
    trained_parameters: int
    worker_bytes: int
    memory: dict[str, int]
    network_bytes: int
    tokens_per_second: float | None
    hours: float | None
    sampled: int
    mining: RoundsEstimate | None = None


def estimate_training(config: TrainConfig, tokens_per_second: float | None = None) -> TrainEstimate:
    """Estimate a training from all of its examples' number and a sample's texts. Evaluation data are not read.

    Args:
        config: the settings.
        tokens_per_second: of a worker; None measures it here, unless the workers have GPUs and this machine has none.

    Raises:
        InputError: an unusable model or data, or too few examples.
    """
    measures = tokens_per_second is None and (torch.cuda.is_available() or not config.on_gpu)
    encoder = new_encoder(config, "cuda" if measures and config.on_gpu else "cpu")
    freeze_unused(encoder)
    with tempfile.TemporaryDirectory() as folder:
        data, collections = Path(folder) / "data", Path(folder) / "collections"
        data.mkdir()
        collections.mkdir()
        task = prepare(config.model_copy(update={"eval_data": None}), data, collections)
        examples = TrainingSet(data)
        plan = make_plan(config, task.sources, examples)
        n_batches = min(_SAMPLED, task.steps * config.accumulate)
        n_steps = [min(config.first_mined_step or task.steps, task.steps)]
        samples = [_sample(config, encoder, n_batches, ExampleDataset(examples, plan), plan)]
        if config.remine_every:
            n_steps.append(task.steps - n_steps[0])
            mined = _mined_plan(config, plan)
            samples.append(_sample(config, encoder, n_batches, ExampleDataset(examples, mined), mined))
        n_queries = sum(len(np.unique(ids_N)) for ids_N in examples.query_ids())
    losses = make_losses(encoder, config)
    costs = [_example_cost(config, encoder, losses, by_source) for by_source in samples]
    if measures:
        tokens_per_second = _measure_rate(config, encoder, losses[0], _texts(samples[0]))
    step_examples = config.batch_size * config.accumulate
    tokens, encoded = (
        step_examples * sum(n * getattr(cost, name) for n, cost in zip(n_steps, costs, strict=True))
        for name in ("tokens", "encoded_tokens")
    )
    seconds = tokens_per_second and tokens / (tokens_per_second * config.num_workers)
    parameters = list(encoder.parameters())
    memory = max((cost.memory for cost in costs), key=_total)
    return TrainEstimate(
        examples=sum(source.n_examples for source in plan.sources),
        steps=task.steps,
        tokens=round(tokens),
        padded_share=1 - tokens / encoded,
        parameters=sum(one.numel() for one in parameters),
        trained_parameters=sum(one.numel() for one in parameters if one.requires_grad),
        worker_bytes=_total(memory),
        memory=memory,
        network_bytes=max(cost.network_bytes for cost in costs),
        tokens_per_second=tokens_per_second,
        hours=seconds and seconds / 3600,
        sampled=costs[0].sampled,
        mining=_estimate_rounds(config, encoder, task.steps, n_queries, costs[0].query_tokens, tokens_per_second)
        if config.remine_every
        else None,
    )


def _mined_plan(config: TrainConfig, plan: BatchPlan) -> BatchPlan:
    """The batch plan of a round after the first, but for the negatives: random passages stand for those it mines."""
    n_ways = 1 + mining_of(config, config.model, "index", "mined").negatives
    n_ways = min(n_ways, config.n_ways or n_ways)
    return replace(plan, sources=tuple(replace(source, n_ways=n_ways) for source in plan.sources))


@dataclass(frozen=True)
class _ExampleCost:
    """What an example takes on average, and a step in batches of the source that needs most.

    Args:
        sampled: examples behind it.
        query_tokens, document_tokens: tokens of an example's query and of its documents.
        encoded_tokens: of both, with padding.
        memory, network_bytes: of a step; see `TrainEstimate`.
    """

    sampled: int
    query_tokens: float
    document_tokens: float
    encoded_tokens: float
    memory: dict[str, int]
    network_bytes: int

    @property
    def tokens(self) -> float:
        """Tokens of an example."""
        return self.query_tokens + self.document_tokens


def _example_cost(
    config: TrainConfig,
    encoder: MultiVectorEncoder,
    losses: Sequence[GradCache],
    by_source: Mapping[int, Sequence[SampledBatch]],
) -> _ExampleCost:
    """What examples take, from sampled batches by source."""
    settings = config.by_source
    texts = _texts(by_source)
    sampled = sum(len(one.widths) for one in texts if one.task == "query")
    query_tokens, document_tokens = (
        sum(one.n_tokens for one in texts if one.task == task) / sampled for task in ("query", "document")
    )
    shapes = [shape for one in texts for shape in one.shapes(losses[0].mini_batch_size)]  # all sources share the size
    passes = len(shapes) / sampled * config.batch_size / config.num_workers
    memory = max(
        (step_memory(settings[number], encoder, losses[number], batches) for number, batches in by_source.items()),
        key=_total,
    )
    network_bytes = max(
        _network_bytes(settings[number], encoder, losses[number], query_tokens, document_tokens, passes)
        for number in by_source
    )
    n_encoded = sum(n * width for n, width in shapes)
    return _ExampleCost(sampled, query_tokens, document_tokens, n_encoded / sampled, memory, network_bytes)


def _texts(by_source: Mapping[int, Sequence[SampledBatch]]) -> list[SampledTexts]:
    return list(chain.from_iterable(chain.from_iterable(by_source.values())))


def _total(memory: Mapping[str, int]) -> int:
    return sum(memory.values())


def _sample(
    config: TrainConfig, encoder: MultiVectorEncoder, n_batches: int, examples: ExampleDataset, plan: BatchPlan
) -> dict[int, list[SampledBatch]]:
    """Tokenize a worker's share of the first `n_batches`; return their texts by source."""
    n = 0
    by_source: dict[int, list[SampledBatch]] = {}
    share = config.batch_size // config.num_workers
    for position, batch in enumerate(plan.batches(n_batches)):
        rows = [examples[row, position] for row in batch[:share].tolist()[: _SAMPLED - n]]
        if not rows:
            break
        n += len(rows)
        number = int(rows[0]["dataset_name"])
        tokenizer = SourceTokenizer(encoder, config.data[number])
        documents = [text for row in rows for name, text in row.items() if name.startswith("document_")]
        queries = [row["query"] for row in rows]
        by_source.setdefault(number, []).append(
            (
                SampledTexts(tokenizer(queries, "query"), "query", 1),
                SampledTexts(tokenizer(documents, "document"), "document", len(documents) // len(rows)),
            )
        )
    return by_source


def _measure_rate(
    config: TrainConfig, encoder: MultiVectorEncoder, loss: GradCache, texts: list[SampledTexts]
) -> float:
    """Tokens per second of the passes that a step takes, on a worker's number of threads or its GPU."""
    documents = max((one for one in texts if one.task == "document"), key=lambda one: one.n_tokens)
    n_threads = torch.get_num_threads()
    if not config.on_gpu:
        torch.set_num_threads(max(1, int(config.resources["CPU"])))
    try:
        rates = []
        for n_tokens in (_TIMED_TOKENS // 8, _TIMED_TOKENS):  # the first pass warms up
            n = max(1, n_tokens * len(documents.widths) // documents.n_tokens)
            rows = list(range(min(n, len(documents.widths))))
            features = select_texts(documents.features, rows, max(documents.widths[row] for row in rows))
            features = {
                name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            started = time.perf_counter()
            with autocast(config, encoder):
                tokens_ND, encoded = encode(
                    encoder, features, "document", loss.mini_batch_size, kept_tokens=loss.kept_tokens
                )
                backward(encoder, [(encoded, torch.zeros_like(tokens_ND))])
            if config.on_gpu:
                torch.cuda.synchronize()
            rates.append(SampledTexts(features, "document", 1).n_tokens / (time.perf_counter() - started))
    finally:
        torch.set_num_threads(n_threads)
        encoder.zero_grad()
    return rates[-1]


def _estimate_rounds(
    config: TrainConfig,
    encoder: MultiVectorEncoder,
    steps: int,
    n_queries: int,
    query_tokens: float,
    tokens_per_second: float | None,
) -> RoundsEstimate:
    """Estimate the rounds of mining from a sample of the corpus.

    Args:
        config, encoder, steps: of the training.
        n_queries: different queries of the examples.
        query_tokens: tokens of a query.
        tokens_per_second: of a worker that trains.
    """
    from raycol.indexing.codebook import default_sample_size
    from raycol.indexing.sampling import sample_corpus

    mining = mining_of(config, config.model, "index", "mined")
    indexing = indexing_of(mining)
    sample = sample_corpus(indexing.files(), indexing.fields(), indexing.on_error)
    contents = [passage.content for _, passage in sample.passages]
    mean_tokens = SampledTexts(tokenize(encoder, contents, "document"), "document", 1).n_tokens / len(contents)
    documents = max(1, round(sample.records * len(contents) / sample.n_read))
    n_trained_on = default_sample_size(documents, mean_tokens, encoder.get_embedding_dimension() or 0, None)
    documents += min(n_trained_on, documents)
    rounds = (steps - 1) // (config.remine_every or steps) - config.remine_in_background
    tokens = documents * mean_tokens + n_queries * query_tokens
    # Encoding takes a forward pass. A step takes one or, with GradCache, two, and a backward pass, as long as two.
    rate = tokens_per_second and tokens_per_second * (4 if config.encodes_twice else 3) * (mining.num_workers or 1)
    return RoundsEstimate(
        rounds=rounds,
        texts=documents + n_queries,
        tokens=round(tokens),
        hours=rate and rounds * tokens / rate / 3600,
    )


def _network_bytes(
    config: TrainConfig,
    encoder: MultiVectorEncoder,
    loss: GradCache,
    query_tokens: float,
    document_tokens: float,
    passes: float,
) -> int:
    """Bytes that a worker sends per step: a ring's reduction of the weights' gradient, its tokens, their gradient.

    Of sharded weights, every pass gathers all of them, and every backward pass reduces their gradient.

    Args:
        config, encoder, loss: of the training.
        query_tokens, document_tokens: tokens of an example's query and of its documents.
        passes: mini-batches of a worker's share of a batch.
    """
    others = config.num_workers - 1
    trained = sum(one.numel() for one in encoder.parameters() if one.requires_grad)
    gathered = document_tokens / config.pool_factor + (query_tokens if loss.symmetric else 0)
    own = config.accumulate * config.batch_size / config.num_workers * gathered if loss.gather else 0
    sent_and_gradient = (4 if config.dtype == "float32" else 2) + 4
    tokens: float = others * own * (encoder.get_embedding_dimension() or 0) * sent_and_gradient
    sent: float = 2 * 4 * trained
    if config.shard_weights:
        n = sum(one.numel() for one in encoder.parameters())
        gathers = 3 if config.encodes_twice else 2  # forward and backward; with GradCache forward twice
        size = 4 if config.dtype == "float32" else 2
        sent = config.accumulate * passes * (gathers * size * n + 4 * trained)
    n_bytes: int = round(others / config.num_workers * sent + tokens)
    return n_bytes
