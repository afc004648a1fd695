"""Division of a batch's texts into mini-batches, longest first: little of what is encoded is padding.

The order of texts within a batch is free, since a loss sees their embeddings in the batch's own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MiniBatchSize:
    """Size of a mini-batch.

    Args:
        texts: number of texts.
        tokens: number of tokens, padding included, in place of `texts`; a longer text is a mini-batch of its own.
    """

    texts: int
    tokens: int | None = None


def mini_batches(lengths: Sequence[int], size: MiniBatchSize) -> list[list[int]]:
    """Divide texts, given by their lengths in tokens, into mini-batches; return the texts' numbers, longest first.

    The first mini-batch takes the most memory, so that a size too large for it fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    batches = []
    while order:
        n = max(1, size.tokens // max(1, lengths[order[0]])) if size.tokens else size.texts
        batches.append(order[:n])
        order = order[n:]
    return batches


def divided(batches: list[list[int]], n: int) -> list[list[int]]:
    """Halve the mini-batches with most texts until there are `n`, in the same order of texts."""
    batches = list(batches)
    while len(batches) < n:
        number = max(range(len(batches)), key=lambda number: len(batches[number]))
        rows = batches[number]
        batches[number : number + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return batches
