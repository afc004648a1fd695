"""Settings of `raycol serve`, and of `serve deploy`."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from raycol.core.config import Config, LocalPath, Location, Positive

LOOPBACK = "127.0.0.1"
# Compared with the whole of what browsers send: a path or a wildcard would never match.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*?#@]+")
_HOST_NAME = re.compile(r"[^/\s*?#@]+")


class ServeConfig(Config):
    """Settings of `raycol serve`, and of `serve deploy`."""

    index: Location
    """Folder or URI of the index."""

    model: Location | None = None
    """Where its encoder is now; by default where the index remembers it."""

    version: Positive | None = None
    """Version to begin with; by default the one that an administrator chose last, or else the newest."""

    shards: Positive = 1
    """Deployments that the index's partitions are spread over, evenly by tokens."""

    replicas: Positive = 1
    """Replicas of each shard; from two on, the encoder has two."""

    max_replicas: Positive | None = None
    """Replicas of each shard, and of the encoder, under load; by default no more than otherwise."""

    host: str | None = None
    """Address to listen on: 127.0.0.1 by default. For `serve deploy` the http_options say it, and this repeats it."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port; 0 takes a free one."""

    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """The most that a request may take."""

    max_requests: Positive = 64
    """Requests that a gateway works on at once; more are answered with 429."""

    keys: LocalPath | None = None
    """File of API keys, as `raycol key` writes it. Needed on any address but this machine's own."""

    open: bool = False
    """Answer without keys on any address."""

    cors: tuple[str, ...] = ()
    """Origins whose pages may call the endpoint from a browser; none by default."""

    allowed_hosts: tuple[str, ...] = ()
    """Names by which the endpoint may be called without keys, beside localhost and the address it listens on."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; expected at least the {self.replicas} replicas")
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors is {origin!r:.200}; expected an origin as browsers send it: https://HOST[:PORT]"
                )
        for name in self.allowed_hosts:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"allowed_hosts is {name!r:.200}; expected a host's name or its address")
        return self

    def without_effect(self) -> dict[str, str]:
        """See `Config`."""
        return (
            {"open": "with keys every request needs one; leave out open, or keys"}
            if self.keys is not None and self.open
            else {}
        )

    @property
    def loopback(self) -> bool:
        """Whether it is known that only this machine can reach the endpoint."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False
