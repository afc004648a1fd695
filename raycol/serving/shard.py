"""The shard deployment: some partitions of the index, at every version that requests still use."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psutil

from raycol.distributed.listening import keep_replica_on_loopback
from raycol.errors import InputError
from raycol.index.search.deadline import until
from raycol.index.shard import IndexShard
from raycol.serving.answer_limits import limit_metadata
from raycol.serving.scaling import WAIT_METRIC
from raycol.serving.served_version import current_version
from raycol.storage import open_store

# Close a version that no request used for this long, except the most recently used ones.
_IDLE_S = 60.0
_OPEN_VERSIONS = 2
# Log steps slower than this at INFO, the others at DEBUG.
_SLOW_S = 0.1

# Methods of `IndexShard` that a gateway may call.
_METHODS = ("count", "candidates", "score", "describe", "documents", "rerank", "explain")

log = logging.getLogger("ray.serve")


class ShardReply(NamedTuple):
    """The result of one step, its compute and queueing time, and the replica's requests in flight and memory."""

    result: Any
    work_s: float
    wait_s: float
    in_flight: int
    memory_bytes: int


class Shard:
    """Searches its partitions. Runs as a Serve deployment; imports neither torch nor a model.

    Args:
        index: folder or URI.
        version: the version to open first, unless another was recorded since deployment.
        recorded_at: time of the served-version record read at deployment (`raycol.serving.served_version`).
        shard: this shard's number, from 0.
        shards: number of shards.
        threads: concurrent searches.
    """

    def __init__(self, index: str, version: int, recorded_at: int, shard: int, shards: int, threads: int = 1) -> None:
        keep_replica_on_loopback()
        self._index, self._shard, self._shards = index, shard, shards
        self._versions: dict[int, IndexShard] = {}
        self._last_used: dict[int, float] = {}
        self._open_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="open")
        self._in_flight = 0
        self._mean_wait_s = 0.0
        self._process = psutil.Process()
        self._memory_bytes, self._memory_read = 0, 0.0
        store = open_store(index)
        # Opening may take minutes; `prepare` does not reach this replica for a version recorded in that time.
        while (current := current_version(store, version, recorded_at)) not in self._versions:
            self._open(current)

    async def call(
        self, version: int, method: str, arguments: tuple[Any, ...], budget_s: float, request_id: str
    ) -> ShardReply:
        """Run one step of a search at one version, off the event loop.

        Args:
            version: version of the request.
            method: method of `IndexShard`.
            arguments: its arguments.
            budget_s: seconds after which the gateway ignores the reply.
            request_id: for the log.

        Raises:
            InputError: the arguments are invalid.
            TimeoutError: the step took longer than `budget_s`.
        """
        if method not in _METHODS:
            raise InputError(f"no method {method!r}; expected one of {', '.join(_METHODS)}")
        arrived = time.monotonic()
        self._in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            if version not in self._versions:
                await loop.run_in_executor(self._opener, self._open, version)
            result, work_s, wait_s = await loop.run_in_executor(
                self._pool, self._run, version, method, arguments, arrived, budget_s
            )
            slow = work_s + wait_s > _SLOW_S
            if slow or log.isEnabledFor(logging.DEBUG):
                line = {"request": request_id, "shard": self._shard, "step": method}
                times = {"waited_ms": round(1000 * wait_s, 2), "worked_ms": round(1000 * work_s, 2)}
                log.log(logging.INFO if slow else logging.DEBUG, "%s", json.dumps(line | times))
        except InputError:
            raise
        except Exception as error:
            log.warning("shard %d: request %s: %s failed: %r", self._shard, request_id, method, error)
            raise
        finally:
            self._in_flight -= 1
        return ShardReply(result, work_s, wait_s, self._in_flight, self._resident_bytes())

    async def prepare(self, version: int, served: int) -> None:
        """Open a version before requests use it, and keep the served version open."""
        if served in self._versions:
            self._last_used[served] = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._opener, self._open, version)

    async def status(self) -> ShardReply:
        """A ping: the open versions and the replica's load."""
        return ShardReply(sorted(self._versions), 0.0, 0.0, self._in_flight, self._resident_bytes())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Metrics for `scaling`; called by Serve."""
        # The mean is stale once no requests arrive.
        return {WAIT_METRIC: self._mean_wait_s if self._in_flight else 0.0}

    def _resident_bytes(self) -> int:
        """Resident memory, read at most once a second: reading it is slow compared with a short request."""
        now = time.monotonic()
        if now - self._memory_read > 1:
            self._memory_bytes, self._memory_read = self._process.memory_info().rss, now
        return self._memory_bytes

    def _run(
        self, version: int, method: str, arguments: tuple[Any, ...], arrived: float, budget_s: float
    ) -> tuple[Any, float, float]:
        started = time.monotonic()
        wait_s = started - arrived
        if wait_s > budget_s:
            raise TimeoutError(f"queued for {wait_s:.3f} s; the request's time limit is {budget_s:.3f} s")
        self._last_used[version] = started
        # Exponential moving average, about the last 10 steps.
        self._mean_wait_s += (wait_s - self._mean_wait_s) / 10
        step: Callable[..., Any] = getattr(self._versions[version], method)
        with until(arrived + budget_s):
            result = limit_metadata(method, step(*arguments))
        return result, time.monotonic() - started, wait_s

    def _open(self, version: int) -> None:
        with self._open_lock:
            if version in self._versions:
                self._last_used[version] = time.monotonic()
                return
            opened = IndexShard(self._index, version, self._shard, self._shards)
            opened.warm()
            now = time.monotonic()
            self._last_used[version] = now
            self._versions = {**self._versions, version: opened}
            old = sorted(self._versions, key=lambda other: self._last_used[other])[:-_OPEN_VERSIONS]
            closed = [other for other in old if now - self._last_used[other] > _IDLE_S]
            self._versions = {other: shard for other, shard in self._versions.items() if other not in closed}
            log.info("shard %d: opened version %d, closed %s", self._shard, version, closed or "none")
