"""Following a job: what it says as it says it, and its end. A lost connection is made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol

from raycol.errors import RaycolError
from raycol.jobs.job import Job

# Seconds without a connection after which following ends; the job goes on.
_PATIENCE_S = 60.0
_PAUSE_S = 0.5


class Source(Protocol):
    """Where a job's state and log come from: a `Cluster`."""

    def job(self, submission_id: str) -> Job:
        """The job as it is now."""

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Its log from the beginning. Raises `ConnectionError`."""


def follow(source: Source, submission_id: str, write: Callable[[str], None], pause_s: float = _PAUSE_S) -> Job:
    """Write a job's log as it grows; return the job when it has ended.

    Raises:
        RaycolError: the cluster is out of reach for a minute.
    """
    return asyncio.run(_follow(source, submission_id, write, pause_s))


async def _follow(source: Source, submission_id: str, write: Callable[[str], None], pause_s: float) -> Job:
    written = 0
    reached = time.monotonic()
    while True:
        skipped = 0
        try:
            async with aclosing(source.tail(submission_id)) as log:  # type: ignore[type-var]
                async for text in log:
                    # After a lost connection, the log begins again.
                    known = min(len(text), written - skipped)
                    skipped += known
                    if new := text[known:]:
                        written += len(new)
                        skipped += len(new)
                        write(new)
                    reached = time.monotonic()
            job = await asyncio.to_thread(source.job, submission_id)
            reached = time.monotonic()
            if not job.active:
                return job
        except (ConnectionError, RaycolError) as error:
            if time.monotonic() - reached > _PATIENCE_S:
                raise RaycolError(f"the connection to job {submission_id} is lost ({error}); the job may go on") from None
        await asyncio.sleep(pause_s)
