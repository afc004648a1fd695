"""Measure the index: the cost of building it, its bytes, and its recall.

    python benchmarks/index.py synthetic [--peer PYTHON]   build cost, bytes a token, recall on clustered vectors
    python benchmarks/index.py scifact [--peer PYTHON]     bytes a token, recall and nDCG on real embeddings
    python benchmarks/index.py open                        time to open an index, by its size
    python benchmarks/index.py memory                      peak memory of a build, by its size
    python benchmarks/index.py assign                      assigning centroids: cost, agreement with brute force

PYTHON is an interpreter with fast-plaid, which is measured in the same run (benchmarks/peers/README.md). Embeddings
and indexes take up to 14 GB in a temporary folder (TMPDIR); `--keep FOLDER` keeps them, the peer's index included, for
`benchmarks/search.py`.

CPU seconds are of all threads of the building process, from documents in memory to an open index. Peak memory is the
process's, documents included. Bytes are of all files of the index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from clustered import DIM, MEAN_TOKENS, Clustered, clustered
from collection import Collection, Found, best_of
from engines import DEPTH, Measured, measure_peer, measure_raycol
from measure import Cost, gib, in_fresh_process, measured, print_table, say
from numpy.typing import NDArray

from raycol.index import Document, Index
from raycol.index.codec.nearest import NearestCentroid
from raycol.index.codec.training import train_codebook

OPEN_REPEATS = 5
OPEN_CENTROIDS = 1024
OPEN_DOCUMENT_TOKENS = 64
ASSIGNED_TOKENS = 100_000


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    engines = argparse.ArgumentParser(add_help=False)
    engines.add_argument("--bits", type=_numbers, default=(4, 2), help="bits a dimension, with commas (4,2)")
    engines.add_argument("--peer", type=_interpreter, metavar="PYTHON", help="an interpreter that has fast-plaid")
    engines.add_argument("--keep", type=Path, metavar="FOLDER", help="keep embeddings and the peer's index here")

    verb = verbs.add_parser("synthetic", parents=[engines], help="cost, size and recall on clustered vectors")
    verb.add_argument("--documents", type=int, default=50_000, help=f"{MEAN_TOKENS} tokens each, about (50000)")
    verb.add_argument("--queries", type=int, default=100, help="(100)")
    verb.set_defaults(run=synthetic)

    verb = verbs.add_parser("scifact", parents=[engines], help="size, recall and nDCG on real embeddings")
    verb.add_argument("--cache", type=Path, metavar="FOLDER", help="where embeddings are kept from run to run")
    verb.add_argument("--peer-queries", type=int, help="search the peer for so many queries only (all)")
    verb.set_defaults(run=scifact)

    verb = verbs.add_parser("open", help="time to open an index")
    verb.add_argument("--tokens", type=int, default=20_000_000, help="measured for these and a tenth (20000000)")
    verb.set_defaults(run=open_)

    verb = verbs.add_parser("memory", help="peak memory of a build")
    verb.add_argument("--tokens", type=_numbers, default=(5_000_000, 20_000_000), help="(5000000,20000000)")
    verb.set_defaults(run=memory)

    verb = verbs.add_parser("assign", help="finding tokens' centroids")
    verb.add_argument("--documents", type=int, default=50_000, help=f"{MEAN_TOKENS} tokens each, about (50000)")
    verb.add_argument("--centroids", type=int, default=16384, help="(16384)")
    verb.set_defaults(run=assign)

    options = parser.parse_args()
    options.run(options)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _interpreter(text: str) -> Path:
    if not os.access(text, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text}: no program there (benchmarks/peers/README.md says how to make it)")
    return Path(text)


def synthetic(options: argparse.Namespace) -> None:
    """Build cost, bytes a token and recall on clustered vectors, compared with the peer."""
    say("generating")
    collection = clustered(options.documents, options.queries)
    results, truth_MN = _compare(collection, options.bits, options.peer, options.keep)
    _print_size(collection)
    print_table(
        ["", *_COST_HEADER, "recall@10 exact", "recall@10 search"],
        [[_name(result), *_cost_cells(result), *_recalls(result, truth_MN)] for result in results],
    )
    if options.peer:
        *ours, peer = results
        for result in ours:
            ratio = result.built.cost.cpu_s / peer.built.cost.cpu_s
            print(f"CPU seconds of {_name(result)}, over {_name(peer)}: {ratio:.3f}")


def scifact(options: argparse.Namespace) -> None:
    """Bytes a token, recall and nDCG on SciFact, compared with the peer."""
    from scifact import load_scifact, missing

    if lacking := missing(options.cache):
        print(f"scifact: skipped: {lacking}")
        return
    data = load_scifact(options.cache)
    results, truth_MN = _compare(data.collection, options.bits, options.peer, options.keep, options.peer_queries)
    _print_size(data.collection)

    def ndcg(found: Found | None) -> str:
        whole = found is not None and len(found.positions_MK) == len(data.collection.queries)
        return f"{data.ndcg(found):.4f}" if found and whole else "-"

    blank = [""] * len(_COST_HEADER)
    print_table(
        ["", *_COST_HEADER, "recall@10 exact", "recall@10 search", "nDCG@10 exact", "nDCG@10 search"],
        [
            ["MaxSim, float32", *blank, "", "", ndcg(best_of(truth_MN, DEPTH)), ""],
            *(
                [
                    _name(result),
                    *_cost_cells(result),
                    *_recalls(result, truth_MN),
                    ndcg(result.exact),
                    ndcg(result.search),
                ]
                for result in results
            ),
        ],
    )
    if options.peer and options.peer_queries:
        print(f"recall of {_name(results[-1])} over the first {options.peer_queries} queries")


_COST_HEADER = ("build CPU s", "wall s", "peak GiB", "bytes/token")


def _compare(
    collection: Collection, bits: Sequence[int], peer: Path | None, keep: Path | None, peer_queries: int | None = None
) -> tuple[list[Measured], NDArray[np.float32]]:
    """Every engine's figures, the peer's last, and exact MaxSim of every query with every document."""
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        collection.save(folder)
        for each in bits:
            shutil.rmtree(folder / f"raycol-{each}", ignore_errors=True)
        results = [measure_raycol(folder, collection, each) for each in bits]
        if peer:
            results.append(measure_peer(folder, collection, peer, peer_queries))
    say("scoring every document in full precision")
    return results, collection.maxsim()


def _print_size(collection: Collection) -> None:
    n_tokens, dim = collection.tokens_TD.shape
    print(
        f"{len(collection.lengths_N):,} documents, {n_tokens:,} tokens of {dim} dimensions "
        f"({gib(collection.tokens_TD.nbytes)} GiB), {len(collection.queries)} queries, {os.cpu_count()} cores"
    )


def _cost_cells(result: Measured) -> list[str]:
    cost = result.built.cost
    return [f"{cost.cpu_s:.1f}", f"{cost.wall_s:.1f}", gib(cost.peak_bytes), f"{result.built.bytes_per_token:.2f}"]


def _name(result: Measured) -> str:
    return result.built.name + " (built earlier)" * result.built.earlier


def _recalls(result: Measured, truth_MN: NDArray[np.float32]) -> list[str]:
    return [f"{found.recall(truth_MN):.4f}" if found else "-" for found in (result.exact, result.search)]


def open_(options: argparse.Namespace) -> None:
    """Median time of `Index.open` in fresh processes, imports excluded, files in the page cache."""
    rows = []
    for n_tokens in (options.tokens // 10, options.tokens):
        with tempfile.TemporaryDirectory() as name:
            uri = Path(name) / "index"
            say(f"building an index of {n_tokens:,} tokens")
            in_fresh_process(_build_random, uri, n_tokens)
            times = [in_fresh_process(_time_open, uri) for _ in range(OPEN_REPEATS)]
            partitions = len(Index.open(uri).partitions)
        rows.append([f"{n_tokens:,}", str(partitions), f"{1000 * statistics.median(times):.1f}"])
    print_table(["tokens", "partitions", "open ms"], rows)


def _build_random(uri: Path, n_tokens: int) -> None:
    rng = np.random.default_rng(0)

    def documents() -> Iterator[Document]:
        for number in range(n_tokens // OPEN_DOCUMENT_TOKENS):
            tokens_TD = rng.standard_normal((OPEN_DOCUMENT_TOKENS, DIM), dtype=np.float32)
            yield Document(str(number), tokens_TD / np.linalg.norm(tokens_TD, axis=1, keepdims=True))

    Index.create(uri, documents(), n_centroids=OPEN_CENTROIDS)


def _time_open(uri: Path) -> float:
    started = time.perf_counter()
    Index.open(uri)
    return time.perf_counter() - started


def memory(options: argparse.Namespace) -> None:
    """Peak memory of `Index.create` over documents that are generated lazily."""
    costs = []
    for n_tokens in options.tokens:
        say(f"building an index of {n_tokens:,} tokens")
        costs.append(in_fresh_process(_build_clustered, n_tokens))
    print_table(
        ["tokens", "peak GiB", "over the first", "CPU s, generating included"],
        [
            [
                f"{n_tokens:,}",
                gib(cost.peak_bytes),
                f"{cost.peak_bytes / costs[0].peak_bytes:.2f}",
                f"{cost.cpu_s:.0f}",
            ]
            for n_tokens, cost in zip(options.tokens, costs, strict=True)
        ],
    )


def _build_clustered(n_tokens: int) -> Cost:
    source = Clustered(n_tokens // MEAN_TOKENS)
    documents = (Document(str(number), tokens_TD) for number, (tokens_TD, _) in enumerate(source))
    with tempfile.TemporaryDirectory() as name, measured() as cost:
        Index.create(Path(name) / "index", documents)
    return cost


def assign(options: argparse.Namespace) -> None:
    """Cost and agreement of `NearestCentroid`, on tokens that the codebook was not trained on."""
    import faiss

    tokens_TD = clustered(options.documents, 0).tokens_TD
    n_measured = min(ASSIGNED_TOKENS, len(tokens_TD) // 10)
    say(f"training {options.centroids} centroids on {len(tokens_TD) - n_measured:,} tokens")
    sample_TD, tokens_TD = tokens_TD[:-n_measured], tokens_TD[-n_measured:]
    centroids_KD = train_codebook(sample_TD, bits=4, n_centroids=options.centroids, seed=0).centroids_KD
    exhaustive = faiss.IndexFlatIP(DIM)
    exhaustive.add(centroids_KD)
    nearest = NearestCentroid(centroids_KD)
    nearest(tokens_TD[:1000])
    with measured() as true_cost:
        true_T = exhaustive.search(tokens_TD, 1)[1][:, 0]
    with measured() as cost:
        found_T = nearest(tokens_TD)
    rows = []
    for name, each, code_T in (("exhaustive (faiss)", true_cost, true_T), ("NearestCentroid", cost, found_T)):
        cosine = np.einsum("td,td->t", tokens_TD, centroids_KD[code_T]).mean()
        seconds = each.cpu_s / n_measured * 1e6
        rows.append([name, f"{seconds:.1f}", f"{(code_T == true_T).mean():.4f}", f"{cosine:.5f}"])
    print(f"{options.centroids} centroids, {n_measured:,} tokens of {DIM} dimensions")
    print_table(["", "CPU s/M tokens", "agreement", "mean cosine"], rows)
    print(f"CPU seconds, over exhaustive: {cost.cpu_s / true_cost.cpu_s:.3f}")


if __name__ == "__main__":
    main()
