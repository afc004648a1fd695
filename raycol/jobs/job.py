"""A job of a cluster, as raycol needs to know it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

_ACTIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was submitted.

    Args:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        entrypoint: its command.
        started, ended: when.
        message: what Ray says of its status.
        driver_code: the exit code of its process, where that ended by itself; a signal's is negative.
        package: the URI of the working directory that it runs in.
        metadata: what was noted when it was submitted.
    """

    id: str
    status: str
    entrypoint: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    message: str = ""
    driver_code: int | None = None
    package: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.status in _ACTIVE

    @property
    def exit_code(self) -> int:
        """What a shell would say: the process's own code, 128 and the signal that ended it, or 1."""
        if self.status == "SUCCEEDED":
            return 0
        if not self.driver_code:  # stopped, or never started
            return 1
        return self.driver_code if self.driver_code > 0 else 128 - self.driver_code

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken so far."""
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds() if self.started else None
