"""Building indexes from corpora with Ray Data."""

from raycol.indexing.append import append_corpus
from raycol.indexing.build import build_index
from raycol.indexing.config import AppendConfig, IndexConfig
from raycol.indexing.report import BuildReport

__all__ = ["AppendConfig", "BuildReport", "IndexConfig", "append_corpus", "build_index"]
