"""A shard as a deployment: some partitions of the index, at every version that requests may still name."""

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
from raycol.index.search.shard import IndexShard
from raycol.serving.answer_limits import within_message
from raycol.serving.scaling import WAITED
from raycol.serving.served_version import current_version
from raycol.storage import open_store

# A version that no request has named for so long is closed, but for the newest ones asked to be prepared.
_KEPT_S = 60.0
_KEPT_VERSIONS = 2
# A step that took so long is noted; all are where the log's level is DEBUG.
_SLOW_S = 0.1

# What a gateway may ask.
_METHODS = ("count", "candidates", "score", "describe", "documents", "rerank", "explain")

log = logging.getLogger("ray.serve")


class ShardReply(NamedTuple):
    """What a shard answers, and how it fares: seconds of work and of waiting for it, requests at hand, bytes."""

    answer: Any
    worked_s: float
    waited_s: float
    at_hand: int
    memory: int


class Shard:
    """Searches its partitions. Runs as a Serve deployment; imports neither torch nor a model.

    Args:
        index: folder or URI.
        version: the version to open first, where no other has been chosen since.
        seen: the time of the choice of a version that was known then (`raycol.serving.served_version`).
        shard, shards: which of how many.
        threads: searches at once.
    """

    def __init__(self, index: str, version: int, seen: int, shard: int, shards: int, threads: int = 1) -> None:
        keep_replica_on_loopback()
        self._index, self._shard, self._shards = index, shard, shards
        self._versions: dict[int, IndexShard] = {}
        self._used: dict[int, float] = {}
        self._opening = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="open")
        self._at_hand = 0
        self._waited = 0.0
        self._process = psutil.Process()
        self._memory, self._looked = 0, 0.0
        store = open_store(index)
        # Opening may take minutes, in which another version may be chosen: this one is not asked to prepare it.
        while (chosen := current_version(store, version, seen)) not in self._versions:
            self._open(chosen)

    async def ask(
        self, version: int, method: str, arguments: tuple[Any, ...], budget_s: float, request_id: str
    ) -> ShardReply:
        """Do one step of a search at one version, off the event loop.

        Args:
            version: which version the request is served from.
            method: of `IndexShard`.
            arguments: its arguments.
            budget_s: seconds after which nobody waits for the answer any more.
            request_id: for the log.

        Raises:
            InputError: what was asked cannot be done.
            TimeoutError: it was not done in time.
        """
        if method not in _METHODS:
            raise InputError(f"no method {method!r}")
        arrived = time.monotonic()
        self._at_hand += 1
        try:
            loop = asyncio.get_running_loop()
            if version not in self._versions:
                await loop.run_in_executor(self._opener, self._open, version)
            answer, worked, waited = await loop.run_in_executor(
                self._pool, self._work, version, method, arguments, arrived, budget_s
            )
            slow = worked + waited > _SLOW_S
            if slow or log.isEnabledFor(logging.DEBUG):
                line = {"request": request_id, "shard": self._shard, "step": method}
                times = {"waited_ms": round(1000 * waited, 2), "worked_ms": round(1000 * worked, 2)}
                log.log(logging.INFO if slow else logging.DEBUG, "%s", json.dumps(line | times))
        except InputError:
            raise
        except Exception as error:
            log.warning("shard %d: request %s: %s failed: %r", self._shard, request_id, method, error)
            raise
        finally:
            self._at_hand -= 1
        return ShardReply(answer, worked, waited, self._at_hand, self._resident())

    async def prepare(self, version: int, served: int) -> None:
        """Open a version before requests name it, and keep the one that they name until then."""
        if served in self._versions:
            self._used[served] = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._opener, self._open, version)

    async def status(self) -> ShardReply:
        """That it is there, and how it fares."""
        return ShardReply(sorted(self._versions), 0.0, 0.0, self._at_hand, self._resident())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve: what `scaling` goes by beside the number of requests."""
        # Where nothing comes any more, nothing waits.
        return {WAITED: self._waited if self._at_hand else 0.0}

    def _resident(self) -> int:
        """Bytes in memory, looked up once a second: that takes as long as much else of a short request."""
        now = time.monotonic()
        if now - self._looked > 1:
            self._memory, self._looked = self._process.memory_info().rss, now
        return self._memory

    def _work(
        self, version: int, method: str, arguments: tuple[Any, ...], arrived: float, budget_s: float
    ) -> tuple[Any, float, float]:
        started = time.monotonic()
        waited = started - arrived
        if waited > budget_s:
            raise TimeoutError(f"waited {waited:.3f} s of {budget_s:.3f} s")
        self._used[version] = started
        # About the last ten.
        self._waited += (waited - self._waited) / 10
        ask: Callable[..., Any] = getattr(self._versions[version], method)
        with until(arrived + budget_s):
            answer = within_message(method, ask(*arguments))
        return answer, time.monotonic() - started, waited

    def _open(self, version: int) -> None:
        with self._opening:
            if version in self._versions:
                self._used[version] = time.monotonic()
                return
            opened = IndexShard(self._index, version, self._shard, self._shards)
            opened.warm()
            now = time.monotonic()
            self._used[version] = now
            self._versions = {**self._versions, version: opened}
            old = sorted(self._versions, key=lambda known: self._used[known])[:-_KEPT_VERSIONS]
            gone = [known for known in old if now - self._used[known] > _KEPT_S]
            self._versions = {known: shard for known, shard in self._versions.items() if known not in gone}
            log.info("shard %d: opened version %d, closed %s", self._shard, version, gone or "none")
