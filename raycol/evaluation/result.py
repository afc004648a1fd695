"""The result of an evaluation: the metrics of each system on each collection, and how the systems differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from raycol.core.shown import Shown, html_table
from raycol.evaluation.comparison import Comparison, Mean, compare, holm, mean_interval

if TYPE_CHECKING:
    from raycol.evaluation.config import EvaluateConfig
    from raycol.evaluation.stages import CollectionRun, CollectionSearch
    from raycol.evaluation.systems import System

ALL = "all"
"""Name of the average over collections."""


@dataclass(frozen=True, repr=False)
class SystemResult(Shown):
    """The metrics of a system on a collection.

    Args:
        collection, group: name of the collection, and of the collections that it is averaged with.
        system: name of the system.
        means: of each metric over the judged queries, with its confidence interval.
        per_query: each metric by query id.
        queries, documents: sizes of the collection.
        skipped: unusable records of its corpus.
        seconds: of running all queries, models included.
        cpu_s: CPU seconds of all processes; None if the system runs elsewhere.
        notes: what is missing or was left out, a sentence each.
    """

    _main: ClassVar = ("collection", "system", "metrics")

    collection: str
    group: str | None
    system: str
    means: dict[str, Mean]
    per_query: Mapping[str, Mapping[str, float]]
    queries: int
    documents: int
    skipped: int
    seconds: float
    cpu_s: float | None
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Mean of each metric."""
        return {name: mean.value for name, mean in self.means.items()}


@dataclass(frozen=True, repr=False)
class Difference(Shown):
    """A system beside the baseline, in one metric.

    Args:
        collection: its name, or `all` for the average over collections.
        metric: its name.
        system: the system that is compared with the baseline.
        comparison: paired differences, system minus baseline.
        p_holm: p-value of the randomisation test, corrected by Holm over the systems.
    """

    _main: ClassVar = ("collection", "metric", "system", "comparison", "p_holm")

    collection: str
    metric: str
    system: str
    comparison: Comparison
    p_holm: float


@dataclass(frozen=True)
class JudgedHit:
    """A hit: document id, score, and its grade; None if it is not judged."""

    id: str
    score: float
    grade: int | None


@dataclass(frozen=True, repr=False)
class QueryDifference(Shown):
    """A query for which a system differs from the baseline.

    Args:
        collection, system, metric: names.
        query: id.
        text: of the query.
        baseline_value, value: of the metric.
        n_relevant: number of documents with a grade above 0.
        relevant: grades of the 10 documents with the highest grades, by id.
        baseline_hits, hits: the best 3 of each, in the metric's order.
    """

    _main: ClassVar = ("collection", "system", "query", "text", "baseline_value", "value")

    collection: str
    system: str
    metric: str
    query: str
    text: str
    baseline_value: float
    value: float
    n_relevant: int
    relevant: dict[str, int]
    baseline_hits: list[JudgedHit]
    hits: list[JudgedHit]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Result of an evaluation.

    Args:
        results: of each system on each collection.
        averages: of each metric over the collections, by system; a group of collections counts as one.
        differences: of each system to the baseline, by collection and metric; empty for one system.
        baseline: name of the system that the others are compared with.
        largest_differences: for each other system and collection, the 10 queries that differ most in the first metric.
    """

    results: tuple[SystemResult, ...]
    averages: dict[str, dict[str, Mean]]
    differences: tuple[Difference, ...]
    baseline: str
    largest_differences: tuple[QueryDifference, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Mean of each metric of the baseline over the collections."""
        return {name: mean.value for name, mean in self.averages[self.baseline].items()}

    def __repr__(self) -> str:
        return f"Evaluation({ {system: shown_means(means) for system, means in self.averages.items()} })"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        metrics = list(next(iter(self.averages.values())))
        rows = [(result.collection, result.system, *shown_means(result.means).values()) for result in self.results] + [
            (ALL, system, *shown_means(means).values())
            for system, means in self.averages.items()
            if len({result.collection for result in self.results}) > 1
        ]
        return html_table(("collection", "system", *metrics), rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing or was left out, a sentence each."""
        return tuple(dict.fromkeys(note for result in self.results for note in result.notes))


def with_interval(value: float, interval: tuple[float, float] | None, *, signed: bool = False) -> str:
    """A value with its confidence interval, if there is one, such as "0.746 [0.703, 0.788]"."""
    sign = "+" if signed else ""
    shown = f"{value:{sign}.3f}"
    return shown if interval is None else f"{shown} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def shown_means(means: Mapping[str, Mean]) -> dict[str, str]:
    """Means with their intervals, by metric."""
    return {name: with_interval(mean.value, mean.interval) for name, mean in means.items()}


def summarise(
    search: CollectionSearch,
    system: System,
    run: CollectionRun,
    per_query: Mapping[str, Mapping[str, float]],
    config: EvaluateConfig,
) -> SystemResult:
    """Return the result of a system on a collection, from the metrics of each query."""
    collection = search.collection
    return SystemResult(
        collection=collection.name,
        group=collection.group,
        system=system.name,
        means={
            metric: mean_interval({collection.name: values}, **_resampling(config))
            for metric, values in per_query.items()
        },
        per_query=per_query,
        queries=len(collection.queries),
        documents=search.documents,
        skipped=search.skipped,
        seconds=run.cost.seconds,
        cpu_s=run.cost.cpu_s,
        notes=(*search.notes, *run.notes),
    )


def combine(
    results: Sequence[SystemResult],
    baseline: str,
    config: EvaluateConfig,
    largest_differences: Sequence[QueryDifference] = (),
) -> Evaluation:
    """Average the results over the collections, and compare every system with the baseline."""
    by_system: dict[str, list[SystemResult]] = {}
    for result in results:
        by_system.setdefault(result.system, []).append(result)
    metrics, groups = list(results[0].means), {result.collection: result.group for result in results}
    averages = {
        system: {
            metric: mean_interval(_values(each, metric), groups=groups, **_resampling(config)) for metric in metrics
        }
        for system, each in by_system.items()
    }
    others = [system for system in by_system if system != baseline]
    scopes = [[name] for name in groups] + ([list(groups)] if len(groups) > 1 else [])
    differences: list[Difference] = []
    for scope in scopes:
        for metric in metrics:
            values = {
                system: _values([result for result in each if result.collection in scope], metric)
                for system, each in by_system.items()
            }
            compared = [
                compare(values[baseline], values[other], groups=groups, **_resampling(config)) for other in others
            ]
            corrected = holm([comparison.p_value for comparison in compared])
            name = scope[0] if len(scope) == 1 else ALL
            differences += [
                Difference(name, metric, other, comparison, p_holm)
                for other, comparison, p_holm in zip(others, compared, corrected, strict=True)
            ]
    return Evaluation(tuple(results), averages, tuple(differences), baseline, tuple(largest_differences))


def _values(results: Sequence[SystemResult], metric: str) -> dict[str, Mapping[str, float]]:
    return {result.collection: result.per_query[metric] for result in results}


def _resampling(config: EvaluateConfig) -> dict[str, Any]:
    return {"seed": config.seed, "n_resamples": config.resamples, "confidence": config.confidence}
