"""Fully sharded weights (FSDP2): each worker holds a share of every weight, its gradient and its optimiser state.

A pass gathers the weights of one layer after the other; its backward pass adds each gradient to the workers' shares.
All workers must take the same number of passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from raycol.training.config import TrainConfig
from raycol.training.optimiser import layers_of


def shard(encoder: MultiVectorEncoder, config: TrainConfig) -> None:
    """Divide an encoder's weights among the workers, in place; on GPUs this moves it there, layer by layer.

    Raises:
        InputError: the backbone has no list of layers.
    """
    mesh = init_device_mesh("cuda" if config.on_gpu else "cpu", (config.num_workers,))
    dtype = None if config.dtype == "float32" else getattr(torch, config.dtype)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in (*layers_of(encoder[0].model, "shard_weights"), encoder):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # transformers' Trainer neither moves such a model nor wraps it for distributed training.
    encoder.is_distributed_loading_by_transformers = True


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Hold all weights on every worker during the block, where workers may take different numbers of passes."""
    sharded = [each for each in module.modules() if isinstance(each, FSDPModule)]
    for each in sharded:
        each.set_reshard_after_forward(False, recurse=False)
        each.unshard()
    try:
        yield
    finally:
        for each in sharded:
            each.set_reshard_after_forward(True, recurse=False)
            each.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all workers if it is sharded; then all workers must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is, if that is."""
    if not isinstance(other, DTensor):
        return tensor
    # Every worker has the tensor, so none sends it.
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
