"""Options of the command `raycol train`: the settings of a training, and those of a dry run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.training.config import TrainConfig


class TrainCommandConfig(TrainConfig):
    """Options of the command `raycol train`."""

    dry_run: bool = False
    """Read the data, print an estimate of steps, tokens, memory, network and hours, and stop; nothing is written."""

    tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    """With --dry-run: a worker's rate, to estimate the hours from; by default measured on this machine."""

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        reasons = super().without_effect()
        if not self.dry_run:
            reasons["tokens_per_second"] = "it is for dry_run; set that too, or leave it out"
        return reasons
