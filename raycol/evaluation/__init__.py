"""Evaluate retrieval: runs, metrics, comparisons, a BM25 baseline."""

from raycol.evaluation.comparison import Comparison, Mean, compare, holm, largest_differences, mean_interval
from raycol.evaluation.evaluate import EvaluateConfig, Evaluation, evaluate
from raycol.evaluation.metrics import DEFAULT_METRICS, parse_metrics, score_queries, score_run
from raycol.evaluation.trec import Run, read_run, write_run

__all__ = [
    "DEFAULT_METRICS",
    "Comparison",
    "EvaluateConfig",
    "Evaluation",
    "Mean",
    "Run",
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
