"""Metrics of a training step or an evaluation: records, gauges for Prometheus through Ray, and curves as a PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycol.evaluation.metrics import DEFAULT_METRICS

# A step has step, steps, loss, learning_rate, grad_norm, ...; an evaluation has step, steps, and its metrics.
Record = dict[str, float]

OnRecord = Callable[[Record], None]

_NOT_METRICS = ("step", "steps", "epoch")


def evaluation_of(record: Record) -> dict[str, float]:
    """The metrics of an evaluation's record, the deciding one first; empty for a step."""
    return {} if "loss" in record else {name: value for name, value in record.items() if name not in _NOT_METRICS}


_DESCRIPTIONS = {
    "step": "Steps completed.",
    "steps": "Total number of steps.",
    "loss": "Loss of the last step.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Gradient norm of the last step, before clipping.",
    "masked_pairs": "Pairs of query and passage left out of the last step's negatives, as false negatives.",
    "tokens_per_second": "Tokens per second, over all workers.",
    "padded_share": "Share of padding in the tokens that the rank-0 worker encoded in the last step.",
    "memory_bytes": "Peak memory of the rank-0 worker, in bytes.",
    "nDCG@10": "nDCG@10 of the last evaluation.",
}
# Gauge name of each record entry: `raycol_training_loss` and so on. Ray adds the prefix `ray_`.
NAMES = {entry: f"raycol_training_{entry.lower().replace('@', '_at_')}" for entry in _DESCRIPTIONS}
_CURVES = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}
_WIDTH, _HEIGHT = 8.0, 2.0  # inches: of the figure, of each subplot
# Curves of at most this many points get a marker per point: a single point is invisible as a line.
_MAX_MARKERS = 40


def averaged(metric: str) -> str:
    """Name of a metric of averaged weights in the last line of `metrics.jsonl`."""
    return f"averaged {metric}"


def metric_of(metric: str, collection: str) -> str:
    """Name of a collection's metric in a record, beside the averages over several collections."""
    return f"{metric} {collection}"


def improved(metric: str, untrained: Mapping[str, float], trained: Mapping[str, float]) -> bool | None:
    """Whether a metric is better than that of the untrained model; None if they were not evaluated."""
    return trained[metric] > untrained[metric] if metric in untrained and metric in trained else None


class TrainingMetrics:
    """Gauges of one training."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {entry: Gauge(name, _DESCRIPTIONS[entry]) for entry, name in NAMES.items()}

    def update(self, record: Record) -> None:
        """Set the gauges of a record's entries."""
        for name, gauge in self._gauges.items():
            if name in record:
                gauge.set(record[name])


def draw_curves(
    path: Path, records: Sequence[Record], kept: Sequence[int], metrics: Sequence[str] = tuple(DEFAULT_METRICS)
) -> None:
    """Plot each metric over the steps, one subplot below the other.

    Args:
        path: the PNG to write.
        records: of steps and evaluations, in order.
        kept: the step whose weights the model has, or several that it averages; marked in the subplot of the
            evaluations.
        metrics: names of the evaluations' metrics to plot.
    """
    # pyplot would keep figures and a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {name: title for name, title in _CURVES.items() if any(name in record for record in records)}
    metrics = [name for name in metrics if any(name in record for record in records)]
    n_rows = max(1, len(curves) + bool(metrics))
    figure = Figure(figsize=(_WIDTH, _HEIGHT * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(n_rows, 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, title) in zip(rows, curves.items(), strict=False):
        _plot(axes, records, name, color="tab:blue")
        axes.set_ylabel(title)
    if metrics:
        for name in metrics:
            _plot(rows[-1], records, name, label=name)
        label = f"kept: step {kept[0]}" if len(kept) == 1 else f"mean of {len(kept)} steps"
        for step in kept:
            rows[-1].axvline(step, color="grey", linestyle=":", label=label if step == kept[0] else None)
        rows[-1].set_ylabel("evaluation")
        rows[-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in rows:
        axes.grid(alpha=0.3)
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _plot(axes: Any, records: Sequence[Record], name: str, **style: Any) -> None:
    points = [(record["step"], record[name]) for record in records if name in record]
    marker = "." if len(points) <= _MAX_MARKERS else ""
    axes.plot(*zip(*points, strict=True), linewidth=1, marker=marker, **style)
