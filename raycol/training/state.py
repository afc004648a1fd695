"""Training state on disk: weights, optimiser, learning-rate schedule, history.

Tensors are safetensors, the rest is JSON, nothing is pickled. A training resumed from these files continues as if it
had not been interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raycol.errors import InputError

WEIGHTS, OPTIMISER = "weights.safetensors", "optimiser.safetensors"
SETTINGS = "optimiser.json"


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy a module's weights to the CPU, by name."""
    return {name: _copy(tensor) for name, tensor in module.state_dict().items()}


def mix_weights(module: nn.Module, initial: Mapping[str, Tensor], share: float) -> None:
    """Interpolate a module's weights with its initial ones, in place: `share * initial + (1 - share) * trained`.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(initial[name].to(tensor.device), share)


@contextmanager
def mixed_weights(module: nn.Module, initial: Mapping[str, Tensor], share: float) -> Iterator[None]:
    """Apply `mix_weights` for the duration of the block, then restore the trained weights."""
    trained = snapshot(module)
    mix_weights(module, initial, share)
    try:
        yield
    finally:
        module.load_state_dict(trained)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def snapshot_optimiser(optimiser: Any, schedule: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy an optimiser's tensors to the CPU; return them with its parameter groups and the schedule's state."""
    state = optimiser.state_dict()
    tensors = {
        f"{number}.{name}": _copy(tensor)
        for number, values in state["state"].items()
        for name, tensor in values.items()
    }
    return tensors, {"groups": state["param_groups"], "schedule": schedule.state_dict()}


def load_weights(path: Path, module: nn.Module) -> None:
    """Load a checkpoint's weights into a module.

    Raises:
        InputError: the checkpoint has another architecture.
    """
    weights = load_file(path)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != saved:
        name = min(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
        raise InputError(
            f"{path}: a checkpoint of another architecture: {name} is {_describe_shape(saved.get(name))} in the "
            f"checkpoint and {_describe_shape(expected.get(name))} in the model; pass the `model=` that it was "
            "trained from, or choose another `out=`"
        )
    module.load_state_dict(weights)


def _describe_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"


def load_optimiser(folder: Path, optimiser: Any, schedule: Any) -> None:
    """Restore an optimiser and its learning-rate schedule from a checkpoint's folder."""
    settings = json.loads((folder / SETTINGS).read_bytes())
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / OPTIMISER).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": settings["groups"]})
    schedule.load_state_dict(settings["schedule"])
