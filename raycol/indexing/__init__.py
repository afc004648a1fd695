"""Build indexes from corpora, and append to them, with Ray Data."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.indexing.append import append_corpus
    from raycol.indexing.build import build_index
    from raycol.indexing.compact import CompactReport, compact_index
    from raycol.indexing.config import AppendConfig, CompactConfig, IndexConfig, PlanConfig
    from raycol.indexing.estimate import Estimate, estimate_build
    from raycol.indexing.report import BuildReport

__getattr__ = lazy_attributes(
    __name__,
    {
        "AppendConfig": "raycol.indexing.config",
        "BuildReport": "raycol.indexing.report",
        "CompactConfig": "raycol.indexing.config",
        "CompactReport": "raycol.indexing.compact",
        "Estimate": "raycol.indexing.estimate",
        "IndexConfig": "raycol.indexing.config",
        "PlanConfig": "raycol.indexing.config",
        "append_corpus": "raycol.indexing.append",
        "build_index": "raycol.indexing.build",
        "compact_index": "raycol.indexing.compact",
        "estimate_build": "raycol.indexing.estimate",
    },
)

__all__ = [
    "AppendConfig",
    "BuildReport",
    "CompactConfig",
    "CompactReport",
    "Estimate",
    "IndexConfig",
    "PlanConfig",
    "append_corpus",
    "build_index",
    "compact_index",
    "estimate_build",
]
