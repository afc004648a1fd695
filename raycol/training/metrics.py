"""How a training goes, as metrics that Ray exports to Prometheus with its own."""

from __future__ import annotations

from ray.util.metrics import Gauge

_DESCRIPTIONS = {
    "step": "Steps taken.",
    "steps": "Steps that there will be.",
    "loss": "Loss of the last step.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Norm of the last step's gradient, before it was clipped.",
    "tokens_per_second": "Tokens a second, of all workers.",
    "memory_bytes": "Most memory that the leading worker has had.",
    "nDCG@10": "The last evaluation.",
}


# The gauge of each entry of a record: `raycol_training_loss` and so on. Ray puts `ray_` before them.
NAMES = {entry: f"raycol_training_{entry.lower().replace('@', '_at_')}" for entry in _DESCRIPTIONS}


class TrainingMetrics:
    """Gauges of one training."""

    def __init__(self) -> None:
        self._gauges = {entry: Gauge(name, _DESCRIPTIONS[entry]) for entry, name in NAMES.items()}

    def show(self, record: dict[str, float]) -> None:
        """Set what a record tells."""
        for name, gauge in self._gauges.items():
            if name in record:
                gauge.set(record[name])
