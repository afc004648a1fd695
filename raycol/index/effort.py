"""How hard a search looks: two settings, and three names for pairs of them (docs/search.md has the measurements)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycol.errors import InputError

Effort = Literal["fast", "default", "thorough"]


class SearchSettings(BaseModel):
    """`n_probe`: centroids whose lists each query token visits; `n_rescore`: documents scored exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_probe: Annotated[int, Field(ge=1, lt=2**31)]
    n_rescore: Annotated[int, Field(ge=1, lt=2**31)]


EFFORTS: dict[Effort, SearchSettings] = {
    "fast": SearchSettings(n_probe=4, n_rescore=32),
    "default": SearchSettings(n_probe=8, n_rescore=128),
    "thorough": SearchSettings(n_probe=32, n_rescore=512),
}


def resolve(
    effort: Effort,
    tuned: SearchSettings | None,
    n_centroids: int,
    *,
    n_probe: int | None = None,
    n_rescore: int | None = None,
) -> SearchSettings:
    """The settings that a search uses: those given, or the effort's, in which what was tuned is the default.

    Raises:
        InputError: an effort of another name, a setting below 1, or more probes than there are centroids.
    """
    if effort not in EFFORTS:
        raise InputError(f"effort is {effort!r}; expected one of {', '.join(EFFORTS)}")
    chosen = tuned if tuned and effort == "default" else EFFORTS[effort]
    if n_probe is not None and not 1 <= n_probe <= n_centroids:
        raise InputError(f"n_probe is {n_probe}; expected 1 to {n_centroids}, the number of centroids")
    if n_rescore is not None and n_rescore < 1:
        raise InputError(f"n_rescore is {n_rescore}; expected 1 or more")
    return SearchSettings(
        n_probe=min(chosen.n_probe, n_centroids) if n_probe is None else n_probe,
        n_rescore=chosen.n_rescore if n_rescore is None else n_rescore,
    )
