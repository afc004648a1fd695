"""Finding the cheapest settings of a search that reach a recall, on queries of the user's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from raycol.errors import InputError
from raycol.index.search.effort import RESCORED_PER_HIT, SearchSettings
from raycol.index.search.pipeline import Answer, Hit, cost_ns

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RESCORED = (16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Tuned:
    """What was chosen, the recall that it reached on the queries, and the version that remembers it."""

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
    """The settings that reach `target_recall` with the least estimated cost, and the recall that they reach.

    Args:
        search: searches all queries with some settings.
        exact: the truth for the same queries.
        target_recall: of the best `k`.
        k: hits a query.
        sizes: the arguments of `cost_ns`.

    The cost is the estimate of docs/search.md for as many documents as were scored exactly, not a measured time, so
    that the choice is the same every time. Settings are tried while they might cost less than the best so far.

    Raises:
        InputError: no settings tried reach it; the message says what the best of them reach.
    """
    probes = [n_probe for n_probe in _PROBES if n_probe <= sizes["n_centroids"]]
    rescored = sorted({max(n_rescore, RESCORED_PER_HIT * k) for n_rescore in _RESCORED})
    every = [SearchSettings(n_probe=n_probe, n_rescore=n_rescore) for n_probe, n_rescore in product(probes, rescored)]
    least = {settings: cost_ns(settings, settings.n_rescore, **sizes) for settings in every}
    chosen, chosen_recall, chosen_cost, best = None, 0.0, math.inf, 0.0
    for settings in sorted(every, key=least.__getitem__):
        if least[settings] >= chosen_cost:
            break
        answers = search(settings)
        recall = recall_of([answer.hits for answer in answers], exact)
        cost = cost_ns(settings, sum(answer.n_scored for answer in answers) / len(answers), **sizes)
        if recall >= target_recall and cost < chosen_cost:
            chosen, chosen_recall, chosen_cost = settings, recall, cost
        best = max(best, recall)
    if chosen is None:
        raise InputError(
            f"no settings up to n_probe {probes[-1]} and n_rescore {rescored[-1]} reach a recall of {target_recall}; "
            f"the best is {best:.4f}. Nothing was stored"
        )
    return chosen, chosen_recall


def recall_of(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """The share of the exact hits that was found; a hit as good as the last of them counts for it."""
    right = total = 0
    for hits, truth in zip(found, exact, strict=True):
        edge = truth[-1].score if truth else 0.0
        right += sum(hit.score >= edge for hit in hits)
        total += len(truth)
    return right / total if total else 1.0
