"""The state of a training in files: weights, optimiser, schedule, random numbers, history.

Tensors are safetensors, the rest JSON; nothing is pickled. Together they continue a training as if it had not stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raycol.errors import InputError

WEIGHTS, OPTIMISER = "weights.safetensors", "optimiser.safetensors"
SETTINGS, RANDOM = "optimiser.json", "random.json"


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's weights in main memory, by name."""
    return {name: _copy(tensor) for name, tensor in module.state_dict().items()}


def mix_weights(module: nn.Module, start: Mapping[str, Tensor], share: float) -> None:
    """Move a module's weights towards those that it started from, in place: `share` of these, and the rest its own.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(start[name].to(tensor.device), share)


@contextmanager
def mixed(module: nn.Module, start: Mapping[str, Tensor], share: float) -> Iterator[None]:
    """The same while the block runs; the module's own weights come back after it."""
    own = snapshot(module)
    mix_weights(module, start, share)
    try:
        yield
    finally:
        module.load_state_dict(own)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def snapshot_optimiser(optimiser: Any, schedule: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of an optimiser's tensors, and what else it and its schedule consist of."""
    state = optimiser.state_dict()
    tensors = {
        f"{number}.{name}": _copy(tensor)
        for number, values in state["state"].items()
        for name, tensor in values.items()
    }
    return tensors, {"groups": state["param_groups"], "schedule": schedule.state_dict()}


def load_weights(path: Path, module: nn.Module) -> None:
    """Read weights into a module.

    Raises:
        InputError: they are of another architecture.
    """
    weights = load_file(path)
    have = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if have != found:
        name = min(name for name in have.keys() | found.keys() if have.get(name) != found.get(name))
        raise InputError(
            f"{path}: a checkpoint of another architecture: {name} is {_shape(found.get(name))} there and "
            f"{_shape(have.get(name))} in the model; train from that model, or choose another --out"
        )
    module.load_state_dict(weights)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {list(shape)}"


def load_optimiser(folder: Path, optimiser: Any, schedule: Any) -> None:
    """Put an optimiser and its schedule into the state that was saved."""
    settings = json.loads((folder / SETTINGS).read_bytes())
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / OPTIMISER).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": settings["groups"]})
    schedule.load_state_dict(settings["schedule"])


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from, as JSON has it."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set every generator."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
