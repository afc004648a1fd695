"""Token embeddings of a batch's texts, encoded in mini-batches, and the way back to the encoder's weights.

Shapes: B texts, N tokens of all texts that are scored (no padding, no skiplist), D dimensions. "Tokens" are embeddings
of scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from raycol.models.tokenization import Task

Features = dict[str, Any]  # `input_ids` [B, n_tokens], `attention_mask`, ..., as `tokenize` returns them

# Features that say which columns of a mini-batch hold more than padding.
_KEPT = ("attention_mask", "query_expansion_positions")


@dataclass(frozen=True)
class MiniBatch:
    """A mini-batch of texts after its forward pass.

    Args:
        features: of its texts.
        task: "query" or "document".
        rows: its texts' numbers in the batch.
        tokens_ND: with the graph of the forward pass; None to repeat the pass, with the same dropout, in `backward`.
        random_state: of the random number generators before the pass, to repeat it.
    """

    features: Features
    task: Task
    rows: list[int]
    tokens_ND: Tensor | None
    random_state: RandContext | None

    def forward(self, model: nn.Module) -> Tensor:
        """Return the tokens with their graph, [N, D]."""
        if self.tokens_ND is not None:
            return self.tokens_ND
        with self.random_state or nullcontext():
            return _tokens(model, self.features, self.task)[0]


@dataclass(frozen=True)
class Encoded:
    """The tokens of texts, text after text.

    Args:
        tokens_ND: all tokens, without a graph.
        lengths_B: number of tokens of each text, on the CPU.
        mini_batches: how they were encoded.
    """

    tokens_ND: Tensor
    lengths_B: Tensor
    mini_batches: tuple[MiniBatch, ...]


def mini_batches(features: Features, size: int) -> list[list[int]]:
    """Divide the texts into mini-batches of `size`; return the texts' numbers."""
    n = len(features["input_ids"])
    return [list(range(first, min(first + size, n))) for first in range(0, n, size)]


def encode(model: nn.Module, features: Features, task: Task, size: int, *, keep_activations: bool) -> Encoded:
    """Encode texts in mini-batches.

    Args:
        model: the encoder, possibly wrapped for distributed training.
        features: of the texts.
        task: "query" or "document".
        size: texts encoded at a time.
        keep_activations: keep all mini-batches' activations until `backward`, instead of encoding twice.
    """
    encoded = []
    by_text: list[Tensor] = [torch.empty(0)] * len(features["input_ids"])
    for rows in mini_batches(features, size):
        part = _rows(features, rows)
        state = None if keep_activations else RandContext(*(v for v in part.values() if isinstance(v, Tensor)))
        with torch.set_grad_enabled(keep_activations):
            tokens_ND, lengths = _tokens(model, part, task)
        encoded.append(MiniBatch(part, task, rows, tokens_ND if keep_activations else None, state))
        for row, one in zip(rows, tokens_ND.detach().split(lengths), strict=True):
            by_text[row] = one
    lengths_B = torch.tensor([len(one) for one in by_text])
    return Encoded(torch.cat(by_text), lengths_B, tuple(encoded))


def backward(model: nn.Module, parts: Sequence[tuple[Encoded, Tensor]]) -> None:
    """Add the gradient of tokens to that of the encoder's weights.

    DistributedDataParallel reduces the gradient once, in the last mini-batch's pass.

    Args:
        model: the encoder, as in `encode`.
        parts: encoded texts, and the gradient of their tokens [N, D].
    """
    passes = [(one, grad_ND) for encoded, grads_ND in parts for one, grad_ND in _by_mini_batch(encoded, grads_ND)]
    if all(one.tokens_ND is not None for one, _ in passes):
        # One pass over all graphs, since DistributedDataParallel expects one per batch.
        tokens = [one.forward(model) for one, _ in passes]
        torch.autograd.backward(tokens, [grad.to(out.dtype) for out, (_, grad) in zip(tokens, passes, strict=True)])
        return
    for number, (one, grad_ND) in enumerate(passes, start=1):
        synchronizes = number == len(passes) or not isinstance(model, DistributedDataParallel)
        with torch.enable_grad(), nullcontext() if synchronizes else model.no_sync():
            tokens_ND = one.forward(model)
            tokens_ND.backward(grad_ND.to(tokens_ND.dtype))


def joined(columns: Sequence[Features]) -> Features:
    """The features of several columns of texts as those of one column: first texts, second texts, ... of a row."""
    width = max(column["input_ids"].shape[1] for column in columns)
    features: Features = {}
    for name, first in columns[0].items():
        if isinstance(first, Tensor) and first.ndim == 2:
            padded = [pad(column[name], (0, width - column[name].shape[1])) for column in columns]
            features[name] = torch.stack(padded, dim=1).flatten(0, 1)
        elif isinstance(first, Tensor) and len(first) == len(columns[0]["input_ids"]):
            features[name] = torch.stack([column[name] for column in columns], dim=1).flatten()
        else:
            features[name] = first
    return features


def padded(tokens_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pad texts to the longest: tokens [B, T, D], and which of them are real [B, T]."""
    mask_BT = (torch.arange(int(lengths_B.max()))[None] < lengths_B[:, None]).to(tokens_ND.device)
    tokens_BTD = tokens_ND.new_zeros(*mask_BT.shape, tokens_ND.shape[-1])
    tokens_BTD[mask_BT] = tokens_ND
    return tokens_BTD, mask_BT


def _tokens(model: nn.Module, features: Features, task: Task) -> tuple[Tensor, list[int]]:
    """Encode texts: tokens [N, D], and the number of each text's."""
    out = model(dict(features), task=task)
    mask_BT = out["attention_mask"].bool()
    return out["token_embeddings"][mask_BT], mask_BT.sum(dim=1).tolist()


def _rows(features: Features, rows: list[int]) -> Features:
    """Features of some texts, without the padding on the right that all of them share."""
    n, width = features["input_ids"].shape
    part = {
        name: value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == n else value
        for name, value in features.items()
    }
    kept_BT = torch.stack([part[name].bool() for name in _KEPT if name in part]).any(dim=0)
    last = int(kept_BT.any(dim=0).nonzero().max()) + 1 if kept_BT.any() else width
    return {
        name: value[:, :last] if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == width else value
        for name, value in part.items()
    }


def _by_mini_batch(encoded: Encoded, gradient_ND: Tensor) -> list[tuple[MiniBatch, Tensor]]:
    by_text = gradient_ND.split(encoded.lengths_B.tolist())
    return [(one, torch.cat([by_text[row] for row in one.rows])) for one in encoded.mini_batches]
