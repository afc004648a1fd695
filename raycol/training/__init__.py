"""Training encoders on Ray Train."""

from raycol.training.config import TrainConfig
from raycol.training.train import TrainReport, train

__all__ = ["TrainConfig", "TrainReport", "train"]
