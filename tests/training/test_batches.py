"""Properties of the batch plan."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from raycol.errors import InputError
from raycol.training.batches import BatchPlan, MixtureSource, ShardExamples, WorkerBatches


def plan(
    queries: list[int], positives: list[int] | None, size: int, seed: int = 0, allow_duplicates: bool = False
) -> BatchPlan:
    shard = ShardExamples(np.arange(len(queries)), np.array(queries), np.array(positives or queries))
    source = MixtureSource("data", len(queries), 1.0, 2, [lambda: shard], distinct_positives=positives is not None)
    return BatchPlan((source,), size, seed, allow_duplicates)


examples = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=8, max_size=60)


@given(examples, st.integers(1, 4), st.integers(0, 9))
def test_batches_have_no_duplicates_and_no_example_is_lost(pairs: list, size: int, seed: int) -> None:
    queries, positives = zip(*pairs, strict=True)
    made = plan(list(queries), list(positives), size, seed)
    n = 3 * len(pairs)
    try:
        batches = list(made.batches(n))
    except InputError:
        # The greedy choice finds at least half of the maximum matching.
        edges = csr_array((np.ones(len(pairs)), (queries, positives)), shape=(13, 13))
        assert np.sum(maximum_bipartite_matching(edges) >= 0) < 2 * size
        return
    for batch in batches:
        assert len(batch) == size
        assert len({queries[one] for one in batch}) == len({positives[one] for one in batch}) == size
    # Deferred examples are not lost.
    assert set(np.concatenate(batches).tolist()) == set(range(len(pairs))) or _crowded(queries, positives, size)
    assert all(np.array_equal(a, b) for a, b in zip(batches, made.batches(n), strict=True))


def _crowded(queries: tuple, positives: tuple, size: int) -> bool:
    """Whether one query or positive has so large a share that some examples may be deferred forever."""
    most = max(np.bincount(queries).max(), np.bincount(positives).max())
    return most > len(queries) / size


@given(st.integers(1, 6), st.integers(1, 5), st.integers(8, 60), st.integers(0, 9))
def test_the_workers_slices_join_to_the_batches(n_workers: int, width: int, n: int, seed: int) -> None:
    size = n_workers * width
    made = plan(list(range(n * 5)), list(range(n * 5)), size, seed)
    workers = [list(WorkerBatches(made, 7, rank, n_workers)) for rank in range(n_workers)]
    joined = [[one for part in parts for one in part] for parts in zip(*workers, strict=True)]
    assert joined == [[(one, number) for one in batch.tolist()] for number, batch in enumerate(made.batches(7))]
    assert {len(part) for worker in workers for part in worker} == {width}


def test_each_epoch_has_every_example_once_in_a_new_order() -> None:
    batches = list(plan(list(range(20)), list(range(20)), 5).batches(8))
    first, second = np.concatenate(batches[:4]), np.concatenate(batches[4:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    other = np.concatenate(list(plan(list(range(20)), list(range(20)), 5, seed=1).batches(4)))
    assert first.tolist() != other.tolist()


def test_each_batch_comes_from_one_source_sampled_by_weight() -> None:
    first, second = (ShardExamples(rows, rows, rows) for rows in (np.arange(100), np.arange(100, 140)))
    sources = (MixtureSource("a", 100, 3.0, 2, [lambda: first]), MixtureSource("b", 40, 1.0, 2, [lambda: second]))
    made = BatchPlan(sources, 10, 0, False)
    kinds = [{int(one) >= 100 for one in batch} for batch in made.batches(400)]
    assert all(len(kind) == 1 for kind in kinds)
    assert 70 < sum(True in kind for kind in kinds) < 130


def two_sources(mixing: str) -> BatchPlan:
    """Three shards of a source and one of another, whose queries are those of the first 40 examples."""
    shards = [ShardExamples(part, part % 120, part % 120) for part in np.split(np.arange(160), 4)]
    loaders = [partial(ShardExamples.without, shard, ()) for shard in shards]
    sources = (MixtureSource("a", 120, 3.0, 2, loaders[:3]), MixtureSource("b", 40, 1.0, 2, loaders[3:]))
    return BatchPlan(sources, 10, 0, False, mixing=mixing)


def test_round_robin_takes_each_source_in_turn() -> None:
    kinds = [{int(one) >= 120 for one in batch} for batch in two_sources("round-robin").batches(8)]
    assert kinds == [{False}, {True}] * 4


def test_examples_are_mixed_by_weight_without_duplicates() -> None:
    batches = [*two_sources("examples").batches(400)]
    shares = np.array([np.mean(batch >= 120) for batch in batches])
    assert np.mean(shares) == pytest.approx(0.25, abs=0.03)
    assert {len(set((batch % 120).tolist())) for batch in batches} == {10}
    # Both halves of a batch, the slices of two workers, have examples of both sources.
    assert np.mean([batch[half].max() >= 120 > batch[half].min() for batch in batches
                    for half in (slice(5), slice(5, 10))]) > 0.5  # fmt: skip
    assert {*np.concatenate(batches).tolist()} == {*range(160)}


@pytest.mark.parametrize(
    ("queries", "positives", "message"),
    [
        (list(range(3)), list(range(3)), "data: 3 examples to train on, fewer than `batch_size=4`"),
        ([0] * 9, list(range(9)), "only 1 examples differ"),
        (list(range(9)), [0, 1] * 4 + [0], "only 2 examples differ"),
    ],
)
def test_check_refuses_a_source_that_cannot_fill_a_batch(queries: list, positives: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(queries, positives, 4).check()
    plan([0] * 9, [0] * 9, 4, allow_duplicates=True).check()
    plan(list(range(9)), None, 4).check()


def test_elastic_scaling_uses_numbers_of_workers_that_divide_the_batch() -> None:
    from raycol.training.elastic import largest_divisor

    assert [largest_divisor(12, limit) for limit in (0, 1, 3, 5, 7, 12)] == [0, 1, 3, 4, 6, 12]
