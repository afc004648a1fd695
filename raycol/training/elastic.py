"""Ray Train's elastic scaling, with numbers of workers that divide the batch.

Ray Train has no public place for a scaling policy, so this depends on its internals; only `min_workers` imports it.
"""

from __future__ import annotations

from typing import Any

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


def elastic_trainer(batch_size: int) -> type[TorchTrainer]:
    """Return a `TorchTrainer` that uses as many workers as fit and divide a batch of `batch_size` examples."""

    class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            policy = DividingScalingPolicy(self.scaling_config, batch_size)
            return super()._initialize_and_run_controller(**{**settings, "scaling_policy": policy})

    return ElasticTrainer


class DividingScalingPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Uses as many workers as fit and divide the batch.

    Args:
        scaling_config: of the trainer.
        batch_size: examples per batch.
    """

    def __init__(self, scaling_config: ScalingConfig, batch_size: int) -> None:
        super().__init__(scaling_config)
        self._batch_size = batch_size

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        return largest_divisor(self._batch_size, super()._count_possible_workers(reserved_resources))


def largest_divisor(n: int, limit: int) -> int:
    """Return the largest divisor of `n` that is at most `limit`; 0 if that is 0."""
    return next((one for one in range(limit, 0, -1) if n % one == 0), 0)
