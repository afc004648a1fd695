"""The batch plan: every worker derives the same batches from the seed and takes its slice of each.

Workers exchange no messages about batches. All of them take the same number of batches of the same size, whatever the
number of examples, and a resumed training starts at any batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

# Deferred examples that each batch reconsiders, in multiples of the batch size.
_RECONSIDERED_BATCHES = 4

Indices = NDArray[np.int64]
Mixing = Literal["batches", "round-robin", "examples"]


@dataclass(frozen=True)
class ShardExamples:
    """What the plan knows of the examples of a shard: their numbers, and the ids of query and positive, [N]."""

    numbers_N: Indices
    queries_N: Indices
    positives_N: Indices

    def without(self, held_out: Iterable[int]) -> ShardExamples:
        """The examples of other queries."""
        kept = ~np.isin(self.queries_N, [*held_out])
        return ShardExamples(self.numbers_N[kept], self.queries_N[kept], self.positives_N[kept])


@dataclass(frozen=True)
class MixtureSource:
    """One data source of the training mixture.

    Args:
        name: shown in error messages.
        n_examples: number of its examples, without those of held-out queries.
        weight: sampling weight, relative to the other sources.
        n_ways: documents per example in a batch; shorter examples are padded to it.
        shards: each loads a random part of the examples.
        distinct_positives: whether examples with the same positive count as duplicates.
    """

    name: str
    n_examples: int
    weight: float
    n_ways: int
    shards: Sequence[Callable[[], ShardExamples]]
    distinct_positives: bool = True


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a training.

    Args:
        sources: the mixture.
        batch_size: examples per batch, over all workers.
        seed: seeds the order of the examples.
        allow_duplicates: let examples with the same query or the same positive share a batch.
        held_out: ids of queries whose examples are left out.
        mixing: whether batches or examples are drawn from the sources by weight, or batches from each source in turn.
    """

    sources: tuple[MixtureSource, ...]
    batch_size: int
    seed: int
    allow_duplicates: bool
    held_out: frozenset[int] = frozenset()
    mixing: Mixing = "batches"

    def batches(self, n: int) -> Iterator[Indices]:
        """Yield the first `n` batches, each of `batch_size` example numbers.

        Every epoch over a source has its own order, of its shards and within each. An example that duplicates another
        one of the batch is deferred to a later batch, not dropped. One shard of a source is in memory.

        Raises:
            InputError: too many examples of one source share a query or a positive.
        """
        streams = [_Stream(self, number, source) for number, source in enumerate(self.sources)]
        weights = np.array([source.weight for source in self.sources])
        shares = weights / weights.sum()
        rng = np.random.default_rng([self.seed, 0])
        for number in range(n):
            batch = _Batch(self)
            if len(streams) == 1:
                streams[0].fill(batch, self.batch_size)
            elif self.mixing == "round-robin":
                streams[number % len(streams)].fill(batch, self.batch_size)
            elif self.mixing == "batches":
                streams[rng.choice(len(streams), p=shares)].fill(batch, self.batch_size)
            else:
                for stream, share in zip(streams, rng.multinomial(self.batch_size, shares).tolist(), strict=True):
                    stream.fill(batch, share)
                # Workers take slices: each gets examples of all sources.
                rng.shuffle(batch.examples)
            yield np.array(batch.examples, np.int64)

    def check(self) -> None:
        """Raise `InputError` if a source cannot fill a batch."""
        for number, source in enumerate(self.sources):
            if source.n_examples < self.batch_size:
                raise InputError(
                    f"{source.name}: {source.n_examples} examples to train on, fewer than "
                    f"`batch_size={self.batch_size}`; lower it or add examples"
                )
            _Stream(self, number, source).fill(_Batch(self), self.batch_size)


# Number, query and positive of an example.
_Planned = tuple[int, int, int]


class _Batch:
    """A batch that is being filled: its examples, and their queries and positives."""

    def __init__(self, plan: BatchPlan) -> None:
        self.examples: list[int] = []
        self._plan = plan
        self._queries: set[int] = set()
        self._positives: set[int] = set()

    def add(self, example: _Planned, *, distinct_positives: bool) -> bool:
        """Add an example unless it duplicates another one; return whether it was added."""
        number, query, positive = example
        if not self._plan.allow_duplicates:
            if query in self._queries or (distinct_positives and positive in self._positives):
                return False
            self._queries.add(query)
            self._positives.add(positive)
        self.examples.append(number)
        return True


class _Stream:
    """An endless stream over the examples of one source."""

    def __init__(self, plan: BatchPlan, number: int, source: MixtureSource) -> None:
        self._plan = plan
        self._source = source
        self._number = number
        self._order = self._shuffled_epochs()
        self._deferred: deque[_Planned] = deque()

    def _shuffled_epochs(self) -> Iterator[_Planned]:
        n_shards = len(self._source.shards)
        for epoch in count():
            seed = [self._plan.seed, 1, self._number, epoch]
            for index in np.random.default_rng(seed).permutation(n_shards).tolist() if n_shards > 1 else [0]:
                shard = self._source.shards[index]()
                if self._plan.held_out:
                    shard = shard.without(self._plan.held_out)
                rng = np.random.default_rng([*seed, index] if n_shards > 1 else seed)
                order = rng.permutation(len(shard.numbers_N))
                columns = (shard.numbers_N, shard.queries_N, shard.positives_N)
                yield from zip(*(column[order].tolist() for column in columns), strict=True)

    def fill(self, batch: _Batch, n: int) -> None:
        """Add `n` examples to a batch."""
        size = len(batch.examples) + n
        add = partial(batch.add, distinct_positives=self._source.distinct_positives)
        deferred_again: list[_Planned] = []
        for _ in range(min(len(self._deferred), _RECONSIDERED_BATCHES * n)):
            if len(batch.examples) == size:
                break
            example = self._deferred.popleft()
            if not add(example):
                deferred_again.append(example)
        self._deferred.extendleft(reversed(deferred_again))
        n_drawn = 0
        while len(batch.examples) < size:
            if n_drawn > 2 * self._source.n_examples:
                raise InputError(
                    f"{self._source.name}: only {len(batch.examples)} examples differ in query and positive, too few "
                    f"for a batch of {size}; lower `batch_size=` or pass `allow_duplicates=True`"
                )
            example = next(self._order)
            n_drawn += 1
            if not add(example):
                self._deferred.append(example)


class WorkerBatches:
    """One worker's slice of every batch of a plan; a batch sampler for torch's DataLoader."""

    def __init__(self, plan: BatchPlan, n: int, rank: int, n_workers: int) -> None:
        self._plan = plan
        self._n = n
        width = plan.batch_size // n_workers
        self._slice = slice(rank * width, (rank + 1) * width)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of example numbers, each with the number of the batch."""
        for number, batch in enumerate(self._plan.batches(self._n)):
            yield [(row, number) for row in batch[self._slice].tolist()]
