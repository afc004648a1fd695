"""What a query takes over HTTP, of all processes of an endpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from processes import endpoint_cpu, endpoint_memory

from raycol import Client
from raycol.distributed.session import ray_session
from raycol.serving.config import ServeConfig
from raycol.serving.run import serving
from scaling.corpus import Corpus
from scaling.kept import Step
from scaling.truth import K

_IDLE_S = 5.0


def served(folder: Path, corpus: Corpus, n_queries: int, rounds: int, shards: Sequence[int], found: list) -> Step:  # type: ignore[type-arg]
    """One query at a time, as embeddings, for each number of shards."""
    # One session for all endpoints: each starts in half the time.
    with ray_session(CPU=max(shards) + 4):
        return {"shards": {str(n): _served(folder, corpus, n_queries, rounds, n, found) for n in shards}}


def _served(folder: Path, corpus: Corpus, n_queries: int, rounds: int, n: int, found: list[list[str]]) -> Step:
    queries = corpus.queries(n_queries)
    started = time.perf_counter()
    config = ServeConfig(index=str(folder / "index"), shards=n, port=0, timeout_s=120)
    with serving(config) as running, Client(running.url) as client:
        start_s = time.perf_counter() - started
        for query in queries[:10]:
            client.search(embeddings=[query], k=K)
        ms, same, cpu = [], 0, Counter[str]()
        with endpoint_cpu() as idle:
            time.sleep(_IDLE_S)
        for _ in range(rounds):
            began = time.perf_counter()
            with endpoint_cpu() as spent:
                for query, ids in zip(queries, found, strict=True):
                    asked = time.perf_counter()
                    answer = client.search(embeddings=[query], k=K)
                    ms.append(1000 * (time.perf_counter() - asked))
                    same += [hit.id for hit in answer.results[0]] == ids
            # Health checks and the like go on whether something is asked or not.
            share = (time.perf_counter() - began) / _IDLE_S
            cpu.update({role: seconds - share * idle[role] for role, seconds in spent.items()})
        memory = endpoint_memory()
    return {
        "start_s": start_s, "ms": ms, "same_hits": same / len(ms),
        "cpu_ms": {role: max(0.0, 1000 * seconds / len(ms)) for role, seconds in cpu.items()},
        "idle_cores": idle.total() / _IDLE_S, "memory": memory,
    }  # fmt: skip
