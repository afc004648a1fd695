"""What a query costs an index of any size, by the costs of the sizes measured.

The CPU of a query over S shards of T tokens, K centroids, N documents and R partitions in all, of Q query tokens that
visit P lists:

    fixed + partition * R + document * N + Q P (visit * R + entry * T / K) + centroid * K + S shard

`visit` and `entry` are what more lists cost, `shard` what more shards cost, `document` and `centroid` are measured by
themselves, `fixed` and `partition` fit what is left; none may be below 0. The gateway's CPU beside the centroids, and
what serving costs beside searching, are linear in S. Where `probing.probe_in_gateway` says no, every
shard scores all centroids. Milliseconds throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from raycol.index.search.effort import EFFORTS
from raycol.serving.probing import probe_in_gateway
from scaling.kept import Step

QUERY_TOKENS = 32
N_PROBE = EFFORTS["default"].n_probe


@dataclass(frozen=True)
class Shape:
    """An index and how it is spread."""

    tokens: float
    documents: float
    n_centroids: int
    partitions: int
    shards: int = 1

    @property
    def entries(self) -> float:
        """Entries of lists that a query visits, in millions."""
        return QUERY_TOKENS * N_PROBE * self.tokens / self.n_centroids / 1e6

    @property
    def visits(self) -> float:
        """Lists that a query visits, in millions: each partition has its own."""
        return QUERY_TOKENS * N_PROBE * self.partitions / 1e6


@dataclass(frozen=True)
class Model:
    """Milliseconds of CPU: a partition, a million documents, visits and entries, a shard, a thousand centroids."""

    fixed: float
    partition: float
    document: float
    visit: float
    entry: float
    shard: float
    centroid: float
    gateway: float
    gateway_shard: float
    serving: float
    serving_shard: float

    def parts(self, shape: Shape) -> dict[str, float]:
        """What each part of a search takes, over all shards."""
        return {
            "exact scores": self.fixed + self.partition * shape.partitions,
            "documents": self.document * shape.documents / 1e6,
            "lists": self.visit * shape.visits + self.entry * shape.entries,
            "centroids": self.centroids_ms(shape) * _times(shape.shards, shape.n_centroids),
            "shards": shape.shards * self.shard,
        }

    def search_ms(self, shape: Shape) -> float:
        """CPU of a search, without serving."""
        return sum(self.parts(shape).values())

    def centroids_ms(self, shape: Shape) -> float:
        """CPU of scoring all centroids once."""
        return self.centroid * shape.n_centroids / 1e3

    def _once_ms(self, shape: Shape) -> float:
        """CPU of the centroids where the gateway scores them."""
        return self.centroids_ms(shape) if probe_in_gateway(shape.shards, shape.n_centroids) else 0.0

    def gateway_ms(self, shape: Shape) -> float:
        """CPU of the gateway."""
        return self.gateway + self.gateway_shard * shape.shards + self._once_ms(shape)

    def shard_ms(self, shape: Shape) -> float:
        """CPU of a shard, of which each has as much."""
        return (self.search_ms(shape) - self._once_ms(shape)) / shape.shards

    def http_ms(self, shape: Shape) -> float:
        """CPU of all processes of an endpoint."""
        return self.search_ms(shape) + self.serving + self.serving_shard * shape.shards


def shape_of(size: Step, shards: int = 1) -> Shape:
    """A size that was measured."""
    whole = size["search"]
    return Shape(whole["tokens"], whole["documents"], whole["n_centroids"], whole["lists"], shards)


def sharded_ms(size: Step) -> dict[int, float]:
    """Median CPU of a search by number of shards, in one process."""
    return {int(n): float(np.median(told["cpu_ms"])) for n, told in size["shards"]["cpu_ms"].items()}


def served_ms(size: Step) -> dict[int, dict[str, float]]:
    """CPU of a query over HTTP by number of shards and kind of process."""
    return {int(n): told["cpu_ms"] for n, told in size["serve"]["shards"].items()}


def fit(sizes: Sequence[Step]) -> Model:
    """The model of what was measured, at two sizes at least."""
    shapes = [shape_of(size) for size in sizes]
    lines = [_line([(n, ms - _centroids_ms(size, n)) for n, ms in sharded_ms(size).items()]) for size in sizes]
    shard = float(np.mean([slope for _, slope in lines]))
    visit, entry = _weights([(shape.visits, shape.entries) for shape in shapes], [_lists_ms(size) for size in sizes])
    document = float(np.median([size["search"]["document_ms"] for size in sizes]))
    rest = [
        base - document * shape.documents / 1e6 - visit * shape.visits - entry * shape.entries
        for shape, (base, _) in zip(shapes, lines, strict=True)
    ]
    fixed, partition = _line([(shape.partitions, ms) for shape, ms in zip(shapes, rest, strict=True)])
    served = [(size, n, roles) for size in sizes for n, roles in served_ms(size).items()]
    gateway = _line(
        [
            (
                n,
                roles.get("gateway", 0.0)
                - _centroids_ms(size, n) * probe_in_gateway(n, size["search"]["n_centroids"]),
            )
            for size, n, roles in served
        ]
    )
    serving = _line([(n, sum(roles.values()) - sharded_ms(size)[n]) for size, n, roles in served])
    centroid = sizes[-1]["search"]["centroid_ms"]
    return Model(fixed, partition, document, visit, entry, shard, centroid, *gateway, *serving)


def _centroids_ms(size: Step, n_shards: int) -> float:
    """What scoring all centroids takes, in the gateway or in every shard."""
    n_centroids = size["search"]["n_centroids"]
    return float(size["search"]["centroid_ms"] * n_centroids / 1e3 * _times(n_shards, n_centroids))


def _times(n_shards: int, n_centroids: int) -> int:
    return 1 if probe_in_gateway(n_shards, n_centroids) else n_shards


def _lists_ms(size: Step) -> float:
    """Milliseconds that the lists of the default effort take, from searches that differ in the lists they visit."""
    told = size["search"]["cpu_ms"].items()
    points = [(int(name.split()[1]), float(np.median(ms))) for name, ms in told if name.startswith("n_probe")]
    return N_PROBE * _line(points)[1]


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where a line through points begins and how it rises; nothing is said of what did not vary."""
    if len({x for x, _ in points}) == 1:
        return float(np.mean([y for _, y in points])), 0.0
    return _weights([(1.0, x) for x, _ in points], [y for _, y in points])


def _weights(rows: Sequence[tuple[float, float]], values: Sequence[float]) -> tuple[float, float]:
    """The two weights, neither below 0, that make the most of `values` by `rows`, errors counting by their share."""
    x, y = np.array(rows, dtype=float), np.maximum(np.array(values, dtype=float), 1e-6)
    x, target = x / y[:, None], np.ones(len(y))
    best = (float("inf"), (0.0, 0.0))
    for used in [(0, 1), *combinations(range(2), 1)]:
        found, *_ = np.linalg.lstsq(x[:, used], target, rcond=None)
        if (found >= 0).all():
            weights = np.zeros(2)
            weights[list(used)] = found
            error = float(np.square(x @ weights - target).sum())
            best = min(best, (error, (float(weights[0]), float(weights[1]))))
    return best[1]
