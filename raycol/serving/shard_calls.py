"""Calls of the shards by the gateway, in parallel until a request's deadline.

A shard is any coroutine function `call(method, *arguments)`; `ShardHandles` makes them from Serve's handles.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import Any

from raycol.distributed.session import unwrap_ray_error
from raycol.errors import InputError, RaycolError
from raycol.serving import metrics
from raycol.serving.circuit_breaker import CircuitBreaker
from raycol.serving.http.middleware import REQUEST_ID
from raycol.serving.shard import ShardReply

ShardCall = Callable[..., Awaitable[Any]]

# Fraction of the time left that one step may take: a later step may have to call the other shards again.
_STEP_SHARE = 0.8

# These need no index files: a shard whose files are damaged can still answer, so success does not mean it is up.
_WITHOUT_FILES = ("count",)

# Fraction of the time left that is reserved for merging after the shards' deadline.
_MERGE_SHARE = 0.05

log = logging.getLogger("ray.serve")


class UnavailableError(RaycolError):
    """A shard or the encoder failed or timed out."""


class ShardDownError(Exception):
    """The shard's circuit breaker is open; it was not called."""


def failure_reason(failure: BaseException) -> str:
    """Metric label of a shard's failure: down, late or failed."""
    if isinstance(failure, ShardDownError):
        return "down"
    return "late" if isinstance(failure, TimeoutError) else "failed"


class Shards:
    """The shards of one search, called in parallel until a deadline. A shard that fails is not called again.

    Args:
        calls: one per shard.
        deadline: as `time.monotonic`.
        on_failure: called with the number of a shard and its error.
        breakers: one per shard. Shards that are down are skipped, and retried in the background.
    """

    def __init__(
        self,
        calls: Sequence[ShardCall],
        deadline: float,
        on_failure: Callable[[int, BaseException], None],
        breakers: Sequence[CircuitBreaker] = (),
    ) -> None:
        self._calls = calls
        self._deadline = deadline
        self._on_failure = on_failure
        self._breakers = breakers
        self._down = [shard for shard, breaker in enumerate(breakers) if breaker.is_down]
        self.alive = [shard for shard in range(len(calls)) if shard not in self._down]
        self.failures: dict[int, BaseException] = {}
        for shard in self._down:
            self._record_failure(shard, ShardDownError())

    def __len__(self) -> int:
        return len(self._calls)

    def step_s(self) -> float:
        """Time limit of the next step in seconds; leaves time for another step."""
        return _STEP_SHARE * max(0.0, self._deadline - time.monotonic())

    async def call_all(self, method: str, *arguments: Any) -> dict[int, Any]:
        """The replies of all shards to the same call, by shard. Raises as `call_each`."""
        if method not in _WITHOUT_FILES:
            for shard in self._down:
                call = partial(self._calls[shard], method, *arguments)
                self._breakers[shard].retry(call, max(0.0, self._deadline - time.monotonic()))
            self._down = []
        return await self.call_each(method, dict.fromkeys(self.alive, arguments))

    async def call_each(self, method: str, arguments: dict[int, tuple[Any, ...]]) -> dict[int, Any]:
        """The replies of the shards in `arguments`, by shard; failed shards are omitted.

        Raises:
            InputError: a shard rejected its arguments.
        """
        called = [shard for shard in self.alive if shard in arguments]
        started = time.monotonic()
        tasks = [asyncio.ensure_future(self._calls[shard](method, *arguments[shard])) for shard in called]
        if not tasks:
            return {}
        try:
            await asyncio.wait(tasks, timeout=self.step_s())
        finally:
            for task in tasks:
                task.cancel()
        replies = {}
        for shard, task in zip(called, tasks, strict=True):
            # A task cancelled just now may not be done yet.
            failure = task.exception() if task.done() and not task.cancelled() else TimeoutError("timed out")
            if isinstance(failure, InputError):
                raise failure
            if failure is None:
                replies[shard] = task.result()
                if self._breakers and method not in _WITHOUT_FILES:
                    self._breakers[shard].record_success()
            else:
                self.alive.remove(shard)
                if self._breakers and isinstance(failure, TimeoutError):
                    self._breakers[shard].record_timeout(time.monotonic() - started)
                self._record_failure(shard, failure)
        return replies

    def _record_failure(self, shard: int, failure: BaseException) -> None:
        self.failures[shard] = failure
        self._on_failure(shard, failure)

    async def call_complete(self, method: str, *arguments: Any, allow_partial: bool = False) -> list[Any]:
        """The replies of all shards to the same call, in their order.

        Raises:
            InputError: a shard rejected its arguments.
            UnavailableError: a reply is missing; with `allow_partial`, every reply is.
        """
        replies = await self.call_all(method, *arguments)
        if len(replies) < len(self) and not (allow_partial and replies):
            raise self.unavailable(len(replies))
        return [replies[shard] for shard in sorted(replies)]

    def unavailable(self, answered: int) -> UnavailableError:
        """The error of a request that only `answered` shards answered, with the reasons of the others."""
        reasons = Counter(map(failure_reason, self.failures.values()))
        listed = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        return UnavailableError(f"{answered} of {len(self)} shards answered ({listed})")


class ShardHandles:
    """Serve's handles of all shards of an endpoint, and a circuit breaker for each."""

    def __init__(self, handles: Sequence[Any]) -> None:
        self._handles = handles
        self.breakers = [CircuitBreaker(str(number), partial(_ping, handle)) for number, handle in enumerate(handles)]

    def open(self, version: int, deadline: float) -> Shards:
        """The shards of a version for one request with a deadline, as `time.monotonic`."""
        # The shards' deadline leaves time to merge.
        shard_deadline = deadline - _MERGE_SHARE * max(0.0, deadline - time.monotonic())
        calls = [partial(self._call, number, version, shard_deadline) for number in range(len(self._handles))]
        return Shards(calls, shard_deadline, _record_failure, self.breakers)

    @cached_property
    def _call_handles(self) -> list[Any]:
        """Handles of `Shard.call`, created in the first request: a handle belongs to its event loop."""
        # Arguments and replies are arrays, tuples and plain values: Serve's cloudpickle takes twice as long.
        plain = {"request_serialization": "pickle", "response_serialization": "pickle"}
        return [handle.options(method_name="call", **plain) for handle in self._handles]

    async def _call(self, number: int, version: int, deadline: float, method: str, *arguments: Any) -> Any:
        budget = deadline - time.monotonic()
        response = self._call_handles[number].remote(version, method, arguments, budget, REQUEST_ID.get())
        try:
            reply: ShardReply = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            if isinstance(cause := unwrap_ray_error(error), InputError):
                raise cause from None
            raise
        name = str(number)
        metrics.SHARD_WORK.labels(name, method).observe(reply.work_s)
        metrics.SHARD_WAIT.labels(name).observe(reply.wait_s)
        metrics.SHARD_REQUESTS.labels(name).set(reply.in_flight)
        metrics.SHARD_MEMORY.labels(name).set(reply.memory_bytes)
        return reply.result


async def _ping(shard: Any) -> None:
    await shard.status.remote()


def _record_failure(number: int, failure: BaseException) -> None:
    reason = failure_reason(failure)
    metrics.SHARD_FAILURES.labels(str(number), reason).inc()
    if reason != "down":  # the circuit breaker logs that once
        log.warning("request %s: shard %d %s: %r", REQUEST_ID.get(), number, reason, failure)
