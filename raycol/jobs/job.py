"""A job of a cluster: the fields of Ray's record that raycol uses."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

_ACTIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job.

    Args:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        entrypoint: its command.
        started, ended: None if it has not.
        message: Ray's explanation of the status.
        driver_code: exit code of its process, if that exited; negative for a signal.
        package: URI of the working directory that it runs in.
        metadata: set at submission.
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
        """Whether it is pending or running."""
        return self.status in _ACTIVE

    @property
    def exit_code(self) -> int:
        """The exit code as a shell reports it: the process's own, 128 + signal, or 1 if it has none."""
        if self.status == "SUCCEEDED":
            return 0
        if not self.driver_code:  # stopped, or never started
            return 1
        return self.driver_code if self.driver_code > 0 else 128 - self.driver_code

    @property
    def seconds(self) -> float | None:
        """Duration, up to now if it has not ended; None if it has not started."""
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds() if self.started else None
