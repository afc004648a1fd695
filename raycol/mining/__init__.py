"""Hard negatives from an index, and a cross-encoder's scores for them, with Ray Data."""

from raycol.mining.config import MineConfig, TeachConfig
from raycol.mining.mine import mine_negatives
from raycol.mining.report import MiningReport, TeachingReport
from raycol.mining.teach import score_examples

__all__ = ["MineConfig", "MiningReport", "TeachConfig", "TeachingReport", "mine_negatives", "score_examples"]
