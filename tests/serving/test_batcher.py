"""Items that arrive while a batch runs form the next batch, and each gets its own result."""

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from raycol.serving.batcher import Batcher


class Work:
    """Squares items once `may` is set, and records the batches."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.may.wait(10)
        if 13 in items:
            raise ValueError("thirteen")
        return [item * item for item in items]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_queued_items_are_batched() -> None:
    async def run() -> None:
        work = Work()
        batcher = Batcher(work, lambda item: 1, 4)
        first = asyncio.create_task(batcher(1))
        await until(lambda: work.batches == [[1]])
        rest = []
        for item in range(2, 9):  # arriving at intervals
            rest.append(asyncio.create_task(batcher(item)))
            await asyncio.sleep(0.002)
        work.may.set()
        assert await asyncio.gather(first, *rest) == [item * item for item in range(1, 9)]
        assert work.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]
        assert await batcher(9) == 81

    asyncio.run(run())


def test_an_error_fails_its_batch_only_and_cancelled_items_are_skipped() -> None:
    async def run() -> None:
        work = Work()
        batcher = Batcher(work, lambda item: 1, 2)
        first = asyncio.create_task(batcher(1))
        await until(lambda: work.batches == [[1]])
        cancelled = asyncio.create_task(batcher(2))
        failing = [asyncio.create_task(batcher(item)) for item in (13, 3)]
        last = asyncio.create_task(batcher(4))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.sleep(0)
        work.may.set()
        results = await asyncio.gather(first, *failing, last, return_exceptions=True)
        assert results[0] == 1
        assert [str(error) for error in results[1:3]] == ["thirteen", "thirteen"]
        assert results[3] == 16
        assert work.batches == [[1], [13, 3], [4]]

    asyncio.run(run())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_batches_are_full_and_within_the_size_limit(sizes: list[int], max_size: int) -> None:
    batches: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    async def run() -> list[int]:
        batcher = Batcher(work, lambda size: size, max_size)
        return await asyncio.gather(*(batcher(size) for size in sizes))

    assert asyncio.run(run()) == sizes
    assert [size for batch in batches for size in batch] == sizes
    assert all(sum(batch) <= max_size or len(batch) == 1 for batch in batches)
    # Batches are full: none could have held the next batch's first item.
    assert all(sum(one) + other[0] > max_size for one, other in pairwise(batches))
