"""A circuit breaker for a shard: one that does not answer is left out, so that searches do not each wait for it.

A call of a replica that died hangs until Serve knows of it, and one whose successor cannot start hangs for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

# After a late answer a shard has so long to give a sign of life, else it is down.
ALIVE_S = 2.0
# So many answers in a row that are late after that much time mean that it is down, whatever signs of life it gives.
_LATE = 2
_LONG_S = 5.0
# A shard that is down is tried this often, by requests that do not wait for it.
_TRIED_S = 0.5

log = logging.getLogger("ray.serve")


class Breaker:
    """Whether one shard is down.

    Late answers count, not failures: those come at once, and cost a request no time. A late answer alone says little,
    since a client may give a millisecond.

    Args:
        name: of the shard, for the log.
        is_alive: asks the shard for a sign of life.
        clock: seconds that only grow.
    """

    def __init__(
        self, name: str, is_alive: Callable[[], Awaitable[Any]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_down = False
        self._name = name
        self._is_alive = is_alive
        self._clock = clock
        self._late = 0
        self._tried = 0.0
        # Held here, since the event loop keeps only weak references.
        self._working: set[asyncio.Task[None]] = set()
        self._looking = False

    def answered(self) -> None:
        """The shard has answered."""
        self._late = 0
        self._be_down(False)

    def was_late(self, waited_s: float) -> None:
        """The shard has not answered in that time."""
        if waited_s >= _LONG_S:
            self._late += 1
        if self._late >= _LATE:
            self._be_down(True)
        elif not self.is_down and not self._looking:
            self._looking = True
            self._start(self._look())

    def try_again(self, ask: Callable[[], Awaitable[Any]], until_s: float) -> None:
        """Have a shard that is down answer a question, if none is tried and the last was a while ago."""
        now = self._clock()
        if self._working or now - self._tried < _TRIED_S:
            return
        self._tried = now
        self._start(self._try(ask, until_s))

    async def _look(self) -> None:
        try:
            # Two, which Serve gives to different replicas where there are any.
            asked = [asyncio.ensure_future(self._is_alive()) for _ in range(2)]
            done, waiting = await asyncio.wait(asked, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if not any(task.exception() is None for task in done):
                self._be_down(True)
        finally:
            self._looking = False

    async def _try(self, ask: Callable[[], Awaitable[Any]], until_s: float) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(until_s):
                await ask()
            self.answered()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    def _be_down(self, is_down: bool) -> None:
        if is_down != self.is_down:
            log.warning("shard %s %s", self._name, "is down, and left out" if is_down else "answers again")
        self.is_down = is_down
