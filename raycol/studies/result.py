"""The result of a study: a row for the points of equal settings on a collection, with confidence intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from raycol.core.shown import html_table
from raycol.evaluation.comparison import Comparison, Mean, compare, mean_interval
from raycol.evaluation.result import with_interval
from raycol.indexing.report import library_versions
from raycol.studies.cells import Cell, Point
from raycol.studies.kinds import Kind
from raycol.studies.material import POOLED
from raycol.studies.recipe import Recipe, label_of

AVERAGE = "mean over collections"

PerQuery = Mapping[str, Mapping[str, float]]
"""Values by metric and query id."""


@dataclass(frozen=True)
class Row:
    """Points of equal settings on a collection.

    Args:
        collection: its name, or `AVERAGE`.
        settings: those that name the row.
        stratum: the queries that count; None for all.
        numbers: means over repetitions.
        means: of each metric, with its confidence interval.
        difference: to the baseline in the first metric; None for the baseline.
    """

    collection: str
    settings: Mapping[str, Any]
    stratum: str | None
    numbers: Mapping[str, float]
    means: Mapping[str, Mean]
    difference: Comparison | None

    @property
    def label(self) -> str:
        """Its settings as a name."""
        return label_of(self.settings)


@dataclass(frozen=True, repr=False)
class StudyResult:
    """Result of a study.

    Args:
        name: of the study.
        out: its folder, which has table.md, study.json and picture.svg.
        rows: by collection, then in the recipe's order; rows of strata come last.
        columns: of the table: names of numbers.
        notes: what was left out, a sentence each.
    """

    name: str
    out: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"StudyResult({self.name!r}, {len(self.rows)} rows, out={self.out!r})"

    __str__ = __repr__

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return a title, a header and rows of text for each collection and stratum."""
        tables: list[tuple[str, list[str], list[list[str]]]] = []
        for collection, stratum in dict.fromkeys((row.collection, row.stratum) for row in self.rows):
            rows = [row for row in self.rows if (row.collection, row.stratum) == (collection, stratum)]
            columns = [name for name in self.columns if any(name in row.numbers for row in rows)]
            metrics = list(dict.fromkeys(metric for row in rows for metric in row.means))
            header = ["", *columns, *metrics, f"difference in {metrics[0]}"]
            title = f"{collection}, {stratum}" if stratum else collection
            tables.append((title, header, [_cells(row, columns, metrics) for row in rows]))
        return tables

    def markdown(self) -> str:
        """Return the tables in Markdown."""
        lines = [f"# Study {self.name}", ""]
        for title, header, rows in self.tables():
            ruler = ["---", *["---:"] * (len(header) - 1)]
            lines += [f"## {title}", "", *(f"| {' | '.join(each)} |" for each in (header, ruler, *rows)), ""]
        return "\n".join([*lines, *self.notes]).rstrip() + "\n"

    def _repr_html_(self) -> str:
        return "".join(html_table(header, rows, title) for title, header, rows in self.tables())


def _cells(row: Row, columns: Sequence[str], metrics: Sequence[str]) -> list[str]:
    numbers = [f"{row.numbers[name]:,.4g}" if name in row.numbers else "" for name in columns]
    means = [
        with_interval(row.means[name].value, row.means[name].interval) if name in row.means else "" for name in metrics
    ]
    found = row.difference
    return [
        row.label, *numbers, *means, with_interval(found.difference, found.interval, signed=True) if found else ""
    ]  # fmt: skip


@dataclass
class _Group:
    """The points of a row: values by collection, metric and query, averaged over repetitions."""

    settings: Mapping[str, Any]
    values: dict[str, dict[str, dict[str, float]]]
    numbers: dict[str, dict[str, float]]


def rows_of(
    points: Sequence[tuple[Cell, Point]],
    kind: Kind,
    recipe: Recipe,
    groups: Mapping[str, str | None],
    strata: Mapping[str, Mapping[str, Sequence[str]]],
    resampling: Mapping[str, Any],
) -> tuple[Row, ...]:
    """Summarise the points of a study.

    Args:
        points: with their cells, in the recipe's order.
        kind, recipe: of the study.
        groups: group of each collection.
        strata: ids of queries by collection and stratum.
        resampling: arguments of `mean_interval`.
    """
    grouped = _grouped(points, kind)
    collections = list(dict.fromkeys(point.collection for _, point in points))
    averaged = [name for name in collections if name != POOLED]
    scopes = {name: [name] for name in collections} | ({AVERAGE: averaged} if len(averaged) > 1 else {})
    rows: list[Row] = []
    for stratum in [None, *dict.fromkeys(name for each in strata.values() for name in each)]:
        for name, scope in scopes.items():
            if stratum is not None and name == POOLED:
                continue
            of_scope = [group for group in grouped if all(each in group.values for each in scope)]
            baseline = next((each for each in of_scope if recipe.baseline.items() <= each.settings.items()), None)
            baseline = baseline or of_scope[0]
            for group in of_scope:
                metrics = list(group.values[scope[0]])[: None if stratum is None else 1]
                chosen = {metric: _chosen(group, scope, metric, stratum, strata) for metric in metrics}
                if not all(all(values.values()) for values in chosen.values()):
                    continue
                first = metrics[0]
                reference = _chosen(baseline, scope, first, stratum, strata)
                rows.append(
                    Row(
                        name,
                        group.settings,
                        stratum,
                        {
                            number: fmean(group.numbers[each][number] for each in scope)
                            for number in group.numbers[scope[0]]
                        },
                        {metric: mean_interval(chosen[metric], groups=groups, **resampling) for metric in metrics},
                        None if group is baseline else compare(reference, chosen[first], groups=groups, **resampling),
                    )
                )
    return tuple(rows)


def _chosen(
    group: _Group,
    scope: Sequence[str],
    metric: str,
    stratum: str | None,
    strata: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, dict[str, float]]:
    """Values of a metric by collection and query, of the queries of a stratum."""
    return {
        name: group.values[name][metric]
        if stratum is None
        else {query: group.values[name][metric][query] for query in strata[name][stratum]}
        for name in scope
    }


def _grouped(points: Sequence[tuple[Cell, Point]], kind: Kind) -> list[_Group]:
    repeated: dict[str, tuple[Mapping[str, Any], dict[str, list[Point]]]] = {}
    for cell, point in points:
        settings = {name: value for name, value in {**cell.shown, **point.settings}.items() if name != kind.repeated}
        _, by_collection = repeated.setdefault(json.dumps(settings), (settings, {}))
        by_collection.setdefault(point.collection, []).append(point)
    return [
        _Group(
            settings,
            {name: _mean_values([each.per_query for each in found]) for name, found in by_collection.items()},
            {name: _mean_numbers(found, kind) for name, found in by_collection.items()},
        )
        for settings, by_collection in repeated.values()
    ]


def _mean_values(values: Sequence[PerQuery]) -> dict[str, dict[str, float]]:
    return {
        metric: {query: fmean(each[metric][query] for each in values) for query in queries}
        for metric, queries in values[0].items()
    }


def _mean_numbers(points: Sequence[Point], kind: Kind) -> dict[str, float]:
    numbers = {name: fmean(each.numbers[name] for each in points) for name in points[0].numbers}
    if kind.repeated:
        means = [fmean(next(iter(each.per_query.values())).values()) for each in points]
        numbers |= {"lowest": min(means), "highest": max(means)}
    return numbers


def report_of(
    result: StudyResult, points: Sequence[tuple[Cell, Point]], recipe: Recipe, settings: Mapping[str, Any]
) -> bytes:
    """Return the study's JSON: versions, recipe, settings, rows, and the raw numbers of every point, without hits."""
    content = {
        "study": result.name,
        "versions": library_versions(),
        "recipe": recipe.effective(),
        "settings": settings,
        "rows": [asdict(row) for row in result.rows],
        "points": [
            {"cell": cell.shown, **point.model_dump(exclude={"hits"}, exclude_defaults=True)} for cell, point in points
        ],
        "notes": result.notes,
    }
    return json.dumps(content, ensure_ascii=False, default=str, indent=1).encode()
