"""Following a job: what it says as it says it, and its end. A lost connection is made again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from raycol.errors import InputError, RaycolError
from raycol.jobs.job import SubmittedJob

# Seconds without an answer after which following ends; the job goes on.
_PATIENCE_S = 60.0
# Between two looks at whether the job has ended: Ray's stream of its log ends seconds later.
_PAUSE_S = 1.0

T = TypeVar("T")


class LogSource(Protocol):
    """Where a job's state and log come from: a `Cluster`."""

    def job(self, submission_id: str) -> SubmittedJob:
        """The job as it is now."""

    def logs(self, submission_id: str) -> str:
        """Its log so far."""

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Its log from the beginning, as it grows. Raises `ConnectionError`."""


def follow(
    source: LogSource,
    submission_id: str,
    write: Callable[[str], None],
    *,
    pause_s: float = _PAUSE_S,
    patience_s: float = _PATIENCE_S,
) -> SubmittedJob:
    """Write a job's log as it grows; return the job when it has ended.

    Raises:
        InputError: there is no such job, or no more.
        RaycolError: the cluster is out of reach for too long.
    """
    return asyncio.run(_follow(source, submission_id, _Log(write), pause_s, patience_s))


class _Log:
    """What was written of a log, which may begin again."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = 0

    def take(self, start: int, text: str) -> int:
        """Write what is new of a piece that starts at a character of the log; return where it ends."""
        end = start + len(text)
        if end > self._written:
            self._write(text[max(0, self._written - start) :])
            self._written = end
        return end


async def _follow(source: LogSource, submission_id: str, log: _Log, pause_s: float, patience_s: float) -> SubmittedJob:
    tailing = asyncio.create_task(_tail(source, submission_id, log, pause_s))
    try:
        while (job := await _asked(source.job, submission_id, pause_s, patience_s)).active:
            await asyncio.sleep(pause_s)
    finally:
        tailing.cancel()
        with suppress(asyncio.CancelledError):
            await tailing
    log.take(0, await _asked(source.logs, submission_id, pause_s, patience_s))
    return job


async def _tail(source: LogSource, submission_id: str, log: _Log, pause_s: float) -> None:
    """Write the log as it comes, from the beginning again after each lost connection, until cancelled."""
    while True:
        place = 0
        with suppress(ConnectionError):
            async for text in source.tail(submission_id):
                place = log.take(place, text)
        await asyncio.sleep(pause_s)


async def _asked(ask: Callable[[str], T], submission_id: str, pause_s: float, patience_s: float) -> T:
    """Ask the cluster, again where it is out of reach for a while."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return await asyncio.to_thread(ask, submission_id)
        except InputError:
            raise
        except RaycolError as error:
            if time.monotonic() > deadline:
                raise RaycolError(f"job {submission_id}: following ends ({error}); the job may go on") from None
        await asyncio.sleep(pause_s)
