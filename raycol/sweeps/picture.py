"""The picture of a sweep, as SVG: each trial's metric over its steps, and the best values over each setting."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from raycol.sweeps.result import SweepResult, Trial

_COLUMNS = 3


def draw(result: SweepResult) -> bytes:
    """Draw a panel of all trials' evaluations, and one for each setting."""
    # pyplot would keep figures and a backend for the whole process.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = list(result.settings)
    evaluated = [trial for trial in result.trials if trial.values]
    columns = min(_COLUMNS, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    with mpl.rc_context({"svg.hashsalt": "raycol", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
        FigureCanvasSVG(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in panels[1 + len(names) :]:
            ax.set_axis_off()
        for trial in evaluated:
            best = trial.number == result.best
            style = {"color": "tab:red", "zorder": 3} if best else {"color": "tab:blue", "alpha": 0.5}
            panels[0].plot(trial.steps, trial.values, marker=".", linewidth=1, **style)
        panels[0].set(xlabel="step", ylabel=result.metric)
        for ax, name in zip(panels[1:], names, strict=False):
            _over(ax, evaluated, name, result)
        for ax in panels[: 1 + len(names)]:
            ax.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _over(ax: Any, trials: Sequence[Trial], name: str, result: SweepResult) -> None:
    """The best value of each trial over one of its settings; red: the best trial's."""
    values = [trial.settings[name] for trial in trials]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    xs = values if numeric else [str(value) for value in values]
    colours = ["tab:red" if trial.number == result.best else "tab:blue" for trial in trials]
    ax.scatter(xs, [max(trial.values) for trial in trials], s=16, c=colours)
    if numeric and min(values) > 0 and max(values) > 20 * min(values):
        ax.set_xscale("log")
    ax.set(xlabel=name, ylabel=result.metric)
