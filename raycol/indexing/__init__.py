"""Building indexes from corpora with Ray Data."""

from raycol.indexing.build import BuildReport, build_index
from raycol.indexing.config import IndexConfig

__all__ = ["BuildReport", "IndexConfig", "build_index"]
