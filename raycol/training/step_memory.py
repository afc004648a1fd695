"""Memory of a training worker by a formula.

In bytes, for P weights of which Q are trained, D dimensions, and Z bytes per number of the encoder's computation (4 in
float32, otherwise 2):

    weights, gradients  4 P and 4 Q; with several workers 4 Q more for the buckets that they reduce
    optimiser           8 Q with AdamW, 4 per weight that Muon trains
    moving average      4 Q with ema_decay
    guide               4 per weight of the guide
    activations         N (a + b L), of the mini-batch of N tokens whose longest text has L; or the sum over those that
                        are kept, without GradCache all
    embeddings          4 D (3 own tokens + 2 gathered tokens + 3 gathered passages * longest passage); the gathered
                        ones are pooled. A symmetric loss adds 8 D (gathered tokens + gathered queries * longest
                        query)
    scores              16 for each pair of a query token, of the queries scored at a time, and a passage; 4 for each
                        similarity of their tokens, at most 2^24 at once. With XTR, or if queries are compared with
                        their own passages only, 28 for each similarity

With shard_weights the first four are divided by the number of workers, without buckets; the weights and gradients
that a pass gathers come on top: those of two layers, and of what is in no layer.

a and b are measured: what a forward pass over texts of two lengths stores for the backward pass. b is 0 if attention
stores no matrix. With gradient checkpointing the layers share N (a + b L) / n_layers, and each stores its input, N H Z
for H hidden dimensions. Python and torch themselves take some 0.7 GB more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder

from raycol.models.tokenization import Task, tokenize
from raycol.training.config import TrainConfig
from raycol.training.encoding import Features, kept_positions, text_widths
from raycol.training.gradcache import GradCache
from raycol.training.mini_batches import MiniBatchSize, mini_batches
from raycol.training.optimiser import layers_of, make_optimiser
from raycol.training.scoring import MAX_SIMILARITIES

# Tokens of the texts whose activations are measured, unless documents are shorter.
_MEASURED_LENGTH = 128
# Bytes of a similarity with its gradient, and of a pair of a query token and a passage.
_SIMILARITY_BYTES, _PAIR_BYTES = 28, 16


@dataclass(frozen=True)
class SampledTexts:
    """Tokenized texts of one kind, of a worker's share of a batch or of some of its examples."""

    features: Features
    task: Task
    n_ways: int  # texts per example

    @property
    def n_tokens(self) -> int:
        """Number of tokens, without padding."""
        return int(kept_positions(self.features).sum())

    @cached_property
    def widths(self) -> list[int]:
        """Each text's number of columns up to its last token."""
        return text_widths(self.features)

    def shapes(self, size: MiniBatchSize) -> list[tuple[int, int]]:
        """Number of texts and width of each mini-batch, the widest first."""
        return [(len(rows), self.widths[rows[0]]) for rows in mini_batches(self.widths, size)]


SampledBatch = tuple[SampledTexts, SampledTexts]  # queries, documents


def step_memory(
    config: TrainConfig,
    encoder: MultiVectorEncoder,
    loss: GradCache,
    batches: Sequence[SampledBatch],
) -> dict[str, int]:
    """Bytes of a worker, by what they hold; see the module's docstring.

    Args:
        config, encoder, loss: of the training.
        batches: a sample.
    """
    share = config.batch_size // config.num_workers
    n_ways = max(documents.n_ways for _, documents in batches)
    longest = math.ceil(max(max(documents.widths) for _, documents in batches) / config.pool_factor)
    longest_query = max(max(queries.widths) for queries, _ in batches)
    n_examples = config.batch_size if loss.gather else share
    n_sampled = sum(len(queries.widths) for queries, _ in batches)
    query_tokens, document_tokens = (
        sum(one.n_tokens for one in kind) / n_sampled for kind in zip(*batches, strict=True)
    )
    own, gathered = share * (query_tokens + document_tokens), n_examples * document_tokens / config.pool_factor
    numbers = 3 * own + 2 * gathered + 3 * n_examples * n_ways * longest
    if loss.symmetric:
        numbers += 2 * n_examples * (query_tokens + longest_query)
    compared = n_ways if loss.own_documents else n_examples * n_ways
    pairs = min(share, loss.score_mini_batch_size) * longest_query * compared
    scores = _PAIR_BYTES * pairs + 4 * min(pairs * longest, MAX_SIMILARITIES)
    if loss.own_documents or config.scoring == "xtr":
        scores = _SIMILARITY_BYTES * pairs * longest
    return {
        **_of_weights(config, encoder, loss),
        **({"guide": 4 * loss.guide.n_weights} if loss.guide else {}),
        "activations": round(_activations(config, encoder, loss, batches)),
        "embeddings": round(4 * encoder.get_embedding_dimension() * numbers),
        "scores": scores,
    }


def _of_weights(config: TrainConfig, encoder: MultiVectorEncoder, loss: GradCache) -> dict[str, int]:
    """Bytes of the weights, of their gradient and of the optimiser's state."""
    n = sum(one.numel() for one in encoder.parameters())
    trained = sum(one.numel() for one in encoder.parameters() if one.requires_grad)
    optimiser = make_optimiser(encoder, loss, config)
    by_muon = sum(one.numel() for group in optimiser.param_groups if group.get("muon") for one in group["params"])
    state = 8 * trained - 4 * by_muon
    shares = {"weights": 4 * n, "gradients": 4 * trained, "optimiser": state}
    if config.ema_decay:
        shares["moving average"] = 4 * trained
    if not config.shard_weights:
        return shares | {"gradients": 4 * trained * (2 if config.num_workers > 1 else 1)}
    layers = layers_of(encoder[0].model, "shard_weights")
    gathered = n - sum(one.numel() for layer in layers[2:] for one in layer.parameters())
    return {
        name: share // config.num_workers + (4 * gathered if name in ("weights", "gradients") else 0)
        for name, share in shares.items()
    }


def _activations(
    config: TrainConfig, encoder: MultiVectorEncoder, loss: GradCache, batches: Sequence[SampledBatch]
) -> float:
    """Bytes that the largest mini-batch stores for the backward pass, or those that are kept."""
    linear, quadratic = _activation_coefficients(config, encoder)
    backbone = encoder[0].model.config
    n_layers, hidden = backbone.num_hidden_layers, backbone.hidden_size * (4 if config.dtype == "float32" else 2)

    def of(n: int, width: int) -> float:
        stored = n * width * (linear + quadratic * width)
        return n * width * n_layers * hidden + stored / n_layers if config.gradient_checkpointing else stored

    share = config.batch_size // config.num_workers
    stored = []
    for texts in batches:
        shapes = [shape for one in texts for shape in one.shapes(loss.mini_batch_size)]
        by_mini_batch = [of(*shape) for shape in shapes]
        n_tokens = sum(n * width for n, width in shapes) * share / len(texts[0].widths)
        of_batch = sum(by_mini_batch) * share / len(texts[0].widths)
        stored.append(max(max(by_mini_batch), min(1.0, loss.kept_tokens / n_tokens) * of_batch))
    return max(stored)


def _activation_coefficients(config: TrainConfig, encoder: MultiVectorEncoder) -> tuple[float, float]:
    """Bytes stored per token, and per token and token of its text: a and b of the module's docstring."""
    long = min(encoder[0].document_length or _MEASURED_LENGTH, _MEASURED_LENGTH)
    short = long // 2
    features = tokenize(encoder, ["one text of several words"], "document")
    per_token = [_stored_bytes(config, encoder, features, length) / length for length in (short, long)]
    quadratic = max(0.0, (per_token[1] - per_token[0]) / (long - short))
    return per_token[1] - quadratic * long, quadratic


def _stored_bytes(config: TrainConfig, encoder: MultiVectorEncoder, features: Features, length: int) -> int:
    """Bytes that a forward pass over one text of `length` tokens stores for the backward pass, without the weights."""
    n = features["input_ids"].shape[1]
    repeated = {
        name: value.repeat(1, -(-length // n))[:, :length].to(encoder.device)
        if isinstance(value, torch.Tensor) and value.ndim == 2
        else value
        for name, value in features.items()
    }
    weights = {one.untyped_storage().data_ptr() for one in encoder.parameters()}
    stored: dict[int, int] = {}

    def store(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    was_training = encoder.training
    encoder.train()
    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor), autocast(config, encoder):
        encoder(repeated, task="document")
    encoder.train(was_training)
    return sum(stored.values())


def autocast(config: TrainConfig, encoder: MultiVectorEncoder) -> AbstractContextManager[Any]:
    """The precision of the encoder's computation."""
    if config.dtype == "float32":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(encoder.device.type, getattr(torch, config.dtype))
    return context
