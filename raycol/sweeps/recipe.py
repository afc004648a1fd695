"""Recipes of sweeps: a training, and ranges of some of its settings, in YAML.

train: {model: a-backbone, data: pairs.jsonl, held_out: 200, eval_every: 50}
ranges:
  temperature: [0.02, 0.05, 1]                     one of these values
  warmup: {from: 0, to: 0.3}                       uniform
  learning_rate: {from: 1e-6, to: 1e-4, log: true} uniform in the logarithm
  freeze_layers: {from: 0, to: 6}                  of two integers: an integer, both ends included
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from raycol.core.config import Config
from raycol.core.uris import is_uri
from raycol.errors import InputError
from raycol.storage import absolute
from raycol.training.config import TrainConfig
from raycol.training.preparation import absolute_input, with_absolute_paths

# What the sweep sets itself.
_OF_THE_SWEEP = ("out", "storage", "num_workers")


class Range(Config):
    """Numbers from `from` to `to`."""

    low: int | float = Field(alias="from")
    """Smallest value."""

    high: int | float = Field(alias="to")
    """Largest value."""

    log: bool = False
    """Sample the logarithm uniformly."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"found {self.low} to {self.high}; expected two numbers, the smaller one first")
        if self.log and self.low <= 0:
            raise ValueError(f"log: found {self.low}; expected numbers above 0")
        return self

    def sample(self, rng: np.random.Generator) -> int | float:
        """Return a value; an integer if both ends are."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if isinstance(self.low, int) and isinstance(self.high, int):
            if not self.log:
                return int(rng.integers(self.low, self.high + 1))
            return round(math.exp(rng.uniform(low, high)))
        value = float(rng.uniform(low, high))
        return math.exp(value) if self.log else value


def _kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "values"


# A mapping is a range, anything else is read as a list of values.
Values = Annotated[
    Annotated[tuple[Any, ...], Tag("values")] | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]


class SweepRecipe(Config):
    """A recipe; see the module."""

    train: dict[str, Any]
    """Settings of `raycol train`."""

    ranges: dict[str, Values] = Field(min_length=1)
    """Values, or a range, of each setting that the trainings differ in."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in self.ranges.items():
            if values == ():
                raise ValueError(f"ranges: {name} has no values")
            if name in self.train:
                raise ValueError(f"{name} is in train and in ranges; leave it out of one of them")
        for name in _OF_THE_SWEEP:
            if name in self.train or name in self.ranges:
                raise ValueError(f"{name}: the sweep sets it, with one worker a training; leave it out")
        return self

    def sample(self, seed: int, number: int) -> dict[str, Any]:
        """Return the settings of a trial that are in `ranges`: the same for the same seed and number."""
        rng = np.random.default_rng([seed, number])
        return {
            name: values.sample(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
            for name, values in self.ranges.items()
        }


def trainings_of(path: Path, seed: int, n: int, folder: Path) -> list[tuple[dict[str, Any], TrainConfig]]:
    """Return the sampled settings and the configuration of each trial, which writes to folder/NUMBER/model.

    Its paths are as the recipe has them; see `with_absolute_inputs`.

    Raises:
        InputError: the recipe is malformed, a training's settings are invalid, or it has no evaluation.
    """
    recipe = SweepRecipe.load(path)
    trainings = []
    for number in range(n):
        sampled = recipe.sample(seed, number)
        values = {**recipe.train, **sampled, "out": str(folder / f"{number:03d}" / "model")}
        config = TrainConfig.load(None, values, f"trial {number} of {path}")
        if not config.evaluates:
            raise InputError(f"{path}: a sweep compares evaluations; set eval_data or held_out in train")
        trainings.append((sampled, config))
    return trainings


def with_absolute_inputs(config: TrainConfig) -> TrainConfig:
    """Return a training whose local files are named by absolute paths: trials have other working directories."""

    def found(name: str) -> str:  # models and collections have names, too
        return str(Path(name).absolute()) if not is_uri(name) and Path(name).exists() else name

    paths = {
        "model": found(config.model),
        "guide": config.guide and found(config.guide),
        "data": tuple(map(with_absolute_paths, config.data)),
        "eval_data": config.eval_data and tuple(map(found, config.eval_data)),
        "prepared": config.prepared and absolute(config.prepared),
        "remine": config.remine and {**config.remine, "corpus": absolute_input(str(config.remine["corpus"]))},
    }
    return config.model_copy(update=paths)
