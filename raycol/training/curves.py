"""The course of a training as a picture: loss, learning rate, gradient norm, evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycol.evaluation.metrics import METRICS
from raycol.training.record import Record

_CURVES = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}
_WIDTH, _HEIGHT = 8.0, 2.0  # inches: of all, of each curve
# Steps with at most so many marks are marked one by one; a single one would not be seen as a line.
_MOST_MARKS = 40


def draw_curves(path: Path, records: Sequence[Record], kept: int) -> None:
    """Draw a PNG with a curve below the other, over the steps.

    Args:
        path: the file to write.
        records: what was noted of steps and evaluations, in their order.
        kept: the step whose weights were kept; it is marked among the evaluations.
    """
    # Without pyplot, which keeps figures and a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = {name: title for name, title in _CURVES.items() if any(name in record for record in records)}
    metrics = [name for name in METRICS if any(name in record for record in records)]
    n_rows = max(1, len(found) + bool(metrics))
    figure = Figure(figsize=(_WIDTH, _HEIGHT * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(n_rows, 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, title) in zip(rows, found.items(), strict=False):
        _draw(axes, records, name, color="tab:blue")
        axes.set_ylabel(title)
    if metrics:
        for name in metrics:
            _draw(rows[-1], records, name, label=name)
        rows[-1].axvline(kept, color="grey", linestyle=":", label=f"kept: step {kept}")
        rows[-1].set_ylabel("evaluation")
        rows[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in rows:
        axes.grid(alpha=0.3)
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _draw(axes: Any, records: Sequence[Record], name: str, **style: Any) -> None:
    points = [(record["step"], record[name]) for record in records if name in record]
    marker = "." if len(points) <= _MOST_MARKS else ""
    axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, **style)
