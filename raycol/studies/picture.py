"""The picture of a study, as SVG with the same bytes for the same rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from raycol.studies.kinds import Kind
from raycol.studies.recipe import Recipe, label_of
from raycol.studies.result import AVERAGE, Row

_COLUMNS = 3


def draw(name: str, rows: Sequence[Row], kind: Kind, recipe: Recipe) -> bytes:
    """Draw a panel for each collection, and for the strata of each kind.

    With `kind.x`, lines of the first metric with intervals; otherwise a point a row.
    """
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "raycol", "svg.fonttype": "none"}):
        whole = [row for row in rows if row.stratum is None]
        panels = [(title, [row for row in whole if row.collection == title]) for title in _unique(whole)]
        panels += _by_stratum(rows, kind, recipe)
        columns = min(_COLUMNS, len(panels))
        height = 3.8 if kind.x else 1.2 + 0.3 * max(len(each) for _, each in panels)
        figure, axes = plt.subplots(
            -(-len(panels) // columns), columns, squeeze=False, layout="constrained",
            figsize=(5 * columns, height * -(-len(panels) // columns)),
        )  # fmt: skip
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, each) in zip(axes.flat, panels, strict=False):
            ax.set_title(title)
            (_lines if kind.x else _points)(ax, each, kind)
            ax.grid(visible=True, which="both", alpha=0.3)
        figure.suptitle(name)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return buffer.getvalue()


def _unique(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.collection for row in rows))


def _by_stratum(rows: Sequence[Row], kind: Kind, recipe: Recipe) -> list[tuple[str, list[Row]]]:
    """Panels of the strata that share a noun ("short queries", ...): the line of the baseline, a line a stratum."""
    fixed = {name: value for name, value in recipe.baseline.items() if name != kind.line}
    stratified = [row for row in rows if row.stratum and fixed.items() <= row.settings.items()]
    scope = AVERAGE if any(row.collection == AVERAGE for row in rows) else next(iter(_unique(rows)))
    panels: dict[str, list[Row]] = {}
    for row in stratified:
        if row.collection == scope and row.stratum:
            panels.setdefault(f"{scope}, by length of {row.stratum.split()[-1]}", []).append(row)
    return list(panels.items())


def _line_of(row: Row, kind: Kind) -> str:
    if row.stratum:
        return row.stratum
    others: Mapping[str, Any] = {name: value for name, value in row.settings.items() if name != kind.line}
    return label_of(others)


def _lines(ax: Any, rows: Sequence[Row], kind: Kind) -> None:
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(_line_of(row, kind), []).append(row)
    for label, each in lines.items():
        points = sorted(each, key=lambda row: row.numbers[str(kind.x)])
        xs = [row.numbers[str(kind.x)] for row in points]
        values = [next(iter(row.means.values())) for row in points]
        ax.errorbar(
            xs, [mean.value for mean in values], yerr=_errors(values), marker="o", markersize=3, capsize=2,
            linewidth=1, elinewidth=0.5, label=label,
        )  # fmt: skip
    ax.set(xscale="log", xlabel=kind.x, ylabel=next(iter(rows[0].means)))
    ax.legend(fontsize=7)


def _points(ax: Any, rows: Sequence[Row], kind: Kind) -> None:
    labels, places = [row.label for row in rows], range(len(rows))
    if kind.y:
        ax.barh(places, [row.numbers[kind.y] for row in rows], height=0.6)
        ax.set(xlabel=kind.y)
    else:
        values = [next(iter(row.means.values())) for row in rows]
        ax.errorbar([mean.value for mean in values], places, xerr=_errors(values), fmt="o", capsize=3)
        ax.set(xlabel=next(iter(rows[0].means)))
    ax.set_yticks(places, labels, fontsize=7)
    ax.invert_yaxis()


def _errors(means: Sequence[Any]) -> list[list[float]]:
    """Distances from each mean down and up to its interval; 0 without one."""
    ends = [mean.interval or (mean.value, mean.value) for mean in means]
    return [
        [mean.value - low for mean, (low, _) in zip(means, ends, strict=True)],
        [high - mean.value for mean, (_, high) in zip(means, ends, strict=True)],
    ]
