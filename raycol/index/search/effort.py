"""How hard a search looks: two settings, and three names for pairs of them (docs/search.md has the measurements)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycol.errors import InputError
from raycol.index.search.counts import MOST, check_count

Effort = Literal["fast", "default", "thorough"]


class SearchSettings(BaseModel):
    """`n_probe`: centroids whose lists each query token visits; `n_rescore`: documents scored exactly, at first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_probe: Annotated[int, Field(ge=1, lt=2**31)]
    n_rescore: Annotated[int, Field(ge=1, lt=2**31)]


EFFORTS: dict[Effort, SearchSettings] = {
    "fast": SearchSettings(n_probe=8, n_rescore=40),
    "default": SearchSettings(n_probe=16, n_rescore=128),
    "thorough": SearchSettings(n_probe=32, n_rescore=512),
}

# Of so many hits as are scored exactly, the last would be a guess.
RESCORED_PER_HIT = 4


def resolve(
    effort: Effort,
    tuned: SearchSettings | None,
    n_centroids: int,
    k: int,
    *,
    n_probe: int | None = None,
    n_rescore: int | None = None,
) -> SearchSettings:
    """The settings that a search for `k` hits uses: those given, or the effort's; what was tuned is the default's.

    Raises:
        InputError: an effort of another name, a setting below 1, or more probes than there are centroids.
    """
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise InputError(f"effort is {effort!r:.60}; expected one of {', '.join(EFFORTS)}")
    chosen = tuned if tuned and effort == "default" else EFFORTS[effort]
    enough = min(max(chosen.n_rescore, RESCORED_PER_HIT * k), MOST)
    return SearchSettings(
        n_probe=min(chosen.n_probe, n_centroids)
        if n_probe is None
        else check_count("n_probe", n_probe, n_centroids, ", the number of centroids"),
        n_rescore=enough if n_rescore is None else check_count("n_rescore", n_rescore),
    )
