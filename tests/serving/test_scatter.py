"""Search over shards is search over the whole: no Ray, shards in this process."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import settings

from raycol.errors import InputError
from raycol.index import Document, Hit, Index
from raycol.index.format.manifest import SearchSettings
from raycol.index.search.effort import EFFORTS, resolve
from raycol.index.shard import IndexShard, Selection, whole_size
from raycol.serving import scatter
from raycol.serving.circuit_breaker import CircuitBreaker
from raycol.serving.probing import Prober
from raycol.serving.shard_calls import Shards
from raycol.storage import open_store
from tests.index.test_seams import BruteForce, WeightedMaxSim

DIM = 32


def unit(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = rng.standard_normal((n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """1,500 documents around 40 topics, ordered by topic, so that shards differ; some documents are duplicates."""
    rng = np.random.default_rng(5)
    topics = unit(rng, 40)
    documents = []
    for n in range(1500):
        tokens = topics[n * 40 // 1500] * 0.8 + unit(rng, int(rng.integers(4, 24))) * 0.7
        if n % 50 == 1:
            tokens = documents[-1].embeddings
        documents.append(Document(f"d{n * 7919 % 1500:04d}", tokens, {"n": n, "even": n % 2 == 0}))
    made = Index.create(tmp_path_factory.mktemp("scatter") / "index", documents, partition_tokens=2500)
    made.delete([f"d{n:04d}" for n in range(0, 1500, 11)])
    return made


@pytest.fixture(scope="module")
def queries() -> list[np.ndarray]:
    """5 more than the hypothesis profile's examples: 30 in `make test`."""
    rng = np.random.default_rng(6)
    return [unit(rng, int(n)) for n in rng.integers(1, 40, 5 + settings.default.max_examples)]


def in_process(shard: IndexShard, slow: float = 0.0, hangs: str | None = None):
    async def call(method, *arguments):
        if slow or method == hangs:
            await asyncio.sleep(60.0 if method == hangs else slow)
        return getattr(shard, method)(*arguments)

    return call


def search(
    index, calls, queries, k=10, timeout=60.0, effort="default", settings=None, failures=None, probe=None, **selection
):
    manifest = index.manifest
    shards = Shards(
        calls, time.monotonic() + timeout, lambda n, why: None if failures is None else failures.append((n, why))
    )
    return asyncio.run(
        scatter.search(
            shards,
            queries,
            k=k,
            settings=settings or resolve(effort, manifest.tuned, manifest.codebook.n_centroids, k),
            size=whole_size(manifest),
            n_centroids=manifest.codebook.n_centroids,
            selection=Selection(**selection),
            probe=probe,
        )
    )


def shards_of(index: Index, n: int) -> list[IndexShard]:
    return [IndexShard(index.uri, index.version, shard, n) for shard in range(n)]


@pytest.fixture(scope="module")
def opened(index) -> Callable[[int], list[IndexShard]]:
    """Shards reused across tests, as in an endpoint."""
    return cache(partial(shards_of, index))


@pytest.fixture(scope="module")
def whole(index, queries) -> Callable[..., list[list[Hit]]]:
    """Results of `Index.search`, computed once for all numbers of shards."""
    return cache(lambda k, effort, **selection: index.search(queries, k=k, effort=effort, **selection))


@pytest.fixture(scope="module")
def prober(index: Index) -> Iterator[Prober]:
    with ThreadPoolExecutor(1) as pool:
        yield Prober(open_store(index.uri), index.manifest, pool)


def pairs(results):
    return [[(hit.id, hit.score) for hit in hits] for hits in results]


def test_exact_scores_that_a_shard_left_out_are_requested(index, queries, opened, monkeypatch) -> None:
    """Shards score eagerly what the search does not rescore, and better documents than its best among it."""
    monkeypatch.setattr(scatter, "_EAGER_EXTRA", 1000)
    scored = []

    def counting(shard: IndexShard):
        async def call(method, *arguments):
            if method == "score":
                scored.append([plan.exact for plan in arguments[1]])
            return getattr(shard, method)(*arguments)

        return call

    settings = SearchSettings(n_probe=2, n_rescore=16)
    expected = index.search(queries, k=1, n_probe=2, n_rescore=16)
    calls = [counting(shard) for shard in opened(2)]
    found = [search(index, calls, [query], 1, settings=settings).hits[0] for query in queries]
    assert pairs(found) == pairs(expected)
    assert [True] in scored


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("n_shards", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("selection", "effort", "k"),
    [
        ({}, "default", 10),
        ({}, "fast", 10),
        ({}, "fast", 1),
        ({}, "fast", 100),
        ({"filter": "even"}, "fast", 10),
        ({"filter": "n < 100"}, "default", 10),
        ({"filter": "n < 12"}, "default", 40),
        ({"ids": tuple(f"d{n:04d}" for n in range(300))}, "fast", 10),
        ({"filter": "n < 0"}, "default", 10),
    ],
)
def test_any_number_of_shards_matches_index_search(
    index, queries, prober, opened, whole, n_shards, selection, effort, k
) -> None:
    calls = [in_process(shard) for shard in opened(n_shards)]
    expected = whole(k, effort, **selection)
    batched = search(index, calls, queries, k, effort=effort, **selection)
    assert pairs(batched.hits) == pairs(expected)
    probed = search(index, calls, queries, k, effort=effort, probe=prober, **selection)
    assert pairs(probed.hits) == pairs(expected)
    assert batched.answered == n_shards
    # Single queries use eager scores: other steps, same hits.
    for number in range(0, len(queries), 20):
        for probe in (None, prober):
            single = search(index, calls, queries[number : number + 1], k, effort=effort, probe=probe, **selection)
            assert pairs(single.hits) == pairs(expected[number : number + 1])
    for hits in batched.hits[:5]:
        assert [hit.metadata for hit in hits] == index.metadata([hit.id for hit in hits])


@pytest.mark.slow
@pytest.mark.parametrize("selection", [{}, {"filter": "even"}])
def test_shards_take_another_scorer_and_generator(index, queries, selection) -> None:
    parts = {"scorer": WeightedMaxSim(), "generator": BruteForce()}
    whole, queries = Index(index.uri, **parts), queries[:2]
    calls = [in_process(IndexShard(index.uri, index.version, shard, 3, **parts)) for shard in range(3)]
    expected = whole.search(queries, effort="fast", **selection)
    assert pairs(search(index, calls, queries, effort="fast", **selection).hits) == pairs(expected)
    assert pairs(expected) != pairs(index.search(queries, effort="fast", **selection))


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize(("n_probe", "n_rescore"), [(1, 1), (2, 7), (4, 20), (30, 200)])
def test_any_settings_match_index_search(index, queries, prober, opened, n_probe, n_rescore) -> None:
    chosen = SearchSettings(n_probe=n_probe, n_rescore=n_rescore)
    calls = [in_process(shard) for shard in opened(4)]
    expected = index.search(queries, k=5, n_probe=n_probe, n_rescore=n_rescore)
    for probe in (None, prober):
        assert pairs(search(index, calls, queries, 5, settings=chosen, probe=probe).hits) == pairs(expected)


def test_more_shards_than_partitions(index, queries) -> None:
    n = len(index.partitions) + 2
    result = search(index, [in_process(shard) for shard in shards_of(index, n)], queries[:20])
    assert pairs(result.hits) == pairs(index.search(queries[:20]))


@pytest.mark.slow
def test_a_slow_shard_is_dropped_at_the_deadline(index, queries) -> None:
    shards = shards_of(index, 4)
    calls = [in_process(shard, slow=30.0 * (n == 2)) for n, shard in enumerate(shards)]
    failures: list = []
    result = search(index, calls, queries[:3], timeout=0.5, failures=failures)
    assert result.answered == 3
    assert [number for number, _ in failures] == [2]
    lost_ids = {
        id_
        for partition in shards[2].index.partitions
        for id_ in partition.ids.take(np.arange(partition.info.documents))
    }
    assert all(len(hits) == 10 and not lost_ids & {hit.id for hit in hits} for hits in result.hits)


@pytest.mark.parametrize("step", ["candidates", "score", "count", "describe"])
def test_a_shard_that_fails_midway_is_dropped(index, queries, step) -> None:
    shards = shards_of(index, 3)
    working = in_process(shards[1])

    async def failing(method, *arguments):
        if method == step:
            raise RuntimeError("failed")
        return await working(method, *arguments)

    calls = [in_process(shards[0]), failing, in_process(shards[2])]
    result = search(index, calls, queries[:10], effort="fast", filter="n >= 0")
    assert result.answered == 2
    assert all(len(hits) == 10 for hits in result.hits)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["candidates", "score", "count", "describe"])
def test_a_hanging_shard_leaves_time_for_the_others(index, queries, step) -> None:
    """The deadline leaves time for further calls of the other shards."""
    shards = shards_of(index, 3)
    calls = [in_process(shard, slow=0.005, hangs=step if n == 1 else None) for n, shard in enumerate(shards)]
    result = search(index, calls, queries[:10], timeout=2.0, effort="fast", filter="n >= 0")
    assert result.answered == 2
    assert all(len(hits) == 10 for hits in result.hits)


def test_a_shard_that_only_answers_counts_is_down(index, queries) -> None:
    """`count` needs no index files, so its success does not close the circuit breaker."""
    shards = shards_of(index, 2)
    calls = [in_process(shard, hangs="candidates" if n == 1 else None) for n, shard in enumerate(shards)]

    async def ping() -> None:
        pass

    async def run() -> list[bool]:
        breakers = [CircuitBreaker(str(number), ping) for number in range(2)]
        for breaker in breakers:
            breaker.record_timeout(10.0)
        opened = Shards(calls, time.monotonic() + 60, lambda *_: None, breakers)
        assert sorted(await opened.call_all("count", Selection())) == [0, 1]
        for breaker in breakers:
            breaker.record_timeout(10.0)
        return [breaker.is_down for breaker in breakers]

    assert asyncio.run(run()) == [True, True]


def test_slow_probing_times_out(index, queries) -> None:
    async def slow(queries, plans):
        await asyncio.sleep(60)

    calls = [in_process(shard) for shard in shards_of(index, 2)]
    with pytest.raises(TimeoutError, match="nearest centroids timed out"):
        search(index, calls, queries[:2], timeout=0.1, probe=slow)
    # A plan that visits no lists needs no probes.
    assert search(index, calls, queries[:2], probe=slow, filter="n < 12").answered == 2


def test_all_shards_failing_returns_no_hits(index, queries) -> None:
    async def failing(method, *arguments):
        raise RuntimeError("failed")

    result = search(index, [failing, failing], queries[:2])
    assert (result.answered, result.hits) == (0, [[], []])


def test_a_shards_input_error_is_raised(index, queries) -> None:
    with pytest.raises(InputError, match="nothing"):
        search(index, [in_process(shard) for shard in shards_of(index, 2)], queries[:1], filter="nothing = 1")


def test_efforts_are_covered() -> None:
    assert set(EFFORTS) == {"fast", "default", "thorough"}
