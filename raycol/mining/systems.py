"""The systems that negatives come from, and how a line of text names one.

A system is one of `raycol evaluate` (`raycol/evaluation/systems.py`), followed by settings of mining:
`bm25,weight=2,to_rank=50`, `single:MODEL,relative_margin=0.05`, `run:FILE`, `bm25 > exact:MODEL,weight=0.5`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from raycol.errors import InputError
from raycol.evaluation.systems import KINDS, SETTING, System, parse_systems

_RANK, _WEIGHT, _MARGIN, _SCORE = "a positive whole number", "a number above 0", "a number from 0", "a number"
# Settings of one system, and what each expects; all but the weight have the same meaning as those for all systems.
_SETTINGS: Mapping[str, str] = {
    "weight": _WEIGHT, "from_rank": _RANK, "to_rank": _RANK, "margin": _MARGIN, "relative_margin": _MARGIN,
    "max_score": _SCORE, "min_score": _SCORE,
}  # fmt: skip
_SYSTEM = re.compile(rf"([\w.+-]+=)?(bm25($|[, ])|({'|'.join(KINDS)}):)")


@dataclass(frozen=True)
class NegativeRules:
    """Which hits qualify as negatives; the fields are the settings of `MineConfig` of the same names."""

    negatives: int
    margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    sampling: Literal["top", "random"] = "top"
    pool: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class MinedSystem:
    """A system that negatives come from.

    Args:
        name: in the results.
        system: how it searches; None for the index that workers search.
        rules: which of its hits qualify as negatives.
        from_rank, to_rank: window of ranks, from 1, both inclusive.
        weight: share of the negatives, relative to the other systems.
    """

    name: str
    system: System | None
    rules: NegativeRules
    from_rank: int
    to_rank: int
    weight: float = 1.0


def is_system(value: object) -> bool:
    """Whether a value names a system rather than the folder or URI of an index."""
    return isinstance(value, str) and _SYSTEM.match(value) is not None


def parse_mined(specs: Sequence[str], default: MinedSystem) -> list[MinedSystem]:
    """Parse systems with settings of mining.

    Args:
        specs: systems as in `raycol evaluate`, with the settings of `_SETTINGS` among those of their last stage.
        default: has the settings of a system that sets none.

    Raises:
        InputError: there is no such system or setting, or a value is out of range.
    """
    split = [_split_settings(spec) for spec in specs]
    systems = parse_systems([spec for spec, _ in split])
    return [
        _with_settings(spec, system, settings, default)
        for spec, system, (_, settings) in zip(specs, systems, split, strict=True)
    ]


def _split_settings(spec: str) -> tuple[str, dict[str, str]]:
    """A system without the settings of mining, and these."""
    text, ours, theirs = spec, dict[str, str](), ""
    while found := SETTING.search(text):
        if found[1] in _SETTINGS:
            ours = {found[1]: found[2], **ours}
        else:
            theirs = found[0] + theirs
        text = text[: found.start()]
    return text + theirs, ours


def _with_settings(spec: str, system: System, settings: Mapping[str, str], default: MinedSystem) -> MinedSystem:
    values = {name: _read(spec, name, value) for name, value in settings.items()}
    bounds: dict[str, Any] = {name: value for name, value in values.items() if _SETTINGS[name] in (_MARGIN, _SCORE)}
    others: dict[str, Any] = {name: value for name, value in values.items() if name not in bounds}
    mined = replace(default, name=system.name, system=system, rules=replace(default.rules, **bounds), **others)
    check_bounds(mined, f"system {spec!r}: ")
    return mined


def _read(spec: str, name: str, value: str) -> float:
    expected = _SETTINGS[name]
    try:
        number = int(value) if expected == _RANK else float(value)
    except ValueError:
        number = math.nan
    is_low = (expected == _MARGIN and number < 0) or (expected in (_RANK, _WEIGHT) and number <= 0)
    if is_low or not math.isfinite(number):
        raise InputError(f"system {spec!r}: {name} is {value!r}; expected {expected}")
    return number


def check_bounds(mined: MinedSystem, where: str = "") -> None:
    """Refuse an empty window of ranks or scores. Raises `InputError`, which begins with `where`."""
    if mined.from_rank > mined.to_rank:
        raise InputError(
            f"{where}from_rank is {mined.from_rank} and to_rank {mined.to_rank}; expected from_rank <= to_rank"
        )
    low, high = mined.rules.min_score, mined.rules.max_score
    if low is not None and high is not None and low > high:
        raise InputError(f"{where}min_score {low:g}, max_score {high:g}; expected min_score <= max_score")
    share = mined.rules.relative_margin
    if share is not None and share > 1:
        raise InputError(f"{where}relative_margin is {share:g}; expected a share from 0 to 1")
