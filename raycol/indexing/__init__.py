"""Building indexes from corpora with Ray Data."""

from raycol.indexing.append import append_corpus
from raycol.indexing.build import build_index
from raycol.indexing.config import AppendConfig, IndexConfig, PlanConfig
from raycol.indexing.estimate import Estimate, estimate_build
from raycol.indexing.report import BuildReport

__all__ = [
    "AppendConfig",
    "BuildReport",
    "Estimate",
    "IndexConfig",
    "PlanConfig",
    "append_corpus",
    "build_index",
    "estimate_build",
]
