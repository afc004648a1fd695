"""Measure an endpoint and `Index.search` in this process, on the same index, in one run.

    python benchmarks/serving.py [overhead] [saturation] [scatter] [table] [embeddings] --keep FOLDER [--pylate PYTHON]

overhead    latency over HTTP with --shards shards (4), compared with `Index.search` on one thread: one query at a
            time, as embeddings, in alternating rounds; and the time of each step
saturation  queries a second of 1, 2 and 4 overloaded shards, in requests of 16 queries and of one, compared with
            `Index.search` with two threads on the same batches
scatter     CPU of the stages of 1, 2 and 4 shards in this process, one after the other, compared with `Index.search`:
            an endpoint's computation, without HTTP and Ray
table       latencies, queries a second and errors: closed loops of 1, 4, 16 and 64 clients, and open loops at shares
            of the throughput of 16 clients; with embeddings and with texts, for 1, 2 and 4 shards
embeddings  POST /v1/embeddings, compared with PyLate's server on the same texts; PYTHON has PyLate and its server's
            dependencies (benchmarks/peers/README.md)

The data: --tokens clustered tokens of 128 dimensions, queries of 32 (clustered.py), stored without texts, in eight
partitions or as benchmarks/scaling.py has built them in FOLDER; and SciFact with its texts (scifact.py), which is
skipped if it is missing. FOLDER keeps indexes, which are reused, and all results, as serving-*.json.

In saturation and table, fewer shards than cores have replicas that fill the cores.

Requests come from a separate process on this machine (load.py). CPU is of all processes of the endpoint, by role;
`load` is the CPU of the load generator. No text is sent twice, since endpoints cache encoded texts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from clustered import MEAN_TOKENS, Clustered, clustered_queries
from load import PLACE, Job, Report, load
from measure import in_fresh_process, print_table, say
from measure import measured as cpu_of
from numpy.typing import NDArray
from processes import by_role, endpoint_cpu
from scaling.corpus import Corpus
from scaling.kept import folder_of

from raycol.distributed.session import ray_session
from raycol.index import Document, Index
from raycol.index.search.effort import resolve
from raycol.index.shard import IndexShard, Selection, whole_size
from raycol.serving.config import ServeConfig
from raycol.serving.probing import Prober, probe_in_gateway
from raycol.serving.run import serving
from raycol.serving.scatter import search
from raycol.serving.shard_calls import ShardCall, Shards
from raycol.storage import open_store

K = 10
BATCH = 16
SHARDS = (1, 2, 4)
CLIENTS = (1, 4, 16, 64)
SHARES = (0.25, 0.5, 0.75, 0.9)
# Concurrent requests that saturate an endpoint.
SATURATING = {1: 16, BATCH: 6}

OVERHEAD_BAR_MS = 8.0
RATIO_BAR = 0.8

_N_QUERIES = 200
_PARTITIONS = 8


@dataclass(frozen=True)
class Served:
    """An index to serve, and queries as embeddings float32 [tokens, dim], and as texts if it has any."""

    name: str
    uri: str
    queries: list[NDArray[np.float32]]
    texts: list[str]


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure (all)")
    parser.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokens", type=float, default=3e6, help="of the clustered documents (3e6)")
    parser.add_argument("--passages", type=int, help="of SciFact (all)")
    parser.add_argument("--shards", type=int, default=4, help="for overhead (4)")
    parser.add_argument("--rounds", type=int, default=3, help="times that those compared take turns (3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (10)")
    parser.add_argument("--pylate", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    parts = {
        "overhead": overhead, "saturation": saturation, "scatter": scatter, "table": table, "embeddings": embeddings
    }  # fmt: skip
    if unknown := set(options.parts) - set(parts):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(parts)}")
    options.keep.mkdir(parents=True, exist_ok=True)
    # One Ray session for all endpoints halves their start-up time.
    with ray_session(CPU=2 * max(SHARDS) + 2):
        for name in options.parts or parts:
            measured = parts[name](options)
            (options.keep / f"serving-{name}.json").write_text(json.dumps(measured, indent=1))


def overhead(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One request at a time, compared with one search at a time."""
    measured = []
    for data in _all_data(options):
        index = Index.open(data.uri)
        with _endpoint(data, options.shards) as port:
            http_ms, index_ms, stages = [], [], []
            for round_ in range(options.rounds + 1):
                say(f"{data.name}: overhead, round {round_} of {options.rounds}")
                with endpoint_cpu() as cpu:
                    answers = list(_one_by_one(port, data.queries))
                searched = list(_search_one_by_one(index, data.queries))
                for (answer, _), (hits, _) in zip(answers, searched, strict=True):
                    assert [hit["id"] for hit in answer["results"][0]] == [hit.id for hit in hits]
                if round_:  # the first one warms up
                    http_ms += [ms for _, ms in answers]
                    index_ms += [ms for _, ms in searched]
                    stages += [
                        {**answer["took_ms"], "http": ms - answer["took_ms"]["total"]} for answer, ms in answers
                    ]
        print(f"\n{data.name}: {index.stats().tokens:,} tokens, one query at a time, {options.shards} shards")
        rows = [[name, *_quantiles(ms)] for name, ms in (("over HTTP", http_ms), ("Index.search", index_ms))]
        print_table(["milliseconds", "median", "p95", "p99"], rows)
        difference = float(np.median(http_ms) - np.median(index_ms))
        print(f"difference of medians: {difference:.2f} ms (at most {OVERHEAD_BAR_MS:g})")
        rows = [[stage, *_quantiles([took[stage] for took in stages])] for stage in stages[0]]
        print_table(["stage, ms", "median", "p95", "p99"], rows)
        print(f"CPU ms a query: {by_role(cpu, len(data.queries))}")
        measured.append(
            {"data": data.name, "shards": options.shards, "http_ms": http_ms, "index_ms": index_ms,
             "difference_ms": difference, "stages_ms": stages, "cpu_s": cpu, "cpu_queries": len(data.queries)}
        )  # fmt: skip
    return measured


def saturation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """An overloaded endpoint, compared with two threads that search continuously."""
    data = _clustered(options)
    index = Index.open(data.uri)
    measured = []
    for shards in SHARDS:
        with _endpoint(data, shards, fill=True) as port, tempfile.TemporaryDirectory() as folder:
            for per_request in (BATCH, 1):
                bodies = _search_bodies(Path(folder), data, per_request)
                done: list[_Loaded] = []
                searched = []
                for round_ in range(options.rounds):
                    say(
                        f"saturation: {shards} shards, {per_request} a request, round {round_ + 1} of {options.rounds}"
                    )
                    done.append(_load(port, "/v1/search", bodies, options, clients=SATURATING[per_request]))
                    searched.append(_search_for(index, data.queries, per_request, options.seconds))
                rates = [per_request * each.report.per_second for each in done]
                alone = [n / seconds for n, seconds, _ in searched]
                n_queries = per_request * sum(each.report.sent for each in done)
                cpu = sum((each.cpu for each in done), Counter[str]())
                measured.append(
                    {"shards": shards, "per_request": per_request, "per_second": rates, "alone_per_second": alone,
                     "ratio": float(np.median(rates) / np.median(alone)),
                     "errors": [each.report.errors for each in done],
                     "cpu_ms": 1000 * cpu.total() / n_queries, "cpu_s": cpu, "cpu_queries": n_queries,
                     "load_cpu_ms": 1000 * sum(each.report.cpu_s for each in done) / n_queries,
                     "alone_cpu_ms": 1000 * sum(cpu_s for _, _, cpu_s in searched) / sum(n for n, _, _ in searched)}
                )  # fmt: skip
    print(f"\nqueries a second at saturation, {index.stats().tokens:,} clustered tokens, {os.cpu_count()} cores")
    header = ["shards", "queries a request", "endpoint", "Index.search", f"ratio (at least {RATIO_BAR:g})",
              "CPU ms", "Index.search CPU ms", "load CPU ms", "errors"]  # fmt: skip
    print_table(
        header,
        [
            [str(row["shards"]), str(row["per_request"]), f"{np.median(row['per_second']):.0f}",
             f"{np.median(row['alone_per_second']):.0f}", f"{row['ratio']:.2f}", f"{row['cpu_ms']:.2f}",
             f"{row['alone_cpu_ms']:.2f}", f"{row['load_cpu_ms']:.2f}", " ".join(sorted(set(row["errors"])))]
            for row in measured
        ],
    )  # fmt: skip
    for row in measured:
        print(f"{row['shards']} shards, {row['per_request']} a request, CPU ms a query: "
              f"{by_role(row['cpu_s'], row['cpu_queries'])}")  # fmt: skip
    return measured


def scatter(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The computation of shards, and merging their replies, without Ray."""
    data = _clustered(options)
    index = Index.open(data.uri)
    probing = Prober(open_store(data.uri), index.manifest, ThreadPoolExecutor(1))
    searched = []
    for per_request in (BATCH, 1):
        batches = _batches(data.queries, per_request)
        n_queries = per_request * len(batches)
        for shards in SHARDS:
            once = probe_in_gateway(shards, index.manifest.codebook.n_centroids)
            opened = [IndexShard(data.uri, index.manifest.version, shard, shards) for shard in range(shards)]
            cost, alone = [], []
            for round_ in range(options.rounds + 1):
                say(f"scatter: {shards} shards, {per_request} a request, round {round_} of {options.rounds}")
                with cpu_of() as together:
                    asyncio.run(_search_shards(index, opened, batches, probing if once else None))
                with cpu_of() as in_one:
                    for batch in batches:
                        index.search(batch, K, threads=1)
                if round_:  # the first one warms up
                    cost.append(1000 * together.cpu_s / n_queries)
                    alone.append(1000 * in_one.cpu_s / n_queries)
            searched.append({"shards": shards, "per_request": per_request, "cpu_ms": cost, "alone_cpu_ms": alone})
    print(f"\nCPU ms a query in one process, {index.stats().tokens:,} clustered tokens")
    medians = [(row, float(np.median(row["cpu_ms"])), float(np.median(row["alone_cpu_ms"]))) for row in searched]
    print_table(
        ["shards", "queries a request", "shards' steps", "Index.search", "ratio"],
        [
            [str(row["shards"]), str(row["per_request"]), f"{cost:.2f}", f"{alone:.2f}", f"{alone / cost:.2f}"]
            for row, cost, alone in medians
        ],
    )
    return searched


async def _search_shards(
    index: Index,
    shards: Sequence[IndexShard],
    batches: Sequence[Sequence[NDArray[np.float32]]],
    probing: Prober | None,
) -> None:
    def ask_of(shard: IndexShard) -> ShardCall:
        async def ask(method: str, *arguments: Any) -> Any:
            return getattr(shard, method)(*arguments)

        return ask

    def fail(number: int, failure: BaseException) -> None:
        raise failure

    manifest = index.manifest
    settings = resolve("default", manifest.tuned, manifest.codebook.n_centroids, K)
    for batch in batches:
        await search(
            Shards([ask_of(shard) for shard in shards], time.monotonic() + 60, fail), batch, k=K, settings=settings,
            size=whole_size(manifest), n_centroids=manifest.codebook.n_centroids, selection=Selection(), probe=probing,
        )  # fmt: skip


def table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Closed and open loops of single queries, as embeddings and as texts."""
    measured = []
    for data in _all_data(options):
        for shards in SHARDS:
            with _endpoint(data, shards, fill=True) as port, tempfile.TemporaryDirectory() as folder:
                kinds = {"embeddings": _search_bodies(Path(folder), data, 1)}
                if data.texts:
                    kinds["texts"] = _text_bodies(Path(folder), data.texts)
                for kind, bodies in kinds.items():
                    most = 0.0
                    for clients in CLIENTS:
                        say(f"table: {data.name}, {shards} shards, {kind}, {clients} clients")
                        done = _load(port, "/v1/search", bodies, options, clients=clients)
                        most = done.report.per_second if clients == SATURATING[1] else most
                        measured.append(_row(data.name, shards, kind, f"{clients} clients", done))
                    for share in SHARES:
                        say(f"table: {data.name}, {shards} shards, {kind}, {share:.0%} of {most:.0f} queries a second")
                        done = _load(port, "/v1/search", bodies, options, rate=share * most)
                        measured.append(_row(data.name, shards, kind, f"{share:.0%}: {share * most:.0f}/s", done))
    _print_loads("data", measured)
    return measured


def embeddings(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Encoding over HTTP, by raycol and by PyLate."""
    if options.pylate is None:
        print("embeddings: skipped: no --pylate")
        return []
    if (data := _scifact(options)) is None:
        return []
    from scifact import MODEL

    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for packed in (False, True):
            texts = ({"input": [f"{text} {PLACE}"], "packed": packed} for text in data.texts)
            bodies = _write(Path(folder) / f"{packed}.jsonl", texts)
            with _endpoint(data, 1) as port:
                measured += _encode("raycol" + ", packed" * packed, port, bodies, options)
        # `model` must be the name that the server was started with.
        texts = ({"input": [f"{text} {PLACE}"], "model": str(MODEL)} for text in data.texts)
        bodies = _write(Path(folder) / "pylate.jsonl", texts)
        with _pylate(options.pylate, MODEL) as port:
            measured += _encode("PyLate", port, bodies, options)
    _print_loads("server", measured)
    return measured


def _encode(name: str, port: int, bodies: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for clients in CLIENTS[:3]:
        say(f"embeddings: {name}, {clients} clients")
        done = _load(port, "/v1/embeddings", bodies, options, clients=clients)
        rows.append(_row(name, 1, "texts", f"{clients} clients", done))
    return rows


# Data.


def _all_data(options: argparse.Namespace) -> Iterator[Served]:
    yield _clustered(options)
    if data := _scifact(options):
        yield data


def _clustered(options: argparse.Namespace) -> Served:
    n_tokens = int(options.tokens)
    scaled = folder_of(options.keep, n_tokens)
    if (scaled / "commit.json").exists():  # by benchmarks/scaling.py, which can make large ones
        return Served("clustered", str(scaled / "index"), Corpus(n_tokens).queries(_N_QUERIES), [])
    folder = options.keep / f"serving-{n_tokens}"
    if not (folder / "queries.npy").exists():
        say(f"building an index of {n_tokens:,} tokens")
        in_fresh_process(_build_clustered, folder, n_tokens)
    return Served("clustered", str(folder / "index"), list(np.load(folder / "queries.npy")), [])


def _build_clustered(folder: Path, n_tokens: int) -> None:
    source = Clustered(n_tokens // MEAN_TOKENS)
    documents = (Document(str(number), tokens_TD) for number, (tokens_TD, _) in enumerate(source))
    Index.create(folder / "index", documents, partition_tokens=n_tokens // _PARTITIONS)
    np.save(folder / "queries.npy", clustered_queries(source, _N_QUERIES))


def _scifact(options: argparse.Namespace) -> Served | None:
    from scifact import MODEL, load_scifact, missing

    cache = options.keep / "scifact"
    lacking = missing(cache) or ("" if MODEL.is_dir() else f"no folder {MODEL}; set RAYCOL_MODELS")
    if lacking:
        print(f"SciFact: skipped: {lacking}")
        return None
    data = load_scifact(cache)
    n = options.passages or len(data.dataset.passages)
    uri = options.keep / f"serving-scifact-{n}"
    if not uri.exists():
        say(f"building an index of {n:,} passages of SciFact")
        in_fresh_process(_build_scifact, cache, uri, n)
    return Served("SciFact", str(uri), data.collection.queries, list(data.dataset.queries.values()))


def _build_scifact(cache: Path, uri: Path, n: int) -> None:
    from scifact import MODEL, load_scifact

    from raycol.index.format.manifest import ModelInfo
    from raycol.models.encoder import encoder_fingerprint, load_encoder

    data = load_scifact(cache)
    model = ModelInfo(name=str(MODEL), fingerprint=encoder_fingerprint(load_encoder(MODEL, device="cpu")))
    passages = data.dataset.passages
    documents = (
        Document(passage.id, embedded.embeddings, {"title": passage.title, "text": passage.text})
        for passage, embedded in zip(passages[:n], data.collection.documents(n), strict=True)
    )
    n_tokens = int(data.collection.lengths_N[:n].sum())
    Index.create(uri, documents, partition_tokens=n_tokens // _PARTITIONS, model=model)


def _packed(query_QD: NDArray[np.float32]) -> dict[str, Any]:
    return {"tokens": len(query_QD), "data": base64.b64encode(query_QD.astype("<f4").tobytes()).decode()}


def _search_bodies(folder: Path, data: Served, per_request: int) -> Path:
    batches = _batches(data.queries, per_request)
    bodies = ({"embeddings": [_packed(query) for query in batch], "k": K} for batch in batches)
    return _write(folder / f"embeddings-{per_request}.jsonl", bodies)


def _text_bodies(folder: Path, texts: list[str]) -> Path:
    return _write(folder / "texts.jsonl", ({"query": f"{text} {PLACE}", "k": K} for text in texts))


def _write(path: Path, bodies: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return path


def _batches(queries: Sequence[NDArray[np.float32]], size: int) -> list[list[NDArray[np.float32]]]:
    """Batches of all queries; the last one is filled up with the first queries."""
    return [list(islice(cycle(queries), start, start + size)) for start in range(0, len(queries), size)]


# Endpoints and requests.


@contextmanager
def _endpoint(data: Served, shards: int, *, fill: bool = False) -> Iterator[int]:
    """Run an endpoint and yield its port; with `fill`, it has a replica for each core."""
    replicas = max(1, (os.cpu_count() or 1) // shards) if fill else 1
    say(f"{data.name}: starting {shards} shards of {replicas} replicas")
    with serving(ServeConfig(index=data.uri, shards=shards, replicas=replicas, port=0)) as running:
        yield int(running.url.rsplit(":", 1)[1])


@contextmanager
def _pylate(python: Path, model: Path) -> Iterator[int]:
    """Run PyLate's server and yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "pylate.server.server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model)]
    # Without PYTHONPATH, which may have benchmarks/pylate.py as another module `pylate`.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            for _ in range(120):
                if server.poll() is not None:
                    output.seek(0)
                    sys.exit(f"PyLate's server did not start:\n{output.read().decode()[-2000:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            yield port
        finally:
            server.terminate()
            server.wait()


def _one_by_one(port: int, queries: Sequence[NDArray[np.float32]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Each query's answer and latency in milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for query in queries:
        body = json.dumps({"embeddings": [_packed(query)], "k": K})
        started = time.perf_counter()
        connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
        content = connection.getresponse().read()
        ms = 1000 * (time.perf_counter() - started)
        yield json.loads(content), ms
    connection.close()


def _search_one_by_one(index: Index, queries: Sequence[NDArray[np.float32]]) -> Iterator[tuple[list[Any], float]]:
    for query in queries:
        started = time.perf_counter()
        (hits,) = index.search([query], K, threads=1)
        yield hits, 1000 * (time.perf_counter() - started)


def _search_for(
    index: Index, queries: Sequence[NDArray[np.float32]], per_request: int, seconds: float
) -> tuple[int, float, float]:
    """Number of queries that two threads searched for, wall seconds, and CPU seconds.

    Batches of several are searched one after the other with two threads, single queries by two callers with one each.
    """
    batches = cycle(_batches(queries, per_request))
    callers = 2 if per_request == 1 else 1
    cpu, started = time.process_time(), time.perf_counter()

    def call(_: int) -> int:
        n = 0
        while time.perf_counter() < started + seconds:
            batch = next(batches)
            index.search(batch, K, threads=2 // callers)
            n += len(batch)
        return n

    with ThreadPoolExecutor(callers) as pool:
        n = sum(pool.map(call, range(callers)))
    return n, time.perf_counter() - started, time.process_time() - cpu


@dataclass(frozen=True)
class _Loaded:
    report: Report
    cpu: Counter[str]


_sent = 0


def _load(port: int, path: str, bodies: Path, options: argparse.Namespace, **how: Any) -> _Loaded:
    global _sent
    job = Job(port, path, str(bodies), options.seconds, min(2.0, options.seconds / 5), first_number=_sent, **how)
    with endpoint_cpu() as cpu:
        report = load(job)
    _sent += report.sent
    return _Loaded(report, cpu)


def _row(name: str, shards: int, kind: str, how: str, done: _Loaded) -> dict[str, Any]:
    report = done.report
    quantiles = dict(zip(("p50", "p95", "p99"), _quantiles(report.latencies_ms), strict=True))
    return {
        "name": name, "shards": shards, "queries": kind, "load": how, **quantiles, "per_second": report.per_second,
        "errors": report.errors, "cpu_ms": 1000 * done.cpu.total() / max(1, report.sent), "cpu_s": done.cpu,
        "load_cpu_ms": 1000 * report.cpu_s / max(1, report.sent), "late_ms_p99": _quantiles(report.late_ms)[2],
    }  # fmt: skip


def _print_loads(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """As Markdown."""
    header = [name, "shards", "queries", "load", "p50 ms", "p95", "p99", "a second", "errors"]
    header += ["CPU ms", "load CPU ms", "late p99 ms"]
    print("\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        cells = [row["name"], str(row["shards"]), row["queries"], row["load"], row["p50"], row["p95"], row["p99"],
                 f"{row['per_second']:.0f}", row["errors"], f"{row['cpu_ms']:.2f}", f"{row['load_cpu_ms']:.2f}",
                 row["late_ms_p99"]]  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def _quantiles(ms: Sequence[float]) -> list[str]:
    if not ms:
        return ["-"] * 3
    return [f"{value:.2f}" for value in np.percentile(ms, (50, 95, 99))]


if __name__ == "__main__":
    main()
