"""What a query takes of one process: over the whole index, over shards one after the other, and from a cold disk."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import in_fresh_process, measured, peak_memory
from numpy.typing import NDArray

from raycol.index import Index
from raycol.index.kernels.candidates import best_estimates
from raycol.index.search.effort import EFFORTS, resolve
from raycol.index.search.probes import find_probes
from raycol.index.search.query import Query
from raycol.index.searcher import document_set_of
from raycol.index.shard import IndexShard, Selection, whole_size
from raycol.serving import scatter
from raycol.serving.probing import Prober, probe_in_gateway
from raycol.serving.shard_calls import ShardCall, Shards
from raycol.storage import open_store
from scaling.corpus import Corpus
from scaling.kept import Step
from scaling.truth import K, recall

Queries = Sequence[NDArray[np.float32]]

# Lists that each query token visits, to see what an entry of a list costs.
_PROBES = (8, 16, 32, 64)
_COLD_QUERIES = 20


def whole(folder: Path, corpus: Corpus, n_queries: int, n_exact: int, rounds: int, truth: list[list[str]]) -> Step:
    """`Index.search` with each effort, and `Index.exact`, in a process of its own."""
    return in_fresh_process(_whole, folder, corpus, n_queries, n_exact, rounds, truth)


def _whole(folder: Path, corpus: Corpus, n_queries: int, n_exact: int, rounds: int, truth: list[list[str]]) -> Step:
    queries = corpus.queries(n_queries)
    with measured() as opening:
        index = Index.open(folder / "index")
    with measured() as first:
        index.search(queries[:1], K)  # checks every byte
    settings: dict[str, dict[str, Any]] = {effort: {"effort": effort} for effort in EFFORTS}
    settings |= {f"n_probe {n}": {"n_probe": n} for n in _PROBES}
    cpu_ms: dict[str, list[float]] = {name: [] for name in settings}
    found: dict[str, list[list[str]]] = {}
    for _ in range(rounds):
        for name, chosen in settings.items():
            found[name] = []
            for query in queries:
                with measured() as cost:
                    (hits,) = index.search([query], K, threads=1, **chosen)
                cpu_ms[name].append(1000 * cost.cpu_s)
                found[name].append([hit.id for hit in hits])
    peak, own = peak_memory(), _own_memory()
    with measured() as scanning:
        exact = [[hit.id for hit in hits] for hits in index.exact(queries[:n_exact], K)]
    stats = index.stats()
    return {
        "tokens": stats.tokens, "documents": stats.documents, "n_centroids": stats.n_centroids,
        "bytes": stats.bytes, "files": stats.files, "partitions": stats.partitions,
        "lists": len(document_set_of(index._snapshot, None, None, "ignore").lists.arrays),
        "open_s": opening.wall_s, "first_s": first.wall_s, "first_cpu_s": first.cpu_s,
        "cpu_ms": cpu_ms, "exact_cpu_ms": 1000 * scanning.cpu_s / n_exact, "queries": n_queries,
        "exact_queries": n_exact,
        "recall_of_exact": {name: recall(ids, exact) for name, ids in found.items()},
        "recall": {name: recall(ids, truth) for name, ids in found.items()} if truth else {},
        "recall_exact": recall(exact, truth) if truth else None,
        "peak_bytes": peak, "own_bytes": own, "found": found["default"], "document_ms": _document_ms(),
        "centroid_ms": _centroid_ms(index, queries[:n_exact]),
    }  # fmt: skip


def _document_ms() -> float:
    """What a search does to every document of an index, a million of them: masks, and the best estimates found."""
    n = 2_000_000
    rng = np.random.default_rng(0)
    allowed_N, zeroed_N = np.ones(n, dtype=bool), np.empty(n, dtype=np.uint32)
    # A quarter of the documents are met by a query's lists in a large index.
    state_N = np.where(rng.random(n) < 0.25, 255 * 32 * rng.random(n) ** 8, 0).astype(np.uint32)
    costs = []
    for _ in range(7):
        with measured() as cost:
            copied_N = np.concatenate([allowed_N[: n // 2], allowed_N[n // 2 :]])
            np.count_nonzero(copied_N)
            zeroed_N[:] = 0
            best_estimates(state_N, copied_N, 1024, 255 * 32)
        costs.append(1000 * cost.cpu_s)
    return float(np.median(costs)) * 1e6 / n


def _centroid_ms(index: Index, queries: Sequence[NDArray[np.float32]]) -> float:
    """What a search does to all centroids, a thousand of them."""
    n_probe = EFFORTS["default"].n_probe
    costs = []
    for query in queries:
        with measured() as cost:
            find_probes(Query.prepare(query), index.codebook, n_probe)
        costs.append(1000 * cost.cpu_s)
    return float(np.median(costs)) * 1e3 / index.codebook.n_centroids


def sharded(folder: Path, corpus: Corpus, n_queries: int, rounds: int, shards: Sequence[int], found: Any) -> Step:
    """The same searches over shards of one process, asked one after the other: what sharding itself costs."""
    return {
        "cpu_ms": {
            str(n): in_fresh_process(_sharded, folder, corpus, n_queries, rounds, n, found)
            for n in shards
            if n <= corpus.n_parts
        }
    }


def _sharded(folder: Path, corpus: Corpus, n_queries: int, rounds: int, n: int, found: list[list[str]]) -> Step:
    queries = corpus.queries(n_queries)
    opened = [IndexShard(folder / "index", 1, shard, n) for shard in range(n)]
    asks = [_ask(shard) for shard in opened]
    manifest = opened[0].manifest
    once = probe_in_gateway(n, manifest.codebook.n_centroids)
    probing = Prober(open_store(folder / "index"), manifest, ThreadPoolExecutor(1)) if once else None
    cpu_ms, same = [], 0
    for round_ in range(rounds + 1):
        for number, query in enumerate(queries if round_ else queries[:2]):  # the first ones check the index
            with measured() as cost:
                ids = asyncio.run(_search(asks, probing, opened[0], query))
            if round_:
                cpu_ms.append(1000 * cost.cpu_s)
                same += ids == found[number]
    return {"cpu_ms": cpu_ms, "same_hits": same / len(cpu_ms), "own_bytes": _own_memory()}


def _ask(shard: IndexShard) -> ShardCall:
    async def ask(method: str, *arguments: Any) -> Any:
        answer: Callable[..., Any] = getattr(shard, method)
        return answer(*arguments)

    return ask


async def _search(
    asks: Sequence[ShardCall], probing: Prober | None, shard: IndexShard, query: NDArray[np.float32]
) -> list[str]:
    def failed(number: int, error: BaseException) -> None:
        raise error

    manifest = shard.manifest
    n_centroids = manifest.codebook.n_centroids
    gathered = await scatter.search(
        Shards(asks, time.monotonic() + 3600, failed),
        [query],
        k=K,
        settings=resolve("default", manifest.tuned, n_centroids, K),
        size=whole_size(manifest),
        n_centroids=n_centroids,
        selection=Selection(),
        probe=probing,
    )
    return [hit.id for hit in gathered.hits[0]]


def cold(folder: Path, corpus: Corpus) -> Step:
    """Queries while residuals are on the disk only, in a process of its own."""
    return in_fresh_process(_cold, folder, corpus)


def _cold(folder: Path, corpus: Corpus) -> Step:
    loading, *queries = corpus.queries(_COLD_QUERIES + 1)
    # `trust` passes over the residuals; all else is looked at, and stays mapped.
    index = Index.open(folder / "index", trust=True)
    for partition in index.partitions:
        partition.check()
    index.search([loading], K, threads=1)
    # What no process has mapped leaves the cache.
    for partition in index.partitions:
        residuals = partition.sections["residuals"]
        with Path(partition.location).open("rb") as file:
            os.posix_fadvise(file.fileno(), residuals.start, residuals.bytes, os.POSIX_FADV_DONTNEED)
    before, faults = _read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    with measured() as first:
        for query in queries:
            index.search([query], K, threads=1)
    read, faults = _read_bytes() - before, resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults
    with measured() as again:
        for query in queries:
            index.search([query], K, threads=1)
    n = len(queries)
    return {"queries": n, "read_bytes": read / n, "major_faults": faults / n, "wall_ms": 1000 * first.wall_s / n,
            "warm_wall_ms": 1000 * again.wall_s / n, "read_ahead_bytes": _read_ahead(folder)}  # fmt: skip


def _own_memory() -> int:
    """Resident bytes of this process that are no file's."""
    return _number("/proc/self/status", "RssAnon:") * 1024


def _read_bytes() -> int:
    """Bytes that this process had read from the disk."""
    return _number("/proc/self/io", "read_bytes:")


def _read_ahead(folder: Path) -> int | None:
    """How far the kernel reads ahead on a folder's disk, in bytes, where it says so."""
    device = folder.stat().st_dev
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(place.read_text()) * 1024 if place.exists() else None


def _number(place: str, name: str) -> int:
    return next(int(line.split()[1]) for line in Path(place).read_text().splitlines() if line.startswith(name))
