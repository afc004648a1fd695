"""The workers of one training: their process group, or this process alone."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def place_in_group() -> tuple[int, int]:
    """This worker's number, and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def of_all(tensor: Tensor) -> list[Tensor]:
    """A tensor of every worker, by their numbers, in main memory. Its shape and place are the same on all of them."""
    _, n_workers = place_in_group()
    if n_workers == 1:
        return [tensor.detach().cpu()]
    found = [torch.empty_like(tensor) for _ in range(n_workers)]
    distributed.all_gather(found, tensor.detach().contiguous())
    return [one.cpu() for one in found]
