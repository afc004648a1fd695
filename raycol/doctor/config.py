"""Settings of `raycol doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, Location


class DoctorConfig(Config):
    """Settings of `raycol doctor`."""

    address: str | None = None
    """Cluster to check: its dashboard (http://HEAD:8265) or, on one of its machines, auto or HOST:6379. Default:
    RAY_ADDRESS, else this machine."""

    shared: tuple[Location, ...] = ()
    """A folder or URI that every node must read and write."""

    plan: Path | None = None
    """YAML file of a build (raycol index build) to check workers, memory and disk for. Reads its corpus and model."""

    wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120
    """Seconds to wait for the nodes to answer."""
