"""Settings of `raycol serve`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raycol.config import Config, Location, Positive


class ServeConfig(Config):
    """Settings of `raycol serve`."""

    index: Location
    """Folder or URI of the index."""

    model: str | None = None
    """Where its encoder is now; by default where the index remembers it."""

    shards: Positive = 1
    """Deployments that the index's partitions are spread over, evenly by tokens."""

    replicas: Positive = 1
    """Replicas of each shard."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port on 127.0.0.1; 0 takes a free one."""

    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """A request that takes longer is answered with 504."""
