"""Token embeddings of a batch's texts, encoded in mini-batches, and the way back to the encoder's weights.

Shapes: B texts, N tokens of all texts that are scored (no padding, no skiplist), D dimensions. "Tokens" are embeddings
of scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from raycol.models.tokenization import Task
from raycol.training.group import all_gather
from raycol.training.mini_batches import MiniBatchSize, divided, mini_batches

Features = dict[str, Any]  # `input_ids` [B, n_tokens], `attention_mask`, ..., as `tokenize` returns them

# Features that say which positions are not padding.
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
    """How texts were encoded.

    Args:
        lengths_B: number of tokens of each text, on the CPU.
        mini_batches: all of them.
    """

    lengths_B: Tensor
    mini_batches: tuple[MiniBatch, ...]

    @property
    def kept_tokens(self) -> int:
        """Number of tokens, padding included, whose activations are kept."""
        return sum(one.features["input_ids"].numel() for one in self.mini_batches if one.tokens_ND is not None)

    def padding(self) -> tuple[int, int]:
        """Number of padding tokens, and of all tokens, in a forward pass over all texts."""
        kept = [kept_positions(one.features) for one in self.mini_batches]
        n = sum(mask_BT.numel() for mask_BT in kept)
        return n - int(sum(mask_BT.sum() for mask_BT in kept)), n


def encode(
    model: nn.Module, features: Features, task: Task, size: MiniBatchSize, *, kept_tokens: float
) -> tuple[Tensor, Encoded]:
    """Encode texts in mini-batches; return their tokens without a graph [N, D], text after text, and the way back.

    Args:
        model: the encoder, possibly wrapped for distributed training.
        features: of the texts.
        task: "query" or "document".
        size: of a mini-batch.
        kept_tokens: tokens, padding included, of the mini-batches whose activations are kept until `backward`; other
            mini-batches are encoded again. Infinite to keep all.
    """
    encoded = []
    by_text: list[Tensor] = [torch.empty(0)] * len(features["input_ids"])
    widths_B = text_widths(features)
    batches = mini_batches(widths_B, size)
    if isinstance(model, FSDPModule):
        # All workers must take the same number of passes.
        counts = all_gather(torch.tensor(len(batches), device=features["input_ids"].device))
        batches = divided(batches, int(max(counts)))
    # DistributedDataParallel reduces the gradient in one backward pass: in that over all graphs, or in the last one.
    synchronizes_later = isinstance(model, DistributedDataParallel) and kept_tokens < math.inf
    for rows in batches:
        part = select_texts(features, rows, widths_B[rows[0]])
        n = part["input_ids"].numel()
        keeps = n <= kept_tokens and not (synchronizes_later and rows is batches[-1])
        kept_tokens -= n if keeps else 0
        state = None if keeps else RandContext(*(v for v in part.values() if isinstance(v, Tensor)))
        with torch.set_grad_enabled(keeps), model.no_sync() if synchronizes_later else nullcontext():
            tokens_ND, lengths = _tokens(model, part, task)
        encoded.append(MiniBatch(part, task, rows, tokens_ND if keeps else None, state))
        for row, one in zip(rows, tokens_ND.detach().split(lengths), strict=True):
            by_text[row] = one
    lengths_B = torch.tensor([len(one) for one in by_text])
    return torch.cat(by_text), Encoded(lengths_B, tuple(encoded))


def backward(model: nn.Module, parts: Sequence[tuple[Encoded, Tensor]]) -> None:
    """Add the gradient of tokens to that of the encoder's weights.

    DistributedDataParallel reduces the gradient once, in the last mini-batch's pass.

    Args:
        model: the encoder, as in `encode`.
        parts: encoded texts, and the gradient of their tokens [N, D].
    """
    passes = [(one, grad_ND) for encoded, grads_ND in parts for one, grad_ND in _by_mini_batch(encoded, grads_ND)]
    passes.sort(key=lambda each: each[0].tokens_ND is None)  # kept activations are freed first
    if isinstance(model, DistributedDataParallel) and all(one.tokens_ND is not None for one, _ in passes):
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
    features: Features = {}
    for name, first in columns[0].items():
        if isinstance(first, Tensor) and first.ndim == 2:
            width = max(column[name].shape[1] for column in columns)
            padded = [pad(column[name], (0, width - column[name].shape[1])) for column in columns]
            features[name] = torch.stack(padded, dim=1).flatten(0, 1)
        elif isinstance(first, Tensor) and len(first) == len(columns[0]["input_ids"]):
            features[name] = torch.stack([column[name] for column in columns], dim=1).flatten()
        else:
            features[name] = first
    return features


def padded(tokens_ND: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Pad texts to the longest: tokens [B, T, D], and which of them are real [B, T]."""
    mask_BT = (torch.arange(max(1, int(lengths_B.max())))[None] < lengths_B[:, None]).to(tokens_ND.device)
    tokens_BTD = tokens_ND.new_zeros(*mask_BT.shape, tokens_ND.shape[-1])
    tokens_BTD[mask_BT] = tokens_ND
    return tokens_BTD, mask_BT


def _tokens(model: nn.Module, features: Features, task: Task) -> tuple[Tensor, list[int]]:
    """Encode texts: tokens [N, D], and the number of each text's."""
    out = model(dict(features), task=task)
    mask_BT = out["attention_mask"].bool()
    return out["token_embeddings"][mask_BT], mask_BT.sum(dim=1).tolist()


def text_widths(features: Features) -> list[int]:
    """Each text's number of columns up to its last token, [B]."""
    kept_BT = kept_positions(features)
    columns_T = torch.arange(1, kept_BT.shape[1] + 1, device=kept_BT.device)
    widths: list[int] = (kept_BT * columns_T).amax(dim=1).tolist()
    return widths


def kept_positions(features: Features) -> Tensor:
    """Which positions are not padding, [B, n_tokens]."""
    return torch.stack([features[name].bool() for name in _KEPT if name in features]).any(dim=0)


def select_texts(features: Features, rows: list[int], width: int) -> Features:
    """Features of some texts, of which none is wider than `width`: without the padding that all of them share."""
    n, full_width = features["input_ids"].shape
    part = {
        name: value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == n else value
        for name, value in features.items()
    }
    return {
        name: value[:, :width]
        if isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] == full_width
        else value
        for name, value in part.items()
    }


def _by_mini_batch(encoded: Encoded, gradient_ND: Tensor) -> list[tuple[MiniBatch, Tensor]]:
    by_text = gradient_ND.split(encoded.lengths_B.tolist())
    return [(one, torch.cat([by_text[row] for row in one.rows])) for one in encoded.mini_batches]
