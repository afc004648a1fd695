"""What a job is called: by its configuration, so that the same job is found again, and by how often it was tried.

raycol-index-5f3a9c0e1b2d4866      the first attempt
raycol-index-5f3a9c0e1b2d4866-2    the second, after the first failed or was stopped
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from raycol.core.config import Config
from raycol.jobs.job import SubmittedJob

PREFIX = "raycol"


def job_name(verb: str, config: Config) -> str:
    """What all attempts of a job begin with. What is set to its default counts as not set."""
    settings = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return f"{PREFIX}-{verb}-{xxhash.xxh3_64_hexdigest(f'{verb} {settings}'.encode())}"


def attempt_id(name: str, attempt: int) -> str:
    """The submission id of an attempt, counted from 1."""
    return name if attempt == 1 else f"{name}-{attempt}"


def attempt_of(name: str, submission_id: str) -> int | None:
    """Which attempt of a job a submission id is of; None where it is of another job."""
    found = re.fullmatch(rf"{re.escape(name)}(?:-([1-9]\d*))?", submission_id)
    attempt = int(found[1] or 1) if found else None
    return attempt if attempt and attempt_id(name, attempt) == submission_id else None


@dataclass(frozen=True)
class Choice:
    """What to do: attach to an attempt that is there, or make a new one of this submission id."""

    submission_id: str
    there: SubmittedJob | None
    before: SubmittedJob | None = None
    """The attempt before a new one."""


def choose(jobs: Iterable[SubmittedJob], name: str, *, again: bool = False) -> Choice:
    """Which attempt the caller means: the last one where it goes on or has succeeded, else the next.

    Args:
        jobs: of the cluster.
        name: of the job.
        again: a new attempt even where the last one has succeeded.
    """
    attempts = {attempt: job for job in jobs if (attempt := attempt_of(name, job.id))}
    if not attempts:
        return Choice(attempt_id(name, 1), None)
    last = max(attempts)
    job = attempts[last]
    if job.active or (job.status == "SUCCEEDED" and not again):
        return Choice(job.id, job)
    return Choice(attempt_id(name, last + 1), None, job)
