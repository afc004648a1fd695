"""The process group of a training's workers; a single process without one counts as a group of 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this worker and number of workers."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Gather a tensor from every worker, in rank order, on the CPU. All workers must pass the same shape and dtype."""
    _, n_workers = rank_and_world_size()
    if n_workers == 1:
        return [tensor.detach().cpu()]
    gathered = [torch.empty_like(tensor) for _ in range(n_workers)]
    distributed.all_gather(gathered, tensor.detach().contiguous())
    return [one.cpu() for one in gathered]


@dataclass(frozen=True)
class GatheredTexts:
    """The texts of all workers, in rank order.

    Shapes: N tokens of all texts, D dimensions, B texts of a worker, A texts of all workers.

    Args:
        lengths_A: number of tokens of each text, on the CPU.
        ids_A: id of each text.
        counts: number of tokens of each worker.
    """

    lengths_A: Tensor
    ids_A: Tensor
    counts: tuple[int, ...]

    def first(self, n: int) -> int:
        """Position of this worker's first text among those of all workers, if each has `n`."""
        return rank_and_world_size()[0] * n if len(self.counts) > 1 else 0

    def sum_of_own(self, gradient_ND: Tensor) -> Tensor:
        """Return the sum, over all workers, of their gradients of this worker's tokens."""
        rank, _ = rank_and_world_size()
        if len(self.counts) == 1:
            return gradient_ND
        longest = max(self.counts)
        parts = [_longer(one, longest) for one in gradient_ND.split(self.counts)]
        own_ND = torch.empty_like(parts[rank])
        distributed.reduce_scatter(own_ND, parts)
        return own_ND[: self.counts[rank]]


def gather_texts(tokens_ND: Tensor, lengths_B: Tensor, ids_B: Tensor) -> tuple[Tensor, GatheredTexts]:
    """Gather the tokens of every worker's texts, text after text. All workers must pass the same number of texts.

    Their numbers of tokens differ: what is sent is padded to the largest of them, not to the longest text.
    """
    _, n_workers = rank_and_world_size()
    if n_workers == 1:
        return tokens_ND, GatheredTexts(lengths_B, ids_B, (len(tokens_ND),))
    gathered = all_gather(torch.stack([lengths_B.to(ids_B.device), ids_B]))
    lengths_A, ids_A = torch.cat(gathered, dim=1)
    counts = tuple(int(lengths_B.sum()) for lengths_B, _ in gathered)
    # As bytes, because Gloo does not know bfloat16.
    sent = _longer(tokens_ND, max(counts)).contiguous().view(torch.uint8)
    received = [torch.empty_like(sent) for _ in counts]
    distributed.all_gather(received, sent)
    tokens = [one.view(tokens_ND.dtype)[:count] for one, count in zip(received, counts, strict=True)]
    return torch.cat(tokens), GatheredTexts(lengths_A, ids_A.to(ids_B.device), counts)


def _longer(tokens_ND: Tensor, n: int) -> Tensor:
    """Append zeros up to `n` tokens."""
    return torch.nn.functional.pad(tokens_ND, (0, 0, 0, n - len(tokens_ND)))
