"""A circuit breaker for a shard: searches skip a shard that is down instead of each waiting for it.

A call of a dead replica hangs until Serve notices, and forever if the replica's successor cannot start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

# After a timeout, a shard that does not answer a ping within this time is down.
PING_TIMEOUT_S = 2.0
# After this many consecutive timeouts of at least 5 s a shard is down even if it answers pings.
_MAX_TIMEOUTS = 2
_LONG_TIMEOUT_S = 5.0
# Interval between background retries of a shard that is down.
_RETRY_S = 0.5

log = logging.getLogger("ray.serve")


class CircuitBreaker:
    """Tracks whether one shard is down.

    Only timeouts open it: a failure returns at once and costs a request no time. One timeout alone does not, since a
    client may set a time limit of a millisecond.

    Args:
        name: the shard's name in the log.
        ping: calls the shard's `status`.
        clock: monotonic seconds.
    """

    def __init__(
        self, name: str, ping: Callable[[], Awaitable[Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_down = False
        self._name = name
        self._ping = ping
        self._clock = clock
        self._timeouts = 0
        self._last_retry = 0.0
        # The event loop keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking = False

    def record_success(self) -> None:
        """The shard replied: it is up."""
        self._timeouts = 0
        self._set_down(False)

    def record_timeout(self, waited_s: float) -> None:
        """The shard did not reply within `waited_s`: ping it, or mark it down."""
        if waited_s >= _LONG_TIMEOUT_S:
            self._timeouts += 1
        if self._timeouts >= _MAX_TIMEOUTS:
            self._set_down(True)
        elif not self.is_down and not self._checking:
            self._checking = True
            self._start(self._check())

    def retry(self, call: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        """Call a shard that is down in the background, unless a task is running or the last retry is recent."""
        now = self._clock()
        if self._tasks or now - self._last_retry < _RETRY_S:
            return
        self._last_retry = now
        self._start(self._try(call, timeout_s))

    async def _check(self) -> None:
        try:
            # Two pings: Serve sends them to different replicas if there are several.
            pings = [asyncio.ensure_future(self._ping()) for _ in range(2)]
            done, pending = await asyncio.wait(pings, timeout=PING_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            if not any(task.exception() is None for task in done):
                self._set_down(True)
        finally:
            self._checking = False

    async def _try(self, call: Callable[[], Awaitable[Any]], timeout_s: float) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(timeout_s):
                await call()
            self.record_success()

    def _start(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_down(self, is_down: bool) -> None:
        if is_down != self.is_down:
            log.warning("shard %s %s", self._name, "is down; searches skip it" if is_down else "is up again")
        self.is_down = is_down
