"""Settings of `raycol doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from raycol.core.config import Config, Location


class DoctorConfig(Config):
    """Settings of `raycol doctor`."""

    address: str | None = None
    """The cluster: its dashboard (http://HEAD:8265), or from one of its machines auto or HOST:6379; by default what
    RAY_ADDRESS says, else this machine by itself."""

    shared: tuple[Location, ...] = ()
    """A folder or URI that every node should read and write."""

    plan: Path | None = None
    """YAML file of a build (raycol index build) to check the room for; the corpus and the model are looked at."""

    wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120
    """Seconds that nodes have to answer."""
