"""Hard negatives from an index, and a cross-encoder's scores for them, with Ray Data."""

from typing import TYPE_CHECKING

from raycol.lazily import lazily

if TYPE_CHECKING:
    from raycol.mining.config import MineConfig, TeachConfig
    from raycol.mining.mine import mine_negatives
    from raycol.mining.report import MiningReport, TeachingReport
    from raycol.mining.teach import score_examples

__getattr__ = lazily(
    __name__,
    {
        "MineConfig": "raycol.mining.config",
        "MiningReport": "raycol.mining.report",
        "TeachConfig": "raycol.mining.config",
        "TeachingReport": "raycol.mining.report",
        "mine_negatives": "raycol.mining.mine",
        "score_examples": "raycol.mining.teach",
    },
)

__all__ = ["MineConfig", "MiningReport", "TeachConfig", "TeachingReport", "mine_negatives", "score_examples"]
