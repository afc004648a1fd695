"""Settings of `raycol sweep`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, LocalPath, Positive, WaitForNodes


class SweepConfig(Config):
    """Options of `raycol sweep`."""

    recipe: LocalPath
    """YAML file with a training (`train`) and the ranges of some of its settings (`ranges`)."""

    out: LocalPath
    """Folder of the sweep: the best model, its trials, table.md, sweep.json and a picture. Workers on other nodes must
    reach it. The same command continues an interrupted sweep, and one with more trials adds them."""

    trials: Positive = 16
    """Trainings."""

    concurrent: Positive | None = None
    """Trainings at a time; by default as many as their `resources` allow."""

    min_evaluations: Positive = 1
    """Evaluations before a training may be stopped."""

    reduction: Annotated[float, Field(gt=1)] = 3.0
    """At 1, 3, 9, ... times `min_evaluations`, only the best third of the trainings there so far goes on (ASHA, Li et
    al. 2018, arXiv 1810.05934); a larger number stops more of them."""

    seed: int = 0
    """Seed of the sampled settings."""

    wait_for_nodes: WaitForNodes = 0.0
    """Seconds to wait for nodes that the cluster's autoscaler adds."""
