"""Intervals contain what they should as often as they say, and p-values are uniform if there is no difference."""

from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from raycol.errors import InputError
from raycol.evaluation.comparison import (
    Comparison,
    Mean,
    compare,
    holm,
    largest_differences,
    mean_interval,
)
from tests.conftest import tries_all

N_RESAMPLES = 199
# Reciprocal ranks and the like, so that many queries tie.
VALUES = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.1])


def simulations() -> int:
    return 5000 if tries_all() else 400


def by_query(values: NDArray[np.float64] | list[float]) -> dict[str, float]:
    return {f"q{row}": float(value) for row, value in enumerate(values)}


def reciprocal_ranks(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of two systems that rank three of five queries alike; the second is better."""
    baseline = 1 / rng.integers(1, 11, n) * (rng.random(n) < 0.8)
    return baseline, np.where(rng.random(n) < 0.6, baseline, 1 / rng.integers(1, 8, n))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"a": 25}, {"a": 100}, {"a": 20, "b": 50, "c1": 30, "c2": 80}], ids=["25", "100", "four"]
)
def test_intervals_cover_the_difference_as_often_as_they_say(sizes: dict[str, int]) -> None:
    """Nominally 95 %, and up to 2 % more for few queries; the tolerance is 3.3 standard deviations of a binomial."""
    rng = np.random.default_rng(len(sizes))
    # A large sample is the population from which queries are drawn.
    populations = {name: reciprocal_ranks(rng, 1000) for name in sizes}
    groups = {"c1": "c", "c2": "c"}
    true = compare(
        {name: by_query(baseline) for name, (baseline, _) in populations.items()},
        {name: by_query(system) for name, (_, system) in populations.items()},
        groups=groups,
        n_resamples=1,
    ).difference
    covered = 0
    for seed in range(simulations()):
        rows = {name: rng.integers(1000, size=size) for name, size in sizes.items()}
        baseline, system = (
            {name: by_query(populations[name][which][rows[name]]) for name in sizes} for which in (0, 1)
        )
        interval = compare(baseline, system, groups=groups, seed=seed, n_resamples=N_RESAMPLES).interval
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    tolerance = 3.3 * (0.95 * 0.05 / simulations()) ** 0.5
    assert 0.95 - tolerance <= covered / simulations() <= 0.97 + tolerance


@pytest.mark.parametrize("sizes", [{"a": 30}, {"a": 20, "b": 60}], ids=["one", "two"])
def test_p_values_are_uniform_if_there_is_no_difference(sizes: dict[str, int]) -> None:
    """A chi-square test over ten bins, at 0.1 %; one query in three ties."""
    rng = np.random.default_rng(7)
    counts = np.zeros(10, np.int64)
    for seed in range(simulations()):
        baseline = {name: rng.beta(0.6, 0.4, size) for name, size in sizes.items()}
        system = {
            name: np.where(rng.random(size) < 1 / 3, baseline[name], rng.beta(0.6, 0.4, size))
            for name, size in sizes.items()
        }
        p_value = compare(
            {name: by_query(values) for name, values in baseline.items()},
            {name: by_query(values) for name, values in system.items()},
            seed=seed,
            n_resamples=N_RESAMPLES,
        ).p_value
        counts[int(np.ceil(round(p_value * 200) / 20)) - 1] += 1
    expected = simulations() / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.88


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=7))
def test_exact_p_values_are_uniform_over_all_signs(pairs: list[tuple[float, float]]) -> None:
    """Also if differences tie: the share of sign patterns with a p-value of at most p is p."""
    p_values = []
    for flips in product([False, True], repeat=len(pairs)):
        flipped = [pair[::-1] if flip else pair for pair, flip in zip(pairs, flips, strict=True)]
        baseline, system = (by_query(list(values)) for values in zip(*flipped, strict=True))
        p_values.append(compare({"c": baseline}, {"c": system}, n_resamples=200).p_value)
    for p_value in p_values:
        assert np.mean(np.array(p_values) <= p_value) == pytest.approx(p_value)


def test_sampled_p_values_approach_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    baseline, system = ({"a": by_query(values)} for values in reciprocal_ranks(rng, 20))
    differing = [
        system["a"][id_] - value for id_, value in baseline["a"].items() if abs(system["a"][id_] - value) > 1e-9
    ]
    assert 6 < len(differing) < 13
    sums = [abs(np.dot(signs, differing)) for signs in product([1, -1], repeat=len(differing))]
    exact = np.mean(np.array(sums) >= abs(sum(differing)) - 1e-9)
    assert compare(baseline, system, n_resamples=1 << len(differing)).p_value == pytest.approx(exact)
    sampled = compare(baseline, system, n_resamples=(1 << len(differing)) - 1).p_value
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.05)


COLLECTIONS = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), min_size=1
)


@given(COLLECTIONS, st.integers(0, 2**32 - 1))
def test_a_comparison_mirrors_its_reverse(collections: dict[str, list[tuple[float, float]]], seed: int) -> None:
    baseline, system = (
        {name: by_query([pair[which] for pair in pairs]) for name, pairs in collections.items()} for which in (0, 1)
    )
    forth = compare(baseline, system, seed=seed, n_resamples=N_RESAMPLES)
    back = compare(system, baseline, seed=seed, n_resamples=N_RESAMPLES)
    mirrored = None if back.interval is None else (-back.interval[1], -back.interval[0])
    assert forth == Comparison(-back.difference, mirrored, back.p_value, back.losses, back.ties, back.wins)
    assert forth.wins + forth.ties + forth.losses == sum(map(len, collections.values()))
    # The same again, in another order of collections and queries.
    reordered = {name: dict(reversed(values.items())) for name, values in reversed(baseline.items())}
    assert compare(reordered, system, seed=seed, n_resamples=N_RESAMPLES) == forth


@given(st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.04, 0.3, 0.6, 1.0]) | st.floats(0, 1), max_size=6))
def test_holms_correction_is_closed_testing(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that contains it."""
    rows = range(len(p_values))
    sets = list(chain.from_iterable(combinations(rows, size) for size in range(1, len(rows) + 1)))
    corrected = holm(p_values)
    assert corrected == [
        max(min(1.0, len(each) * min(p_values[other] for other in each)) for each in sets if row in each)
        for row in rows
    ]
    assert all(p_value <= after <= 1 for p_value, after in zip(p_values, corrected, strict=True))
    in_order = sorted(rows, key=p_values.__getitem__)
    assert [corrected[row] for row in in_order] == sorted(corrected)


def test_collections_and_groups_weigh_the_same() -> None:
    values = {"a": {"1": 1.0}, "b": {"1": 0.0, "2": 0.5, "3": 1.0}, "f1": {"1": 0.2}, "f2": {"1": 0.4}}
    assert mean_interval(values).value == pytest.approx((1 + 0.5 + 0.2 + 0.4) / 4)
    groups = {"a": None, "f1": "forums", "f2": "forums"}
    assert mean_interval(values, groups=groups).value == pytest.approx((1 + 0.5 + 0.3) / 3)
    zeros = {name: dict.fromkeys(queries, 0.0) for name, queries in values.items()}
    assert compare(zeros, values, groups=groups).difference == pytest.approx(0.6)


def test_few_queries_have_no_interval() -> None:
    four, five = by_query([0.1, 0.2, 0.3, 0.4]), by_query([0.1, 0.2, 0.3, 0.4, 0.5])
    assert mean_interval({"a": four}) == Mean(pytest.approx(0.25), None)
    assert mean_interval({"a": five, "b": four}).interval is None
    low, high = mean_interval({"a": five}).interval or (1, 0)
    assert low < 0.3 < high


def test_equal_systems() -> None:
    values = {"a": by_query([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])}
    rounded = {"a": {id_: value + 1e-16 for id_, value in values["a"].items()}}
    for system in (values, rounded):
        assert compare(values, system) == Comparison(0.0, (0.0, 0.0), 1.0, 0, 6, 0)
        assert largest_differences(values["a"], system["a"]) == []


def test_the_largest_differences() -> None:
    baseline, system = {"a": 0.5, "b": 0.1, "c": 1.0, "d": 0.2}, {"d": 0.2, "c": 0.5, "a": 1.0, "b": 0.9}
    assert largest_differences(baseline, system) == [("b", 0.1, 0.9), ("a", 0.5, 1.0), ("c", 1.0, 0.5)]
    assert largest_differences(system, baseline, n=1) == [("b", 0.9, 0.1)]


def test_systems_over_other_queries_are_refused() -> None:
    values = {"a": by_query([0.1, 0.2]), "b": by_query([0.3])}
    with pytest.raises(InputError, match=r"different collections: 1, such as 'b', have results of one of them only"):
        compare(values, {"a": values["a"]})
    with pytest.raises(InputError, match=r"different queries of a: 1, such as 'q1'"):
        compare(values, values | {"a": values["b"]})
    with pytest.raises(InputError, match="different queries: 1, such as 'q1'"):
        largest_differences(values["a"], values["b"])
