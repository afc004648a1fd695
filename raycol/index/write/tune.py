"""Find the cheapest search settings that reach a target recall on given queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from raycol.errors import InputError
from raycol.index.format.manifest import SearchSettings
from raycol.index.search.effort import RESCORED_PER_HIT
from raycol.index.search.pipeline import Answer, Hit
from raycol.index.search.plan import cost_ns

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RESCORED = (16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class TuneResult:
    """The chosen settings, their recall on the queries, and the version that stores them."""

    settings: SearchSettings
    recall: float
    version: int


def cheapest_settings(
    search: Callable[[SearchSettings], Sequence[Answer]],
    exact: Sequence[Sequence[Hit]],
    *,
    target_recall: float,
    k: int,
    sizes: Mapping[str, Any],
) -> tuple[SearchSettings, float]:
    """Return the settings of the lowest estimated cost that reach `target_recall`, and their recall.

    The cost is `cost_ns` of the number of rescored documents, not a measured time, so the result is deterministic.
    Settings are tried in the order of their lowest possible cost, until that exceeds the cost of the best so far.

    Args:
        search: searches all queries with given settings.
        exact: the exact hits of the same queries.
        target_recall: recall@k to reach.
        k: hits per query.
        sizes: keyword arguments of `cost_ns`.

    Raises:
        InputError: no settings reach the target; the message gives the best recall.
    """
    probes = [n_probe for n_probe in _PROBES if n_probe <= sizes["n_centroids"]]
    rescored = sorted({max(n_rescore, RESCORED_PER_HIT * k) for n_rescore in _RESCORED})
    grid = [SearchSettings(n_probe=n_probe, n_rescore=n_rescore) for n_probe, n_rescore in product(probes, rescored)]
    lowest_cost = {settings: cost_ns(settings, settings.n_rescore, **sizes) for settings in grid}
    chosen, chosen_recall, chosen_cost, best_recall = None, 0.0, math.inf, 0.0
    for settings in sorted(grid, key=lowest_cost.__getitem__):
        if lowest_cost[settings] >= chosen_cost:
            break
        answers = search(settings)
        recall = recall_of([answer.hits for answer in answers], exact)
        cost = cost_ns(settings, sum(answer.n_scored for answer in answers) / len(answers), **sizes)
        if recall >= target_recall and cost < chosen_cost:
            chosen, chosen_recall, chosen_cost = settings, recall, cost
        best_recall = max(best_recall, recall)
    if chosen is None:
        raise InputError(
            f"no settings up to n_probe {probes[-1]} and n_rescore {rescored[-1]} reach a recall of {target_recall}; "
            f"the best is {best_recall:.4f}; choose a lower target_recall"
        )
    return chosen, chosen_recall


def recall_of(approximate: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """Return the share of exact hits that were found; a hit that ties with the last exact hit counts as one."""
    matched = total = 0
    for hits, truth in zip(approximate, exact, strict=True):
        threshold = truth[-1].score if truth else 0.0
        matched += sum(hit.score >= threshold for hit in hits)
        total += len(truth)
    return matched / total if total else 1.0
