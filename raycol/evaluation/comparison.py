"""Whether systems differ: means with intervals, paired differences, significance.

Values are those of one metric, by collection and query. A mean is an average over collections, each weighing the same
whatever its number of queries; the members of a group (CQADupStack's forums) together weigh as one collection.

    Q  queries of a collection         N  queries of all collections that differ
    R  resamples
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycol.errors import InputError

Values = Mapping[str, Mapping[str, float]]
Groups = Mapping[str, str | None]
Interval = tuple[float, float]

N_RESAMPLES = 9_999
# With fewer queries a resample often is the sample itself, or one query alone, and says nothing about the spread.
MIN_QUERIES = 5
# Values closer than this differ by rounding.
_ROUNDING = 1e-12
# Numbers of a batch of resamples, which bounds memory.
_BATCH = 1 << 21


@dataclass(frozen=True)
class Mean:
    """Mean of a metric; the interval is None if a collection has fewer than `MIN_QUERIES` queries."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """A system compared with a baseline on the same queries.

    Args:
        difference: of the means, system minus baseline.
        interval: of the difference; None if a collection has fewer than `MIN_QUERIES` queries.
        p_value: of a two-sided paired randomisation test of no difference.
        wins, ties, losses: numbers of queries for which the system is better, equal, worse.
    """

    difference: float
    interval: Interval | None
    p_value: float
    wins: int
    ties: int
    losses: int


def mean_interval(
    values: Values,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Mean:
    """Return the mean with its bootstrap interval.

    Args:
        values: by collection and query.
        groups: group of a collection, if it has one.
        seed: of the resamples.
        n_resamples: their number.
        confidence: probability that the interval contains the mean over the population of queries.
    """
    samples = [np.array([values[name][id_] for id_ in sorted(values[name])]) for name in sorted(values)]
    weights = _weights(values, groups)
    return Mean(_mean(samples, weights), _interval(samples, weights, seed, n_resamples, confidence))


def compare(
    baseline: Values,
    system: Values,
    *,
    groups: Groups | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Comparison:
    """Compare a system with a baseline. Exchanging them changes the sign of the difference and of its interval.

    Args:
        baseline, system: values by collection and query.
        groups: group of a collection, if it has one.
        seed: of the resamples.
        n_resamples: of the bootstrap and of the randomisation test.
        confidence: of the interval.

    Raises:
        InputError: they cover different collections or queries.
    """
    _check_same(baseline, system, "collections")
    for name in baseline:
        _check_same(baseline[name], system[name], f"queries of {name}")
    samples = [_differences(baseline[name], system[name]) for name in sorted(baseline)]
    weights = _weights(baseline, groups)
    weighted = np.concatenate([weight / len(each) * each for each, weight in zip(samples, weights, strict=True)])
    return Comparison(
        _mean(samples, weights),
        _interval(samples, weights, seed, n_resamples, confidence),
        _randomisation_test(weighted[weighted != 0], seed, n_resamples),
        wins=int((weighted > 0).sum()),
        ties=int((weighted == 0).sum()),
        losses=int((weighted < 0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons (Holm 1979), in the order given.

    Rejecting those below alpha makes one or more false rejections with a probability of at most alpha.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for n_smaller, row in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - n_smaller) * p_values[row]))
        corrected[row] = largest
    return corrected


def largest_differences(
    baseline: Mapping[str, float], system: Mapping[str, float], n: int = 10
) -> list[tuple[str, float, float]]:
    """Return the `n` queries that differ most: query id, baseline's and system's value. Equal queries are left out.

    Raises:
        InputError: baseline and system cover different queries.
    """
    _check_same(baseline, system, "queries")
    differences = zip(sorted(baseline), _differences(baseline, system).tolist(), strict=True)
    ranked = sorted((-abs(difference), id_) for id_, difference in differences if difference)
    return [(id_, baseline[id_], system[id_]) for _, id_ in ranked[:n]]


def _check_same(baseline: Mapping[str, object], system: Mapping[str, object], what: str) -> None:
    if others := baseline.keys() ^ system.keys():
        raise InputError(
            f"the systems cover different {what}: {len(others)}, such as {min(others)!r:.60}, have results of one of "
            "them only; evaluate both on the same"
        )


def _differences(baseline: Mapping[str, float], system: Mapping[str, float]) -> NDArray[np.float64]:
    """System minus baseline of each query, in the order of the ids; 0.0 if they differ by rounding only."""
    difference_Q = np.array([system[id_] - baseline[id_] for id_ in sorted(baseline)])
    return np.where(np.abs(difference_Q) > _ROUNDING, difference_Q, 0.0)


def _weights(collections: Values, groups: Groups | None) -> list[float]:
    """Weights of the collections, in the order of their names; they add up to 1."""
    group_of = {name: (groups or {}).get(name) or f"\0{name}" for name in sorted(collections)}
    sizes = Counter(group_of.values())
    return [1 / (len(sizes) * sizes[group]) for group in group_of.values()]


def _mean(samples: list[NDArray[np.float64]], weights: list[float]) -> float:
    return float(sum(weight * each_Q.mean() for each_Q, weight in zip(samples, weights, strict=True)))


def _interval(
    samples: list[NDArray[np.float64]], weights: list[float], seed: int, n_resamples: int, confidence: float
) -> Interval | None:
    """Symmetric bootstrap-t interval of the weighted mean (Hall 1988, "On symmetric bootstrap confidence intervals").

    The queries of each collection are resampled, and the distance of a resample's mean from the sample's is divided by
    the resample's own standard error. Over 20 to 50 queries, many of them ties, percentile and BCa intervals of 95 %
    contain the true difference in 82 to 92 % of the cases; this one does in 95 to 97 %.
    """
    if min(map(len, samples)) < MIN_QUERIES:
        return None
    rng = np.random.default_rng([seed, 0])
    mean, error = _mean(samples, weights), _standard_error(samples, weights)
    distance_R, variance_R = np.zeros(n_resamples), np.zeros(n_resamples)
    for each_Q, weight in zip(samples, weights, strict=True):
        centred_Q = each_Q - each_Q.mean()
        for rows in _batches(n_resamples, len(each_Q)):
            drawn_RQ = centred_Q[rng.integers(len(each_Q), size=(rows.stop - rows.start, len(each_Q)))]
            distance_R[rows] += weight * drawn_RQ.mean(axis=1)
            variance_R[rows] += weight**2 * drawn_RQ.var(axis=1, ddof=1) / len(each_Q)
    error_R = np.sqrt(variance_R)
    spread_R = error_R > 1e-6 * error  # a resample of one value has no standard error
    if error <= _ROUNDING or not spread_R.any():
        return mean, mean
    t_R = np.abs(distance_R[spread_R]) / error_R[spread_R]
    margin = error * float(np.quantile(t_R, confidence, method="higher"))
    return mean - margin, mean + margin


def _standard_error(samples: list[NDArray[np.float64]], weights: list[float]) -> float:
    """Standard error of the weighted mean."""
    return float(
        np.sqrt(
            sum(weight**2 * each_Q.var(ddof=1) / len(each_Q) for each_Q, weight in zip(samples, weights, strict=True))
        )
    )


def _randomisation_test(weighted_N: NDArray[np.float64], seed: int, n_resamples: int) -> float:
    """P-value of a paired randomisation test (Smucker et al. 2007, doi 10.1145/1321440.1321528).

    It is the probability that the sum is as far from 0 under random signs. All signs are tried if they are no more
    than `n_resamples`. scipy.stats.permutation_test gives the same in ten times the time.

    Args:
        weighted_N: differences that are not 0, times the weights of their queries.
        seed: of the signs.
        n_resamples: their number.
    """
    n = len(weighted_N)
    total = weighted_N.sum()
    at_least = abs(total) - _ROUNDING * np.abs(weighted_N).sum()
    is_exact = 2**n <= n_resamples
    n_signs = 2**n if is_exact else n_resamples
    rng = np.random.default_rng([seed, 1])
    n_as_far = 0
    for rows in _batches(n_signs, n):
        flipped_RN: NDArray[Any]
        if is_exact:
            flipped_RN = np.arange(rows.start, rows.stop)[:, None] >> np.arange(n) & 1
        else:
            bytes_RN = rng.integers(256, size=(rows.stop - rows.start, -(-n // 8)), dtype=np.uint8)
            flipped_RN = np.unpackbits(bytes_RN, axis=1, count=n)
        n_as_far += int((np.abs(total - 2 * (flipped_RN.astype(np.float64) @ weighted_N)) >= at_least).sum())
    return n_as_far / n_signs if is_exact else (n_as_far + 1) / (n_signs + 1)


def _batches(n: int, width: int) -> Iterator[slice]:
    step = max(1, _BATCH // max(1, width))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))
