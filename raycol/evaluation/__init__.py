"""Evaluate retrieval: systems, exact scores, metrics, comparisons."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.evaluation.config import EvaluateConfig
    from raycol.evaluation.evaluate import evaluate
    from raycol.evaluation.metrics import METRICS, score_run
    from raycol.evaluation.result import Evaluation

__getattr__ = lazy_attributes(
    __name__,
    {
        "METRICS": "raycol.evaluation.metrics",
        "EvaluateConfig": "raycol.evaluation.config",
        "Evaluation": "raycol.evaluation.result",
        "evaluate": "raycol.evaluation.evaluate",
        "score_run": "raycol.evaluation.metrics",
    },
)

__all__ = ["METRICS", "EvaluateConfig", "Evaluation", "evaluate", "score_run"]
