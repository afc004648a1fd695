"""Recipes: which cells a study has, in YAML.

study: pooling                                     what a cell does: a key of `kinds.KINDS`
vary: {pool_factor: [1, 2, 4], bits: [2, 4]}       every combination is a cell
cases: [{name: a, ...}, {name: b, ...}]            settings that go together, each with every combination
also: [{one_vector: true}]                         further cells
fixed: {}                                          settings of every cell
baseline: {pool_factor: 1, bits: 4}                the cell that the others are compared with
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from raycol.core.config import Config, Names
from raycol.errors import InputError

_RECIPES = Path(__file__).parent / "recipes"


class Recipe(Config):
    """A recipe; see the module."""

    study: str
    """What a cell does."""

    vary: dict[str, tuple[Any, ...]] = Field({})
    """Values of settings; every combination is a cell."""

    cases: tuple[dict[str, Any], ...] = ()
    """Settings that go together; each is combined with all of `vary`."""

    also: tuple[dict[str, Any], ...] = ()
    """Settings of further cells."""

    fixed: dict[str, Any] = Field({})
    """Settings of every cell."""

    baseline: dict[str, Any] = Field({})
    """Settings of the cell that the others are compared with; by default the first."""

    metrics: Names = ("nDCG@10", "R@100")
    """Metrics, by their names in ir-measures. The first one is drawn."""

    pooled: bool = False
    """Also measure one collection of all documents and queries."""

    def cells(self) -> list[dict[str, Any]]:
        """Return the settings of every cell."""
        combined = [dict(zip(self.vary, each, strict=True)) for each in itertools.product(*self.vary.values())]
        cells = [{**case, **each} for case in self.cases or ({},) for each in combined if case or each]
        return [{**self.fixed, **each} for each in (*cells, *self.also)]


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read a recipe, packaged or from a file.

    Args:
        name: of a packaged recipe, or the path of a YAML file.

    Raises:
        InputError: there is no such recipe, or it is malformed.
    """
    if name in recipe_names():
        return Recipe.load(_RECIPES / f"{name}.yaml")
    if not Path(name).is_file():
        raise InputError(f"study {name!r:.200}: expected one of {', '.join(recipe_names())}, or a recipe's YAML file")
    return Recipe.load(Path(name))


def label_of(settings: Mapping[str, Any]) -> str:
    """Name of a cell: "pool_factor 2, bits 4"; one setting called `name` stands alone."""
    if set(settings) == {"name"}:
        return str(settings["name"])
    shown = [str(settings["name"])] if "name" in settings else []
    for name, value in settings.items():
        if isinstance(value, bool):
            shown.append(name if value else f"no {name}")
        elif name != "name" and value is not None:
            shown.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown)
