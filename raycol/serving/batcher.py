"""Work that is done for many in little more time than for one: whatever waits when it can begin is done together.

Serve's own `serve.batch` closes a batch some time after its first item, although the one before is still at work: what
comes at intervals then queues as batches of one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Hands items, as they come in, to a function that takes several, in a thread; one call at a time.

    Args:
        work: makes a result of each item.
        size: how large an item is.
        most: of the sizes of those that are done together, where there are several.
    """

    def __init__(self, work: Callable[[list[T]], list[R]], size: Callable[[T], int], most: int) -> None:
        self._work, self._size, self._most = work, size, most
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """The result for one item. Raises what the work raised for those it was done with."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while batch := self._next():
                try:
                    results = await asyncio.to_thread(self._work, [item for item, _ in batch])
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

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        """The first ones that nobody has given up on, as many as go together."""
        batch: list[tuple[T, asyncio.Future[R]]] = []
        total = 0
        while self._waiting:
            item, future = self._waiting[0]
            total += self._size(item)
            if batch and total > self._most:
                break
            self._waiting.popleft()
            if future.done():
                total -= self._size(item)
            else:
                batch.append((item, future))
        return batch
