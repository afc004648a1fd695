"""Finding the cheapest settings of a search that reach a recall, on queries of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from raycol.errors import InputError
from raycol.index.effort import SearchSettings
from raycol.index.search import Hit, cost_ns

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RESCORED = (16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Tuned:
    """What was chosen, the recall that it reached on the queries, and the version that remembers it."""

    settings: SearchSettings
    recall: float
    version: int


def cheapest_settings(
    search: Callable[[SearchSettings], Sequence[Sequence[Hit]]],
    exact: Sequence[Sequence[Hit]],
    *,
    target_recall: float,
    k: int,
    sizes: Mapping[str, Any],
) -> tuple[SearchSettings, float]:
    """The settings that reach `target_recall` with the least estimated cost, and the recall that they reach.

    Args:
        search: searches all queries with some settings.
        exact: the truth for the same queries.
        target_recall: of the best `k`.
        k: hits a query.
        sizes: the arguments of `cost_ns`.

    The cost is the estimate of docs/search.md, not a measured time, so that the choice is the same every time.

    Raises:
        InputError: no settings tried reach it; the message says what the best of them reach.
    """
    tried = [
        SearchSettings(n_probe=n_probe, n_rescore=n_rescore)
        for n_probe, n_rescore in product(_PROBES, _RESCORED)
        if n_probe <= sizes["n_centroids"] and n_rescore >= min(k, _RESCORED[-1])
    ]
    tried.sort(key=lambda settings: cost_ns(settings, **sizes))
    best = 0.0
    for settings in tried:
        recall = recall_of(search(settings), exact)
        if recall >= target_recall:
            return settings, recall
        best = max(best, recall)
    raise InputError(
        f"no settings up to n_probe {tried[-1].n_probe} and n_rescore {tried[-1].n_rescore} reach a recall of "
        f"{target_recall}; the best is {best:.4f}. Nothing was stored"
    )


def recall_of(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """The share of the exact hits that was found; a hit as good as the last of them counts for it."""
    right = total = 0
    for hits, truth in zip(found, exact, strict=True):
        edge = truth[-1].score if truth else 0.0
        right += sum(hit.score >= edge for hit in hits)
        total += len(truth)
    return right / total if total else 1.0
