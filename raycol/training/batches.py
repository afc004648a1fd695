"""Which examples make which batch: the same for every worker, from a seed and the examples' queries and positives.

Workers need no word from each other: each makes the whole plan and takes its slice of every batch. So all have equally
many batches of equal size, however many examples there are, and training goes on at any batch after a crash.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

# Examples that were put off and are looked at again for each batch, in batches.
_LOOK_BACK = 4

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Examples of one source.

    Args:
        name: of the source.
        examples: their indices.
        weight: how often batches are taken from there, beside the others.
        n_ways: documents of each example in a batch; examples of fewer are filled up.
    """

    name: str
    examples: Indices
    weight: float
    n_ways: int


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a training.

    Args:
        shares: examples by source. Each batch is of one source, drawn by weight.
        queries_N: for every example a number that tells its query from others.
        positives_N: the same of its positive; None where equal ones do no harm.
        batch_size: examples a batch, over all workers.
        seed: of the order.
        distinct: keep examples of one query, or of one positive, out of the same batch.
    """

    shares: tuple[Share, ...]
    queries_N: Indices
    positives_N: Indices | None
    batch_size: int
    seed: int
    distinct: bool

    def batches(self, n: int) -> Iterator[Indices]:
        """The first `n` batches, each of `batch_size` indices.

        A source is gone through in another order each time. Of two examples that may not stand together, one waits for
        a later batch, so that none is lost.

        Raises:
            InputError: too many examples of one source share their query or positive.
        """
        streams = [_Stream(self, number, share) for number, share in enumerate(self.shares)]
        weights = np.array([share.weight for share in self.shares])
        rng = np.random.default_rng([self.seed, 0])
        for _ in range(n):
            chosen = rng.choice(len(streams), p=weights / weights.sum()) if len(streams) > 1 else 0
            yield streams[chosen].batch()

    def check(self) -> None:
        """Raise `InputError` where a batch cannot be filled from each source."""
        for number, share in enumerate(self.shares):
            if len(share.examples) < self.batch_size:
                raise InputError(
                    f"{share.name}: {len(share.examples)} examples to train on, fewer than the batch of "
                    f"{self.batch_size}; lower --batch-size or bring more"
                )
            _Stream(self, number, share).batch()


class _Stream:
    """An endless run through one source's examples."""

    def __init__(self, plan: BatchPlan, number: int, share: Share) -> None:
        self._plan = plan
        self._share = share
        self._number = number
        self._order = self._endless()
        self._waiting: deque[int] = deque()

    def _endless(self) -> Iterator[int]:
        epoch = 0
        while True:
            rng = np.random.default_rng([self._plan.seed, 1, self._number, epoch])
            yield from rng.permutation(self._share.examples).tolist()
            epoch += 1

    def batch(self) -> Indices:
        size = self._plan.batch_size
        batch: list[int] = []
        queries: set[int] = set()
        positives: set[int] = set()

        def fits(example: int) -> bool:
            if not self._plan.distinct:
                return True
            query = int(self._plan.queries_N[example])
            positive = -1 if self._plan.positives_N is None else int(self._plan.positives_N[example])
            if query in queries or (positive >= 0 and positive in positives):
                return False
            queries.add(query)
            positives.add(positive)
            return True

        again: list[int] = []
        for _ in range(min(len(self._waiting), _LOOK_BACK * size)):
            if len(batch) == size:
                break
            example = self._waiting.popleft()
            (batch if fits(example) else again).append(example)
        self._waiting.extendleft(reversed(again))
        drawn = 0
        while len(batch) < size:
            if drawn > 2 * len(self._share.examples):
                raise InputError(
                    f"{self._share.name}: a batch of {size} cannot be filled, since only {len(batch)} of the examples "
                    "differ in query and positive; lower --batch-size, or allow both with --no-no-duplicates"
                )
            example = next(self._order)
            drawn += 1
            if fits(example):
                batch.append(example)
            else:
                self._waiting.append(example)
        return np.array(batch, np.int64)


class WorkerBatches:
    """One worker's slices of a plan's batches: what torch's DataLoader takes as a batch sampler."""

    def __init__(self, plan: BatchPlan, n: int, rank: int, n_workers: int) -> None:
        self._plan = plan
        self._n = n
        width = plan.batch_size // n_workers
        self._slice = slice(rank * width, (rank + 1) * width)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._plan.batches(self._n):
            yield batch[self._slice].tolist()
