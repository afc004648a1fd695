"""Hard negatives from an index and other systems, and the scores of teachers for them, with Ray Data."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.mining.config import MineConfig, ScoreConfig
    from raycol.mining.mine import mine_negatives
    from raycol.mining.report import MiningReport, ScoringReport
    from raycol.mining.score import score_examples

__getattr__ = lazy_attributes(
    __name__,
    {
        "MineConfig": "raycol.mining.config",
        "MiningReport": "raycol.mining.report",
        "ScoreConfig": "raycol.mining.config",
        "ScoringReport": "raycol.mining.report",
        "mine_negatives": "raycol.mining.mine",
        "score_examples": "raycol.mining.score",
    },
)

__all__ = ["MineConfig", "MiningReport", "ScoreConfig", "ScoringReport", "mine_negatives", "score_examples"]
