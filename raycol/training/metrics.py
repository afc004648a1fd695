"""Training metrics that Ray exports to Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge

_DESCRIPTIONS = {
    "step": "Steps completed.",
    "steps": "Total number of steps.",
    "loss": "Loss of the last step.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Gradient norm of the last step, before clipping.",
    "tokens_per_second": "Tokens per second, over all workers.",
    "memory_bytes": "Peak memory of the rank-0 worker, in bytes.",
    "nDCG@10": "nDCG@10 of the last evaluation.",
}


# Gauge name of each record entry: `raycol_training_loss` and so on. Ray adds the prefix `ray_`.
NAMES = {entry: f"raycol_training_{entry.lower().replace('@', '_at_')}" for entry in _DESCRIPTIONS}


class TrainingMetrics:
    """Gauges of one training."""

    def __init__(self) -> None:
        self._gauges = {entry: Gauge(name, _DESCRIPTIONS[entry]) for entry, name in NAMES.items()}

    def update(self, record: dict[str, float]) -> None:
        """Set the gauges of a record's entries."""
        for name, gauge in self._gauges.items():
            if name in record:
                gauge.set(record[name])
