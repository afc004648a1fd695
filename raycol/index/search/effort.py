"""Search effort: two settings, and three named presets of them (measured in docs/search.md)."""

from __future__ import annotations

from typing import Literal

from raycol.core.validation import MAX_INT32, check_positive_int
from raycol.errors import InputError
from raycol.index.format.manifest import SearchSettings

Effort = Literal["fast", "default", "thorough"]


EFFORTS: dict[Effort, SearchSettings] = {
    "fast": SearchSettings(n_probe=8, n_rescore=40),
    "default": SearchSettings(n_probe=16, n_rescore=128),
    "thorough": SearchSettings(n_probe=32, n_rescore=512),
}

# A preset rescores at least 4 documents per hit: with fewer, the last hits would be guesses.
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
    """Return the settings of a search for `k` hits.

    Explicit settings override those of the effort; `tuned` settings replace the preset of the default effort.

    Raises:
        InputError: an unknown effort, a setting below 1, or more probes than centroids.
    """
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise InputError(f"effort is {effort!r:.60}; expected one of {', '.join(EFFORTS)}")
    preset = tuned if tuned and effort == "default" else EFFORTS[effort]
    preset_n_rescore = min(max(preset.n_rescore, RESCORED_PER_HIT * k), MAX_INT32)
    return SearchSettings(
        n_probe=min(preset.n_probe, n_centroids)
        if n_probe is None
        else check_positive_int("n_probe", n_probe, n_centroids, ", the number of centroids"),
        n_rescore=preset_n_rescore if n_rescore is None else check_positive_int("n_rescore", n_rescore),
    )
