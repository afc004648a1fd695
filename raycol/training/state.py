"""Training state on disk: weights, optimiser, learning-rate schedule, loss scaler, history.

Tensors are safetensors, the rest is JSON, nothing is pickled. A training resumed from these files continues as if it
had not been interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.amp import GradScaler

from raycol.errors import InputError
from raycol.training.sharding import sharded_like, whole

WEIGHTS, OPTIMISER = "weights.safetensors", "optimiser.safetensors"
SETTINGS = "optimiser.json"


def snapshot(module: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Copy a module's weights to the CPU, by name.

    Args:
        module: whose weights; if they are sharded, all workers must call this.
        keep: whether this worker needs the copy.
    """
    return copies(module.state_dict().items(), keep=keep)


def mix_weights(module: nn.Module, initial: Mapping[str, Tensor], share: float) -> None:
    """Interpolate a module's weights with its initial ones, in place: `share * initial + (1 - share) * trained`.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(sharded_like(initial[name].to(tensor.device), tensor), share)


@contextmanager
def changed_weights(module: nn.Module, changes: Iterable[Callable[[], None]]) -> Iterator[None]:
    """Apply changes to a module's weights for the duration of the block, then restore the trained weights."""
    changes = tuple(changes)
    trained = snapshot(module) if changes else {}
    for change in changes:
        change()
    try:
        yield
    finally:
        if trained:
            load(module, trained)


def copies(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Copy tensors to the CPU, by name, see `snapshot`."""
    found = {}
    for name, tensor in tensors:
        gathered = whole(tensor.detach())
        if keep:
            found[name] = gathered.to("cpu", copy=True).contiguous()
    return found


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole weights into a module, which may be sharded."""
    current = module.state_dict()
    module.load_state_dict({name: sharded_like(tensor, current[name]) for name, tensor in weights.items()})


def snapshot_optimiser(
    optimiser: Any,
    schedule: Any,
    scaler: GradScaler | None,
    log_temperature: Tensor | None = None,
    *,
    keep: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copy an optimiser's tensors to the CPU, see `snapshot`; return them with its groups and the others' state.

    The others are the learning-rate schedule, the loss scaler, and the trained temperature, which is no weight of the
    encoder.
    """
    state = optimiser.state_dict()
    tensors = copies(
        ((f"{number}.{name}", tensor) for number, values in state["state"].items() for name, tensor in values.items()),
        keep=keep,
    )
    settings = {"groups": state["param_groups"], "schedule": schedule.state_dict()}
    if log_temperature is not None:
        settings["log_temperature"] = log_temperature.item()
    return tensors, settings | ({"scaler": scaler.state_dict()} if scaler else {})


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
    load(module, weights)


def _describe_shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"


def load_optimiser(
    folder: Path, optimiser: Any, schedule: Any, scaler: GradScaler | None, log_temperature: Tensor | None = None
) -> None:
    """Restore an optimiser and what `snapshot_optimiser` saves with it from a checkpoint's folder."""
    settings = json.loads((folder / SETTINGS).read_bytes())
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for name, tensor in load_file(folder / OPTIMISER).items():
        number, _, field = name.partition(".")
        parameter = parameters[int(number)]
        like = parameter if tensor.shape == parameter.shape else tensor
        state.setdefault(int(number), {})[field] = sharded_like(tensor, like)
    optimiser.load_state_dict({"state": state, "param_groups": settings["groups"]})
    schedule.load_state_dict(settings["schedule"])
    if scaler:
        scaler.load_state_dict(settings["scaler"])
    if log_temperature is not None:
        log_temperature.data.fill_(settings["log_temperature"])
