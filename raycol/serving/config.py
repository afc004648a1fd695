"""Settings of `raycol serve` and `serve deploy`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, LocalPath, Location, Positive

LOOPBACK = "127.0.0.1"
# Compared with the whole `Origin` header: a path or a wildcard would never match.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*?#@]+")
_HOST_NAME = re.compile(r"[^/\s*?#@]+")


class ServeConfig(Config):
    """Settings of `raycol serve` and `serve deploy`."""

    index: Location
    """Folder or URI of the index."""

    model: Location | None = None
    """Path or name of the encoder; by default the model that the index was built with."""

    version: Positive | None = None
    """Version to start with; by default the one last set by `raycol deploy`, or else the newest."""

    shards: Positive = 1
    """Number of shards; the index's partitions are spread over them, evenly by tokens."""

    replicas: Positive = 1
    """Replicas of each shard; from 2 on, the encoder has 2."""

    max_replicas: Positive | None = None
    """Maximum replicas of each shard and of the encoder when autoscaling; no autoscaling by default."""

    host: str | None = None
    """Address to listen on; 127.0.0.1 by default. For `serve deploy`, repeat the host of `http_options`."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0 takes a free one."""

    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Time limit of a request in seconds."""

    max_requests: Positive = 64
    """Concurrent requests per gateway; further requests get a 429."""

    keys: LocalPath | None = None
    """File of API keys, written by `raycol key`. Required unless `host` is a loopback address or `open` is set."""

    open: bool = False
    """Serve without keys on any address."""

    cors: tuple[str, ...] = ()
    """Origins whose pages may call the endpoint from a browser; none by default."""

    allowed_hosts: tuple[str, ...] = ()
    """Host names allowed in requests without keys, in addition to localhost and the address it listens on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; expected at least replicas, {self.replicas}")
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"cors contains {origin!r:.200}; expected an origin such as https://HOST[:PORT]")
        for name in self.allowed_hosts:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"allowed_hosts contains {name!r:.200}; expected a host name or an address")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        return (
            {"open": "with keys, every request needs one; remove open or keys"}
            if self.keys is not None and self.open
            else {}
        )

    @property
    def loopback(self) -> bool:
        """Whether `host` is a loopback address, which only this machine can reach."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False
