"""Properties of the plan of batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from raycol.errors import InputError
from raycol.training.batches import BatchPlan, Share, WorkerBatches


def plan(
    queries: list[int], positives: list[int] | None, size: int, seed: int = 0, distinct: bool = True
) -> BatchPlan:
    share = Share("data", np.arange(len(queries)), 1.0, 2)
    return BatchPlan(
        (share,), np.array(queries), None if positives is None else np.array(positives), size, seed, distinct
    )


examples = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=8, max_size=60)


@given(examples, st.integers(1, 4), st.integers(0, 9))
def test_a_batch_has_no_query_and_no_positive_twice_and_none_is_lost(pairs: list, size: int, seed: int) -> None:
    queries, positives = zip(*pairs, strict=True)
    made = plan(list(queries), list(positives), size, seed)
    n = 3 * len(pairs)
    try:
        batches = list(made.batches(n))
    except InputError:
        # Taken as they come, examples that may stand together are half as many as there could be, or more.
        edges = csr_array((np.ones(len(pairs)), (queries, positives)), shape=(13, 13))
        assert np.sum(maximum_bipartite_matching(edges) >= 0) < 2 * size
        return
    for batch in batches:
        assert len(batch) == size
        assert len({queries[one] for one in batch}) == len({positives[one] for one in batch}) == size
    # However often some had to wait, each has come.
    assert set(np.concatenate(batches).tolist()) == set(range(len(pairs))) or _crowded(queries, positives, size)
    assert all(np.array_equal(a, b) for a, b in zip(batches, made.batches(n), strict=True))


def _crowded(queries: tuple, positives: tuple, size: int) -> bool:
    """Whether so many share a query or a positive that some may wait for ever."""
    most = max(np.bincount(queries).max(), np.bincount(positives).max())
    return most > len(queries) / size


@given(st.integers(1, 6), st.integers(1, 5), st.integers(8, 60), st.integers(0, 9))
def test_workers_slices_make_up_the_batches(n_workers: int, width: int, n: int, seed: int) -> None:
    size = n_workers * width
    made = plan(list(range(n * 5)), list(range(n * 5)), size, seed)
    workers = [list(WorkerBatches(made, 7, rank, n_workers)) for rank in range(n_workers)]
    joined = [[one for part in parts for one in part] for parts in zip(*workers, strict=True)]
    assert joined == [batch.tolist() for batch in made.batches(7)]
    assert {len(part) for worker in workers for part in worker} == {width}


def test_each_pass_has_every_example_once_in_another_order() -> None:
    batches = list(plan(list(range(20)), list(range(20)), 5).batches(8))
    first, second = np.concatenate(batches[:4]), np.concatenate(batches[4:])
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()
    other = np.concatenate(list(plan(list(range(20)), list(range(20)), 5, seed=1).batches(4)))
    assert first.tolist() != other.tolist()


def test_sources_are_mixed_by_weight_and_a_batch_is_of_one() -> None:
    shares = (Share("a", np.arange(100), 3.0, 2), Share("b", np.arange(100, 140), 1.0, 2))
    made = BatchPlan(shares, np.arange(140), np.arange(140), 10, 0, True)
    kinds = [{int(one) >= 100 for one in batch} for batch in made.batches(400)]
    assert all(len(kind) == 1 for kind in kinds)
    assert 70 < sum(True in kind for kind in kinds) < 130


@pytest.mark.parametrize(
    ("queries", "positives", "message"),
    [
        (list(range(3)), list(range(3)), "data: 3 examples to train on, fewer than the batch of 4"),
        ([0] * 9, list(range(9)), "only 1 of the examples differ"),
        (list(range(9)), [0, 1] * 4 + [0], "only 2 of the examples differ"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_said_before(queries: list, positives: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(queries, positives, 4).check()
    plan([0] * 9, [0] * 9, 4, distinct=False).check()
    plan(list(range(9)), None, 4).check()
