"""Pictures of an evaluation: metrics with their intervals, queries, and recall against cost.

They are SVG on a white background, and the same for the same result.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np

from raycol.core.escaping import printable
from raycol.evaluation.comparison import Mean
from raycol.evaluation.result import Evaluation, SystemResult

_STYLE = {
    "svg.hashsalt": "raycol",  # ids of SVG elements are random without it
    "svg.fonttype": "none",  # text stays text, in any script
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "errorbar.capsize": 2,
}
# Inches: of a panel, of a bar, and of the labels around a row of bars.
_PANEL, _BAR, _LABELS = 3.2, 0.25, 0.8
_PANELS_PER_ROW = 3


def draw(evaluation: Evaluation, timed: Collection[str]) -> dict[str, bytes]:
    """Return the pictures, SVG by file name.

    `metrics.svg` has the mean of each metric with its interval, on each collection and over all of them; `queries.svg`
    each system's values beside the baseline's, query by query, in the first metric; `cost.svg` the first recall metric
    against milliseconds per query.

    Args:
        evaluation: the result.
        timed: systems whose seconds are those of a search, so not of reading a run file.
    """
    pictures = {"metrics.svg": _metrics(evaluation)}
    if len(evaluation.averages) > 1:
        pictures["queries.svg"] = _queries(evaluation)
    if any(result.system in timed for result in evaluation.results):
        pictures["cost.svg"] = _cost(evaluation, timed)
    return pictures


def _metrics(evaluation: Evaluation) -> bytes:
    by_collection: dict[str, dict[str, dict[str, Mean]]] = {}
    for result in evaluation.results:
        by_collection.setdefault(result.collection, {})[result.system] = result.means
    if len(by_collection) > 1:
        by_collection[f"mean of {len(by_collection)} collections"] = evaluation.averages
    systems, metrics = list(evaluation.averages), list(evaluation.results[0].means)
    colours = _colours(evaluation)
    height = (_BAR * len(systems) + _LABELS) * len(by_collection)
    with _figure(len(by_collection), len(metrics), _PANEL * len(metrics), height, sharex="col") as (panels, svg):
        for row, (collection, means_of) in zip(panels, by_collection.items(), strict=True):
            row[0].set_title(printable(collection), loc="left")
            for axes, metric in zip(row, metrics, strict=True):
                for place, system in enumerate(systems):
                    mean = means_of[system][metric]
                    axes.barh(place, mean.value, color=colours[system], alpha=0.7)
                    axes.errorbar(mean.value, place, xerr=_margins(mean), color="black", linewidth=1)
                axes.set_xlabel(metric)
                axes.set_yticks(range(len(systems)), [printable(system) for system in systems])
                axes.tick_params(labelleft=axes is row[0], labelbottom=True)
                axes.grid(axis="y", visible=False)
                axes.invert_yaxis()
        return svg()


def _queries(evaluation: Evaluation) -> bytes:
    metric = next(iter(evaluation.results[0].means))
    others = [system for system in evaluation.averages if system != evaluation.baseline]
    by_collection: dict[str, dict[str, Mapping[str, float]]] = {}
    for result in evaluation.results:
        by_collection.setdefault(result.collection, {})[result.system] = result.per_query[metric]
    colours = _colours(evaluation)
    n_rows, n_columns = len(by_collection), len(others)
    with _figure(n_rows, n_columns, _PANEL * n_columns, _PANEL * n_rows) as (panels, svg):
        for row, (collection, values_of) in zip(panels, by_collection.items(), strict=True):
            for axes, system in zip(row, others, strict=True):
                baseline, values = values_of[evaluation.baseline], values_of[system]
                pairs = np.round([(baseline[query], values[query]) for query in baseline], 2)
                points, n_queries = np.unique(pairs, axis=0, return_counts=True)
                axes.axline((0, 0), slope=1, color="grey", linewidth=1)
                axes.scatter(*points.T, s=8 * n_queries**0.5, color=colours[system], alpha=0.6, linewidth=0)
                axes.set(xlabel=f"{printable(evaluation.baseline)}: {metric}", ylabel=printable(system))
                axes.set_title(printable(collection), loc="left")
                axes.set_aspect("equal", adjustable="datalim")
        return svg()


def _cost(evaluation: Evaluation, timed: Collection[str]) -> bytes:
    metrics = list(evaluation.results[0].means)
    metric = next((name for name in metrics if name.startswith(("R@", "R("))), metrics[0])
    by_collection: dict[str, list[SystemResult]] = {}
    for result in evaluation.results:
        if result.system in timed:
            by_collection.setdefault(result.collection, []).append(result)
    colours = _colours(evaluation)
    n_columns = min(_PANELS_PER_ROW, len(by_collection))
    n_rows = math.ceil(len(by_collection) / n_columns)
    with _figure(n_rows, n_columns, 1.3 * _PANEL * n_columns, _PANEL * n_rows) as (panels, svg):
        flat = [axes for row in panels for axes in row]
        for axes, (collection, results) in zip(flat, by_collection.items(), strict=False):
            for result in results:
                mean, milliseconds = result.means[metric], 1000 * result.seconds / result.queries
                axes.errorbar(
                    milliseconds, mean.value, yerr=_margins(mean), fmt="o", color=colours[result.system],
                    label=printable(result.system),
                )  # fmt: skip
            axes.set(xscale="log", xlabel="ms per query, encoding and opening models included", ylabel=metric)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.set_title(printable(collection), loc="left")
        for axes in flat[len(by_collection) :]:
            axes.set_axis_off()
        flat[0].figure.legend(*flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return svg()


def _colours(evaluation: Evaluation) -> dict[str, str]:
    """A colour for each system, the same in all pictures; grey for the baseline of several."""
    others = [system for system in evaluation.averages if system != evaluation.baseline]
    return {evaluation.baseline: "grey"} | {system: f"C{number % 10}" for number, system in enumerate(others)}


def _margins(mean: Mean) -> Any:
    """The interval as distances below and above the mean, float64 [2, 1]; None without an interval."""
    if mean.interval is None:
        return None
    low, high = mean.interval
    return np.maximum(0, [[mean.value - low], [high - mean.value]])


@contextmanager
def _figure(
    n_rows: int, n_columns: int, width: float, height: float, **subplots: Any
) -> Iterator[tuple[Sequence[Sequence[Any]], Callable[[], bytes]]]:
    """Yield the panels of a new figure by row and column, and the function that returns it as SVG.

    Args:
        n_rows, n_columns: of the panels.
        width, height: of the figure, in inches.
        subplots: further arguments of `Figure.subplots`.
    """
    # pyplot would keep figures and a backend for the whole process.
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The user's own settings must not change the pictures; a name may have characters that the font lacks.
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(max(width, _PANEL), max(height, 1.0)), layout="constrained")
        canvas = FigureCanvasSVG(figure)

        def svg() -> bytes:
            buffer = BytesIO()
            canvas.print_svg(buffer, metadata={"Date": None})
            return buffer.getvalue()

        yield figure.subplots(n_rows, n_columns, squeeze=False, **subplots), svg
