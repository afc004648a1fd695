"""Training of encoders, in this process or on Ray Train."""

from typing import TYPE_CHECKING

from raycol.core.lazy import lazy_attributes

if TYPE_CHECKING:
    from raycol.training.config import TrainConfig
    from raycol.training.launch import TrainReport, train
    from raycol.training.loss import Loss, LossBatch

__getattr__ = lazy_attributes(
    __name__,
    {
        "Loss": "raycol.training.loss",
        "LossBatch": "raycol.training.loss",
        "TrainConfig": "raycol.training.config",
        "TrainReport": "raycol.training.launch",
        "train": "raycol.training.launch",
    },
)

__all__ = ["Loss", "LossBatch", "TrainConfig", "TrainReport", "train"]
