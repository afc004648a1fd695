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


class Metrics:
    """Gauges of one training: `raycol_training_loss` and so on."""

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(f"raycol_training_{name.lower().replace('@', '_at_')}", description)
            for name, description in _DESCRIPTIONS.items()
        }

    def show(self, record: dict[str, float]) -> None:
        """Set what a record tells."""
        for name, gauge in self._gauges.items():
            if name in record:
                gauge.set(record[name])
