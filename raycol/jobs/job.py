"""A job of a cluster, and its attempts.

A submission id is a hash of verb and settings, so that resubmitting finds the same job, and the number of the attempt:

raycol-index-5f3a9c0e1b2d4866      the first attempt
raycol-index-5f3a9c0e1b2d4866-2    the second, after the first failed or was stopped
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import xxhash

from raycol.core.config import Config

PREFIX = "raycol"
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


def job_name(verb: str, config: Config) -> str:
    """Return the id that all attempts of a job share. A setting equal to its default counts as not set."""
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return f"{PREFIX}-{verb}-{xxhash.xxh3_64_hexdigest(f'{verb} {settings}'.encode())}"


def attempt_id(name: str, attempt: int) -> str:
    """Return the submission id of an attempt; the first is 1."""
    return name if attempt == 1 else f"{name}-{attempt}"


def attempt_of(name: str, submission_id: str) -> int | None:
    """Return the number of the attempt that a submission id names; None if it names another job."""
    match = re.fullmatch(rf"{re.escape(name)}(?:-([1-9]\d*))?", submission_id)
    attempt = int(match[1] or 1) if match else None
    return attempt if attempt and attempt_id(name, attempt) == submission_id else None


@dataclass(frozen=True)
class Attempt:
    """An attempt to follow, if it exists, or to submit.

    Args:
        submission_id: its id.
        existing: the job to follow; None for an attempt to submit.
        previous: the attempt before one to submit.
    """

    submission_id: str
    existing: SubmittedJob | None
    previous: SubmittedJob | None = None


def choose_attempt(jobs: Iterable[SubmittedJob], name: str, *, again: bool = False) -> Attempt:
    """Return the last attempt if it is active or has succeeded, else the next one.

    Args:
        jobs: all jobs of the cluster.
        name: of the job, from `job_name`.
        again: return the next attempt even if the last one has succeeded.
    """
    attempts = {attempt: job for job in jobs if (attempt := attempt_of(name, job.id))}
    if not attempts:
        return Attempt(attempt_id(name, 1), None)
    last = max(attempts)
    job = attempts[last]
    if job.active or (job.status == "SUCCEEDED" and not again):
        return Attempt(job.id, job)
    return Attempt(attempt_id(name, last + 1), None, job)
