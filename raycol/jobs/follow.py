"""Follow a job: print its log as it grows until it ends, reconnecting after lost connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from raycol.errors import InputError, RaycolError
from raycol.jobs.job import SubmittedJob

# Seconds without an answer until following ends; the job keeps running.
_TIMEOUT_S = 60.0
# Seconds between two status requests. Polling sees the job's end seconds before Ray closes its log stream.
_POLL_S = 1.0

T = TypeVar("T")


class LogSource(Protocol):
    """Source of a job's state and log: a `Cluster`."""

    def job(self, submission_id: str) -> SubmittedJob:
        """The job's current state."""

    def logs(self, submission_id: str) -> str:
        """The job's log so far."""

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Stream the job's log from its beginning. Raises `ConnectionError`."""


def follow(
    source: LogSource,
    submission_id: str,
    write: Callable[[str], None],
    *,
    poll_s: float = _POLL_S,
    timeout_s: float = _TIMEOUT_S,
) -> SubmittedJob:
    """Write a job's log as it grows; return the job once it has ended.

    Raises:
        InputError: the cluster has no such job, or no longer has it.
        RaycolError: the cluster is unreachable for `timeout_s`.
    """
    return asyncio.run(_follow(source, submission_id, _LogWriter(write), poll_s, timeout_s))


class _LogWriter:
    """Writes each character of a log once, although every reconnection streams it from the beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = 0

    def write_from(self, start: int, text: str) -> int:
        """Write the new part of a chunk that starts at a character of the log; return the chunk's end."""
        end = start + len(text)
        if end > self._written:
            self._write(text[max(0, self._written - start) :])
            self._written = end
        return end


async def _follow(
    source: LogSource, submission_id: str, log: _LogWriter, poll_s: float, timeout_s: float
) -> SubmittedJob:
    tailing = asyncio.create_task(_tail(source, submission_id, log, poll_s))
    try:
        while (job := await _with_retry(source.job, submission_id, poll_s, timeout_s)).active:
            await asyncio.sleep(poll_s)
    finally:
        tailing.cancel()
        with suppress(asyncio.CancelledError):
            await tailing
    log.write_from(0, await _with_retry(source.logs, submission_id, poll_s, timeout_s))
    return job


async def _tail(source: LogSource, submission_id: str, log: _LogWriter, poll_s: float) -> None:
    """Write the streamed log until cancelled, reconnecting after each lost connection."""
    while True:
        position = 0
        with suppress(ConnectionError):
            async for text in source.tail(submission_id):
                position = log.write_from(position, text)
        await asyncio.sleep(poll_s)


async def _with_retry(request: Callable[[str], T], submission_id: str, poll_s: float, timeout_s: float) -> T:
    """Send a request to the cluster, retrying for `timeout_s` while it is unreachable."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await asyncio.to_thread(request, submission_id)
        except InputError:
            raise
        except RaycolError as error:
            if time.monotonic() > deadline:
                raise RaycolError(
                    f"job {submission_id}: stopped following it ({error}); the job may still be running"
                ) from None
        await asyncio.sleep(poll_s)
