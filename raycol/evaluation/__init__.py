"""Evaluate retrieval: systems, exact scores, metrics, runs, comparisons."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.evaluation.comparison import Comparison, Mean, compare, holm, largest_differences, mean_interval
    from raycol.evaluation.config import EvaluateConfig
    from raycol.evaluation.measure import evaluate
    from raycol.evaluation.metrics import DEFAULT_METRICS, parse_metrics, score_queries, score_run
    from raycol.evaluation.result import Difference, Evaluation, JudgedHit, QueryDifference, SystemResult
    from raycol.evaluation.trec import Run, read_run, write_run

__getattr__ = lazy_attributes(
    __name__,
    {
        "DEFAULT_METRICS": "raycol.evaluation.metrics",
        "Comparison": "raycol.evaluation.comparison",
        "Difference": "raycol.evaluation.result",
        "EvaluateConfig": "raycol.evaluation.config",
        "Evaluation": "raycol.evaluation.result",
        "JudgedHit": "raycol.evaluation.result",
        "Mean": "raycol.evaluation.comparison",
        "QueryDifference": "raycol.evaluation.result",
        "Run": "raycol.evaluation.trec",
        "SystemResult": "raycol.evaluation.result",
        "compare": "raycol.evaluation.comparison",
        "evaluate": "raycol.evaluation.measure",
        "holm": "raycol.evaluation.comparison",
        "largest_differences": "raycol.evaluation.comparison",
        "mean_interval": "raycol.evaluation.comparison",
        "parse_metrics": "raycol.evaluation.metrics",
        "read_run": "raycol.evaluation.trec",
        "score_queries": "raycol.evaluation.metrics",
        "score_run": "raycol.evaluation.metrics",
        "write_run": "raycol.evaluation.trec",
    },
)

__all__ = [
    "DEFAULT_METRICS",
    "Comparison",
    "Difference",
    "EvaluateConfig",
    "Evaluation",
    "JudgedHit",
    "Mean",
    "QueryDifference",
    "Run",
    "SystemResult",
    "compare",
    "evaluate",
    "holm",
    "largest_differences",
    "mean_interval",
    "parse_metrics",
    "read_run",
    "score_queries",
    "score_run",
    "write_run",
]
