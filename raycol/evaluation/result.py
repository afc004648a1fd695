"""The result of an evaluation: the metrics of each system on each collection, and how the systems differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from raycol.core.shown import Shown
from raycol.evaluation.comparison import Comparison, compare, holm, mean_interval

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
        metrics: mean of each metric over the judged queries.
        intervals: bootstrap confidence interval of each mean.
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
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_query: Mapping[str, Mapping[str, float]] = field(repr=False)
    queries: int
    documents: int
    skipped: int
    seconds: float
    cpu_s: float | None
    notes: tuple[str, ...] = ()


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


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Result of an evaluation.

    Args:
        results: of each system on each collection.
        differences: of each system to the baseline, by collection and metric; empty for one system.
        baseline: name of the system that the others are compared with.
    """

    _main: ClassVar = ("results",)

    results: tuple[SystemResult, ...]
    differences: tuple[Difference, ...]
    baseline: str

    @property
    def metrics(self) -> dict[str, float]:
        """Mean of each metric of the baseline over the collections: the metrics, if there is one of each."""
        return self.averages()[self.baseline]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing or was left out, a sentence each."""
        return tuple(dict.fromkeys(note for result in self.results for note in result.notes))

    def averages(self) -> dict[str, dict[str, float]]:
        """Mean of each metric over the collections, by system; a group of collections counts as one."""
        averages: dict[str, dict[str, float]] = {}
        for system in dict.fromkeys(result.system for result in self.results):
            results = [result for result in self.results if result.system == system]
            averages[system] = {
                metric: _mean([_mean(values) for values in _by_group(results, metric).values()])
                for metric in results[0].metrics
            }
        return averages


def summarise(
    search: CollectionSearch,
    system: System,
    run: CollectionRun,
    per_query: Mapping[str, Mapping[str, float]],
    config: EvaluateConfig,
) -> SystemResult:
    """Return the result of a system on a collection, from the metrics of each query."""
    collection = search.collection
    intervals = {
        metric: mean_interval(list(values.values()), config.seed, config.resamples, config.confidence)
        for metric, values in per_query.items()
    }
    return SystemResult(
        collection=collection.name,
        group=collection.group,
        system=system.name,
        metrics={metric: _mean(list(values.values())) for metric, values in per_query.items()},
        intervals=intervals,
        per_query=per_query,
        queries=len(collection.queries),
        documents=search.documents,
        skipped=search.skipped,
        seconds=run.cost.seconds,
        cpu_s=run.cost.cpu_s,
        notes=(*search.notes, *run.notes),
    )


def compare_systems(results: Sequence[SystemResult], baseline: str, config: EvaluateConfig) -> tuple[Difference, ...]:
    """Compare every other system with the baseline, on each collection and over all of them."""
    collections = list(dict.fromkeys(result.collection for result in results))
    by_name = {(result.collection, result.system): result for result in results}
    others = [name for name in dict.fromkeys(result.system for result in results) if name != baseline]
    differences: list[Difference] = []
    for collections_of in [[name] for name in collections] + ([collections] if len(collections) > 1 else []):
        for metric in results[0].metrics:
            compared = [
                compare(
                    [by_name[name, baseline].per_query[metric] for name in collections_of],
                    [by_name[name, other].per_query[metric] for name in collections_of],
                    config.seed,
                    config.resamples,
                    config.confidence,
                )
                for other in others
            ]
            corrected = holm([comparison.p_value for comparison in compared])
            name = collections_of[0] if len(collections_of) == 1 else ALL
            differences += [
                Difference(name, metric, other, comparison, p_holm)
                for other, comparison, p_holm in zip(others, compared, corrected, strict=True)
            ]
    return tuple(differences)


def _by_group(results: Sequence[SystemResult], metric: str) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for result in results:
        groups.setdefault(result.group or result.collection, []).append(result.metrics[metric])
    return groups


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
