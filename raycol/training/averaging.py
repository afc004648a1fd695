"""Averages of the weights over the steps of a training: a moving one, and the mean of several checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from raycol.training.sharding import sharded_like
from raycol.training.state import copies, load

AVERAGE = "average.safetensors"


class MovingAverage(TrainerCallback):
    """Exponential moving average of the trained weights, updated after each step.

    After step t it is the mean of the weights after each step i, weighted by `decay ** (t - i)`. The initial weights
    have no part in it.

    Args:
        module: whose trainable weights are averaged; the average takes as much memory as they do.
        decay: below 1; the average is over about 1 / (1 - decay) steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay = module, decay
        self._average: dict[str, Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights after a step."""
        share = (1 - self._decay) / (1 - self._decay**state.global_step)
        with torch.no_grad():
            for name, weight in self._module.named_parameters():
                if name in self._average:
                    self._average[name].lerp_(weight, share)
                elif weight.requires_grad:
                    self._average[name] = weight.detach().clone()

    def apply(self) -> None:
        """Replace the module's weights by their average, if a step was taken."""
        _replace(self._module, self._average)

    def snapshot(self, *, keep: bool) -> dict[str, Tensor]:
        """Copy the average to the CPU, see `state.snapshot`."""
        return copies(self._average.items(), keep=keep)

    def load(self, path: Path) -> None:
        """Load the average of a checkpoint."""
        weights = dict(self._module.named_parameters())
        self._average = {
            name: sharded_like(tensor.to(weights[name].device), weights[name])
            for name, tensor in load_file(path).items()
        }


def load_average(path: Path, module: nn.Module) -> None:
    """Replace a module's weights, which are not sharded, by the moving average of a checkpoint."""
    _replace(module, load_file(path))


def load_mean(paths: Iterable[Path], module: nn.Module) -> None:
    """Load the mean of the weights of several checkpoints into a module."""
    mean: dict[str, Tensor] = {}
    for n, path in enumerate(paths, start=1):
        for name, tensor in load_file(path).items():
            if name in mean and tensor.is_floating_point():
                mean[name].lerp_(tensor, 1 / n)
            else:
                mean[name] = tensor
    load(module, mean)


def _replace(module: nn.Module, average: dict[str, Tensor]) -> None:
    weights = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in average.items():
            weights[name].copy_(tensor)
