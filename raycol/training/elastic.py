"""Ray Train's elastic scaling, with numbers of workers that divide the batch."""

from __future__ import annotations

from typing import Any

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


class ElasticTrainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose workers share a batch equally, also if their number changes.

    Args:
        batch_size: examples per batch.
        arguments, settings: of `TorchTrainer`.
    """

    def __init__(self, batch_size: int, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._batch_size = batch_size

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            settings["scaling_policy"] = DividingScalingPolicy(self.scaling_config, self._batch_size)
        return super()._initialize_and_run_controller(**settings)


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
