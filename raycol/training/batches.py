"""The batch plan: every worker derives the same batches from the seed and takes its slice of each.

Workers exchange no messages about batches. All of them take the same number of batches of the same size, whatever the
number of examples, and a resumed training starts at any batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

# Deferred examples that each batch reconsiders, in multiples of the batch size.
_RECONSIDERED_BATCHES = 4

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MixtureSource:
    """One data source of the training mixture.

    Args:
        name: shown in error messages.
        examples: indices of its examples.
        weight: sampling weight, relative to the other sources.
        n_ways: documents per example in a batch; shorter examples are padded to it.
    """

    name: str
    examples: Indices
    weight: float
    n_ways: int


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a training.

    Args:
        sources: the mixture. A batch comes from one source, sampled by weight.
        queries_N: query id of each example.
        positives_N: id of each example's positive; None if examples with the same positive may share a batch.
        batch_size: examples per batch, over all workers.
        seed: seeds the order of the examples.
        allow_duplicates: let examples with the same query or the same positive share a batch.
    """

    sources: tuple[MixtureSource, ...]
    queries_N: Indices
    positives_N: Indices | None
    batch_size: int
    seed: int
    allow_duplicates: bool

    def batches(self, n: int) -> Iterator[Indices]:
        """Yield the first `n` batches, each of `batch_size` example indices.

        Every epoch over a source has its own order. An example that duplicates another one of the batch is deferred to
        a later batch, not dropped.

        Raises:
            InputError: too many examples of one source share a query or a positive.
        """
        streams = [_Stream(self, number, source) for number, source in enumerate(self.sources)]
        weights = np.array([source.weight for source in self.sources])
        rng = np.random.default_rng([self.seed, 0])
        for _ in range(n):
            chosen = rng.choice(len(streams), p=weights / weights.sum()) if len(streams) > 1 else 0
            yield streams[chosen].batch()

    def check(self) -> None:
        """Raise `InputError` if a source cannot fill a batch."""
        for number, source in enumerate(self.sources):
            if len(source.examples) < self.batch_size:
                raise InputError(
                    f"{source.name}: {len(source.examples)} examples to train on, fewer than "
                    f"`batch_size={self.batch_size}`; lower it or add examples"
                )
            _Stream(self, number, source).batch()


class _Stream:
    """An endless stream over the examples of one source."""

    def __init__(self, plan: BatchPlan, number: int, source: MixtureSource) -> None:
        self._plan = plan
        self._source = source
        self._number = number
        self._order = self._shuffled_epochs()
        self._deferred: deque[int] = deque()

    def _shuffled_epochs(self) -> Iterator[int]:
        epoch = 0
        while True:
            rng = np.random.default_rng([self._plan.seed, 1, self._number, epoch])
            yield from rng.permutation(self._source.examples).tolist()
            epoch += 1

    def batch(self) -> Indices:
        size = self._plan.batch_size
        batch: list[int] = []
        queries: set[int] = set()
        positives: set[int] = set()

        def accepts(example: int) -> bool:
            if self._plan.allow_duplicates:
                return True
            query = int(self._plan.queries_N[example])
            positive = -1 if self._plan.positives_N is None else int(self._plan.positives_N[example])
            if query in queries or (positive >= 0 and positive in positives):
                return False
            queries.add(query)
            positives.add(positive)
            return True

        deferred_again: list[int] = []
        for _ in range(min(len(self._deferred), _RECONSIDERED_BATCHES * size)):
            if len(batch) == size:
                break
            example = self._deferred.popleft()
            (batch if accepts(example) else deferred_again).append(example)
        self._deferred.extendleft(reversed(deferred_again))
        n_drawn = 0
        while len(batch) < size:
            if n_drawn > 2 * len(self._source.examples):
                raise InputError(
                    f"{self._source.name}: only {len(batch)} examples differ in query and positive, too few for a "
                    f"batch of {size}; lower `batch_size=` or pass `allow_duplicates=True`"
                )
            example = next(self._order)
            n_drawn += 1
            if accepts(example):
                batch.append(example)
            else:
                self._deferred.append(example)
        return np.array(batch, np.int64)


class WorkerBatches:
    """One worker's slice of every batch of a plan; a batch sampler for torch's DataLoader."""

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
