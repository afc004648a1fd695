"""Dynamic batching: each batch holds the items that queued while the previous batch ran.

`serve.batch` closes a batch a fixed time after its first item, even while the previous batch runs: items that arrive
at intervals then queue as batches of one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Calls a function on batches of items, in a thread, one batch at a time.

    Args:
        function: returns one result per item.
        size_of: returns the size of an item.
        max_size: total size of a batch; a larger item gets a batch of its own.
    """

    def __init__(self, function: Callable[[list[T]], list[R]], size_of: Callable[[T], int], max_size: int) -> None:
        self._function, self._size_of, self._max_size = function, size_of, max_size
        self._queue: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """Return the result for one item. Raises the error of its batch."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while batch := self._next_batch():
                try:
                    results = await asyncio.to_thread(self._function, [item for item, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        finally:
            self._task = None

    def _next_batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Dequeue the next batch, without cancelled items; empty if the queue is."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        total = 0
        while self._queue:
            item, future = self._queue[0]
            total += self._size_of(item)
            if batch and total > self._max_size:
                break
            self._queue.popleft()
            if future.done():
                total -= self._size_of(item)
            else:
                batch.append((item, future))
        return batch
