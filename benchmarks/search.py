"""Measure searching: CPU time, recall and nDCG of raycol and other engines, one thread each, in one run.

    python benchmarks/search.py [synthetic] [scifact] [growth] [short] [partitions] --keep FOLDER [--peers PYTHON]

synthetic  50,000 clustered documents of 60 tokens, 128 dimensions (clustered.py)
scifact    SciFact in embeddings of answerai-colbert-small-v1 (scifact.py)
growth     clustered documents at several sizes, raycol only; recall against `Index.exact`
short      1, 2, 3, 4 and 8 tokens of the queries of synthetic and scifact, from the first word on, as growth
partitions the documents of synthetic in 3 and in 97 partitions, and in 97 with lists of their own, as growth

PYTHON is an interpreter with fast-plaid and xtr-warp-rs (benchmarks/peers/README.md). FOLDER keeps embeddings and
indexes; an existing one is reused, and the table marks its cost with a star. Engines alternate, and each query is
searched by itself, for 11 hits and once for 100. With default settings every engine searches for all queries in the
first round; in later rounds, and with other settings, a slow engine searches for the first --slow-queries only. Recall
is against exact MaxSim over the original embeddings. CPU and peak memory are of the searching process.

Results go to FOLDER/search-*.json, and with --pictures a plot of recall against CPU goes to docs/img/.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from clustered import MEAN_TOKENS, Clustered, clustered, clustered_queries
from collection import Collection, Found, best_of
from engines import Built, Peer, build_peer, found_by_peer, peer
from measure import Cost, gib, in_fresh_process, measured, peak_memory, print_table, say
from numpy.typing import NDArray
from scifact import SciFact, load_scifact, missing

from raycol.index import Document, Hit, Index
from raycol.index.format import lists
from raycol.index.search.effort import EFFORTS, Effort
from raycol.index.write.tune import recall_of

# Hits per query: of timed searches, and for recall@100. One more than needed, since a query may find itself.
TOP = 11
DEPTH = 100
IMAGES = Path(__file__).parents[1] / "docs" / "img"

# Settings besides the defaults, for the picture.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "raycol": [
        {"effort": "fast"},
        {"effort": "thorough"},
        *(
            {"n_probe": n_probe, "n_rescore": n_rescore}
            for n_probe, n_rescore in ((1, 16), (2, 32), (4, 64), (8, 64), (16, 128), (64, 1024))
        ),
    ],
    "fast_plaid": [{"n_ivf_probe": 4, "n_full_scores": 1024}, {"n_ivf_probe": 8, "n_full_scores": 8192}],
    "xtr_warp": [{"nprobe": 32, "t_prime": 100_000}],
    "maxsim": [],
}
SLOW = ("fast_plaid", "maxsim")


@dataclass
class Searched:
    """One engine with one set of settings: its answers, and CPU milliseconds of every query in every round."""

    engine: str
    name: str
    settings: dict[str, Any]
    built: Built | None
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    deep_cpu_ms: list[float] = field(default_factory=list)
    found: Found | None = None
    deep: Found | None = None
    peak_bytes: int = 0

    def ask(self, opened: Peer, n_queries: int) -> None:
        """Run one more round; the first also searches for the hits that recall@100 needs."""
        answer = opened.search(0, n_queries, TOP, **self.settings)
        self.cpu_ms += answer["cpu_ms"]
        self.wall_ms += answer["wall_ms"]
        if self.found is None or n_queries > len(self.found.positions_MK):
            self.found = found_by_peer(answer)
            deep = opened.search(0, n_queries, DEPTH, **self.settings)
            self.deep, self.deep_cpu_ms = found_by_peer(deep), deep["cpu_ms"]
        self.peak_bytes = answer["peak_bytes"][0]

    @property
    def median_ms(self) -> float:
        """Median CPU milliseconds."""
        return float(np.median(self.cpu_ms))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["synthetic", "scifact", "growth"], metavar="DATA")
    parser.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--peers", type=Path, metavar="PYTHON")
    parser.add_argument("--engines", default="fast_plaid,xtr_warp", help="which peers (fast_plaid,xtr_warp)")
    parser.add_argument("--rounds", type=int, default=3, help="times that engines take turns (3)")
    parser.add_argument("--slow-queries", type=int, default=20, help="queries a round for slow engines (20)")
    parser.add_argument("--documents", type=int, default=50_000, help="of the synthetic data (50000)")
    parser.add_argument("--tokens", default="1e3,1e4,1e5,1e6,3e6,1e7,5e7", help="sizes for growth")
    parser.add_argument("--pictures", action="store_true", help="draw into docs/img")
    options = parser.parse_args()
    for name in options.data:
        {"synthetic": synthetic, "scifact": scifact, "growth": growth, "short": short, "partitions": partitions}[name](
            options
        )


def synthetic(options: argparse.Namespace) -> None:
    """Clustered vectors."""
    _compare("synthetic", _synthetic_folder(options), options)


def _synthetic_folder(options: argparse.Namespace) -> Path:
    folder: Path = options.keep / "synthetic"
    if not (folder / "tokens.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        say("generating")
        clustered(options.documents, 100).save(folder)
    return folder


def scifact(options: argparse.Namespace) -> None:
    """Real embeddings."""
    if data := _scifact(options):
        _compare("scifact", options.keep / "scifact", options, data)


def _scifact(options: argparse.Namespace) -> SciFact | None:
    """SciFact, its embeddings saved in the folder; None if it is missing."""
    folder = options.keep / "scifact"
    if lacking := missing(folder):
        print(f"scifact: skipped: {lacking}")
        return None
    data = load_scifact(folder)
    data.collection.save(folder)
    return data


def short(options: argparse.Namespace) -> None:
    """Queries of few tokens: recall against `Index.exact`, on the same codes, and CPU."""
    folders = [_synthetic_folder(options), *([options.keep / "scifact"] if _scifact(options) else [])]
    rows = []
    for folder in folders:
        collection = Collection.load(folder)
        first = 2 if folder.name == "scifact" else 0  # [CLS] and [Q] say nothing alone
        index = _opened(collection, folder / "raycol-index")
        for n_tokens in (1, 2, 3, 4, 8):
            queries = [query_QD[first : first + n_tokens] for query_QD in collection.queries[:100]]
            exact = index.exact(queries, 10)
            row = [folder.name, str(n_tokens)]
            for effort in EFFORTS:
                found, cpu_ms = _searched(index, queries, effort, options.rounds)
                row.append(f"{cpu_ms:.2f}, {recall_of(found, exact):.3f}")
            rows.append(row)
    print_table(["data", "query tokens", *(f"{effort}: CPU ms, recall@10" for effort in EFFORTS)], rows)


def partitions(options: argparse.Namespace) -> None:
    """The same documents in few partitions and in many, and in many with lists of their own."""
    folder = _synthetic_folder(options)
    collection = Collection.load(folder)
    n_tokens = len(collection.tokens_TD)
    usual, opened = lists.STORED_TOKENS, {}
    for name, count, stored in (("few", 3, usual), ("many", 97, usual), ("many, not joined", 97, 0)):
        lists.STORED_TOKENS = stored
        size = -(-n_tokens // (count - 1))
        opened[name] = _opened(collection, folder / f"in-{count}{'' if stored else '-lists'}", partition_tokens=size)
    costs: dict[str, list[float]] = {name: [] for name in opened}
    for _ in range(options.rounds):
        for name, index in opened.items():
            costs[name].append(_searched(index, collection.queries, "default", 1)[1])
    least = {name: min(each) for name, each in costs.items()}
    stats = {name: index.stats() for name, index in opened.items()}
    rows = [
        [name, str(stats[name].partitions), f"{stats[name].bytes_per_token:.1f}", f"{ms:.2f}"]
        for name, ms in least.items()
    ]
    print_table(["", "partitions", "bytes/token", "CPU ms"], rows)
    extra_us = 1000 * (least["many, not joined"] - least["few"])
    more = stats["many, not joined"].partitions - stats["few"].partitions
    print(
        f"many over few: {least['many'] / least['few']:.2f}; a partition that is not joined: {extra_us / more:.1f} us"
    )


def _opened(collection: Collection, uri: Path, **settings: Any) -> Index:
    if not uri.exists():
        say(f"building {uri}")
        Index.create(uri, collection.documents(), **settings)
    return Index.open(uri)


def _searched(
    index: Index, queries: list[NDArray[np.float32]], effort: Effort, rounds: int
) -> tuple[list[list[Hit]], float]:
    """The hits of each query, and the median over queries of the least CPU milliseconds of several rounds."""
    found = index.search(queries, effort=effort, threads=1)
    cpu_ms = np.empty((rounds, len(queries)))
    for round_ in range(rounds):
        for number, query in enumerate(queries):
            with measured() as cost:
                index.search([query], effort=effort)
            cpu_ms[round_, number] = 1000 * cost.cpu_s
    return found, float(np.median(cpu_ms.min(axis=0)))


def _compare(name: str, folder: Path, options: argparse.Namespace, data: Any = None) -> None:
    collection = Collection.load(folder)
    n_queries = len(collection.queries)
    truth_MN = _truth(folder, collection)
    pythons = {"raycol": Path(sys.executable), "maxsim": Path(sys.executable)}
    if options.peers:
        pythons |= dict.fromkeys(options.engines.split(","), options.peers)
    built = {each: build_peer(folder, pythons[each], each) for each in pythons if each != "maxsim"}
    defaults, others = [], []
    with ExitStack() as stack:
        opened = {each: stack.enter_context(peer(folder, python, each)) for each, python in pythons.items()}
        for each in opened:
            defaults.append(Searched(each, opened[each].name, {}, built.get(each)))
            others += [Searched(each, opened[each].name, chosen, built.get(each)) for chosen in SETTINGS[each]]
        for round_ in range(options.rounds):
            say(f"{name}: round {round_ + 1} of {options.rounds}")
            for searched in defaults:
                slow = searched.engine in SLOW and round_ > 0
                searched.ask(opened[searched.engine], min(n_queries, options.slow_queries) if slow else n_queries)
        for searched in others:
            slow = searched.engine in SLOW
            searched.ask(opened[searched.engine], min(n_queries, options.slow_queries) if slow else n_queries)
    header = ["", "queries", "CPU ms", "p95", "recall@10", f"CPU ms, {DEPTH} hits", "recall@100"]
    header += ["nDCG@10"] * (data is not None) + ["build CPU s", "bytes/token", "peak GiB"]
    rows = [_row(searched, truth_MN, data) for searched in (*defaults, *others)]
    if data:
        exact = best_of(truth_MN, DEPTH)
        print(f"nDCG@10 of exact MaxSim over the original embeddings: {data.ndcg(exact):.4f}")
    print(f"{len(collection.lengths_N):,} documents, {len(collection.tokens_TD):,} tokens, {n_queries} queries")
    print_table(header, rows)
    ours = defaults[0]
    for searched in defaults[1:]:
        print(f"CPU of {searched.name} over raycol's: {searched.median_ms / ours.median_ms:.1f}")
    _keep(options.keep / f"search-{name}.json", [*defaults, *others], truth_MN)
    if options.pictures:
        _draw(name, [*defaults, *others], truth_MN)


def _truth(folder: Path, collection: Collection) -> NDArray[np.float32]:
    """Exact MaxSim of every query with every document, cached in the folder."""
    place = folder / "truth.npy"
    if not place.exists():
        say("scoring every document in full precision")
        np.save(place, collection.maxsim())
    truth_MN: NDArray[np.float32] = np.load(place)
    return truth_MN


def _row(searched: Searched, truth_MN: NDArray[np.float32], data: Any) -> list[str]:
    assert searched.found
    assert searched.deep
    name = searched.name + "".join(f", {key} {value}" for key, value in searched.settings.items())
    found, built = searched.found, searched.built
    row = [
        name,
        str(len(found.positions_MK)),
        f"{searched.median_ms:.2f}",
        f"{np.percentile(searched.cpu_ms, 95):.2f}",
        f"{found.recall(truth_MN, 10):.4f}",
        f"{np.median(searched.deep_cpu_ms):.2f}",
        f"{searched.deep.recall(truth_MN, 100):.4f}",
    ]
    if data:
        row.append(f"{data.ndcg(found):.4f}" if len(found.positions_MK) == len(truth_MN) else "-")
    if built is None:
        return [*row, "-", "-", gib(searched.peak_bytes)]
    cost = f"{built.cost.cpu_s:.0f}" + "*" * built.earlier
    return [*row, cost, f"{built.bytes_per_token:.1f}", gib(searched.peak_bytes)]


def _keep(place: Path, all_searched: list[Searched], truth_MN: NDArray[np.float32]) -> None:
    place.write_text(
        json.dumps(
            [
                {
                    "engine": searched.name,
                    "settings": searched.settings,
                    "cpu_ms": searched.cpu_ms,
                    "wall_ms": searched.wall_ms,
                    "deep_cpu_ms": searched.deep_cpu_ms,
                    "recall@10": searched.found.recall(truth_MN, 10),
                    "recall@100": searched.deep.recall(truth_MN, 100),
                    "peak_bytes": searched.peak_bytes,
                    "build_cpu_s": searched.built.cost.cpu_s if searched.built else None,
                    "built_earlier": searched.built.earlier if searched.built else None,
                    "bytes_per_token": searched.built.bytes_per_token if searched.built else None,
                }
                for searched in all_searched
                if searched.found and searched.deep
            ],
            indent=1,
        )
    )


def _draw(name: str, all_searched: list[Searched], truth_MN: NDArray[np.float32]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "raycol"
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for engine in dict.fromkeys(searched.name for searched in all_searched):
        points = sorted(
            (searched.median_ms, searched.found.recall(truth_MN, 10))
            for searched in all_searched
            if searched.name == engine and searched.found
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=engine)
    axes.set(xscale="log", xlabel="CPU milliseconds a query, one thread", ylabel="recall@10", title=name)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"search-{name}.svg", metadata={"Date": None})
    plt.close(figure)


def growth(options: argparse.Namespace) -> None:
    """Cost of a query by the size of the index, for each effort."""
    grown: list[dict[str, Any]] = []
    for n_tokens in (int(float(size)) for size in options.tokens.split(",")):
        uri = options.keep / f"growth-{n_tokens}"
        report = uri.with_suffix(".json")
        if not report.exists():
            say(f"building an index of {n_tokens:,} tokens")
            report.write_text(json.dumps(asdict(in_fresh_process(_build_clustered, uri, n_tokens))))
        say(f"{n_tokens:,} tokens: searching")
        build = json.loads(report.read_text())
        grown += in_fresh_process(_grown, uri, n_tokens, options.rounds, build["cpu_s"])
    (options.keep / "search-growth.json").write_text(json.dumps(grown, indent=1))
    header = ["tokens", "centroids", "effort", "CPU ms", "p95", "recall@10", "recall@100", "exact CPU ms"]
    rows = [
        [
            f"{row['tokens']:,}", f"{row['centroids']:,}", row["effort"], f"{np.median(row['cpu_ms']):.2f}",
            f"{np.percentile(row['cpu_ms'], 95):.2f}", f"{row['recall@10']:.4f}", f"{row['recall@100']:.4f}",
            f"{row['exact_cpu_ms']:.0f}", f"{row['build_cpu_s']:.0f}", f"{row['bytes_per_token']:.1f}",
            gib(row["peak_bytes"]),
        ]
        for row in grown
    ]  # fmt: skip
    print_table([*header, "build CPU s", "bytes/token", "peak GiB"], rows)
    print("recall is against Index.exact, on the same codes")


def _build_clustered(uri: Path, n_tokens: int) -> Cost:
    source = Clustered(max(1, n_tokens // MEAN_TOKENS))
    with measured() as cost:
        Index.create(uri, (Document(str(number), tokens_TD) for number, (tokens_TD, _) in enumerate(source)))
    return cost


def _grown(uri: Path, n_tokens: int, rounds: int, build_cpu_s: float) -> list[dict[str, Any]]:
    n_queries = 50 if n_tokens < 30_000_000 else 20  # `exact` takes seconds a query
    queries = clustered_queries(Clustered(max(1, n_tokens // MEAN_TOKENS)), n_queries)
    index = Index.open(uri)
    cpu_ms: dict[Effort, list[float]] = {effort: [] for effort in EFFORTS}
    for round_ in range(rounds + 1):
        for query in queries if round_ else queries[:2]:  # warm-up: checks the index and compiles the kernels
            for effort, costs in cpu_ms.items():
                with measured() as cost:
                    index.search([query], effort=effort)
                costs += [1000 * cost.cpu_s] * (round_ > 0)
    peak_bytes = peak_memory()
    with measured() as exact_cost:
        exact = index.exact(queries, DEPTH)
    stats = index.stats()
    return [
        {
            "tokens": stats.tokens,
            "centroids": stats.n_centroids,
            "effort": effort,
            "cpu_ms": costs,
            "recall@10": recall_of(index.search(queries, effort=effort), [hits[:10] for hits in exact]),
            "recall@100": recall_of(index.search(queries, DEPTH, effort=effort), exact),
            "exact_cpu_ms": 1000 * exact_cost.cpu_s / n_queries,
            "build_cpu_s": build_cpu_s,
            "bytes_per_token": stats.bytes_per_token,
            "peak_bytes": peak_bytes,
        }
        for effort, costs in cpu_ms.items()
    ]


if __name__ == "__main__":
    main()
