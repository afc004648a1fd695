"""The process group of a training's workers; a single process without one counts as a group of 1."""

from __future__ import annotations

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
