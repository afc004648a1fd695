"""Evaluate retrieval: runs, metrics, a BM25 baseline."""

from raycol.evaluation.evaluate import EvaluateConfig, Evaluation, evaluate
from raycol.evaluation.metrics import METRICS, score_run

__all__ = ["METRICS", "EvaluateConfig", "Evaluation", "evaluate", "score_run"]
