"""Measure an index that grows by many small appends, and indexes of many partitions.

    python benchmarks/appends.py appends --keep FOLDER [--appends 200] [--documents 20] [--picture]
    python benchmarks/appends.py partitions --keep FOLDER [--numbers 1e3,1e4,2e4]

appends     an index of 20,000 clustered documents (clustered.py) and so many appends of so many documents to it, with
            searches after each; the number of partitions, and what a search and an append take, and what a search
            takes once all is compacted. --picture draws docs/img/appends.svg.
partitions  indexes of one document a partition, made by lowering `partition_tokens`: what opening one takes, the first
            search, later searches, an append, a delete; memory maps and bytes of the manifest.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from clustered import DIM, MEAN_TOKENS, Clustered, clustered_queries
from measure import in_fresh_process, measured, print_table, processor, say

from raycol.index import Document, Index

_BASE_DOCUMENTS = 20_000
_QUERIES = 20
IMAGES = Path(__file__).parents[1] / "docs" / "img"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["appends", "partitions"], metavar="DATA")
    parser.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--appends", type=int, default=200, help="number of appends (200)")
    parser.add_argument("--documents", type=int, default=20, help="documents of each (20)")
    parser.add_argument("--numbers", default="1e3,1e4,2e4", help="numbers of partitions (1e3,1e4,2e4)")
    parser.add_argument("--picture", action="store_true", help="draw into docs/img")
    options = parser.parse_args()
    print(processor())
    for name in options.data:
        {"appends": appends, "partitions": partitions}[name](options)


def appends(options: argparse.Namespace) -> None:
    """Grow an index by small appends."""
    grown = in_fresh_process(_append, options.keep / "appended", options.appends, options.documents)
    print(f"{_BASE_DOCUMENTS:,} documents of {MEAN_TOKENS} tokens; {options.appends} appends of {options.documents}")
    step = max(1, options.appends // 10)
    rows = [
        [str(row["append"]), str(row["partitions"]), f"{row['append_ms']:.0f}", f"{row['search_ms']:.2f}"]
        for row in grown["rows"]
        if row["append"] % step == 0
    ]
    print_table(["append", "partitions", "append, ms", "search, CPU ms"], rows)
    times = [row["append_ms"] for row in grown["rows"][1:]]
    print(f"an append: median {np.median(times):.0f} ms, the longest {max(times):.0f}; "
          f"at most {max(row['partitions'] for row in grown['rows'])} partitions; "
          f"tokens written, over tokens appended: {grown['rewritten']:.1f}")  # fmt: skip
    print(f"compacted: {grown['whole_partitions']} partitions, {grown['whole_ms']:.2f} CPU ms a search; "
          f"the same hits: {grown['same_hits']}")  # fmt: skip
    if options.picture:
        _draw(grown["rows"])


def _append(uri: Path, n_appends: int, n_documents: int) -> dict[str, Any]:
    shutil.rmtree(uri, ignore_errors=True)
    total = _BASE_DOCUMENTS + n_appends * n_documents
    source = Clustered(total)
    documents = (Document(str(number), tokens_TD) for number, (tokens_TD, _) in enumerate(source))
    queries = clustered_queries(source, _QUERIES)
    say("building")
    index = Index.create(uri, islice(documents, _BASE_DOCUMENTS))
    rows = [
        {"append": 0, "partitions": len(index.partitions), "append_ms": 0.0, "search_ms": _search_ms(index, queries)}
    ]
    known, written, appended = {info.name for info in index.manifest.partitions}, 0, 0
    for number in range(1, n_appends + 1):
        batch = list(islice(documents, n_documents))
        started = time.perf_counter()
        index.append(batch)
        append_ms = 1000 * (time.perf_counter() - started)
        new = [info for info in index.manifest.partitions if info.name not in known]
        known |= {info.name for info in new}
        tokens = sum(len(document.embeddings) for document in batch)
        # A merge writes the new partition first.
        written += sum(info.tokens for info in new) + (tokens if new[-1].tokens > tokens else 0)
        appended += tokens
        rows.append({"append": number, "partitions": len(index.partitions), "append_ms": append_ms,
                     "search_ms": _search_ms(index, queries)})  # fmt: skip
    found = index.search(queries)
    say("compacting a copy")
    whole_uri = uri.with_name("whole")
    shutil.rmtree(whole_uri, ignore_errors=True)
    whole = Index.open(shutil.copytree(uri, whole_uri))
    whole.compact(1 << 30)
    return {"rows": rows, "rewritten": written / appended, "whole_partitions": len(whole.partitions),
            "whole_ms": _search_ms(whole, queries), "same_hits": whole.search(queries) == found}  # fmt: skip


def _search_ms(index: Index, queries: list[np.ndarray]) -> float:
    """Median CPU of a search, the first of which joins lists and is not counted."""
    index.search(queries[:1], threads=1)
    costs = []
    for query in queries:
        with measured() as cost:
            index.search([query], threads=1)
        costs.append(1000 * cost.cpu_s)
    return float(np.median(costs))


def partitions(options: argparse.Namespace) -> None:
    """Open and search indexes of many partitions."""
    rows = []
    for number in (int(float(text)) for text in options.numbers.split(",")):
        uri = options.keep / f"partitions-{number}"
        if not uri.exists():
            say(f"creating {number:,} partitions")
            in_fresh_process(_create, uri, number)
        rows.append(in_fresh_process(_open, uri))
    header = [
        "partitions",
        "open, s",
        "first search, s",
        "search, ms",
        "append, s",
        "search after it, ms",
        "delete, s",
    ]
    print_table([*header, "maps", "MiB", "manifest, B a partition"], rows)


def _create(uri: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    documents = (Document(f"d{n:06d}", rng.standard_normal((20, DIM), dtype=np.float32)) for n in range(number))
    Index.create(uri, documents, n_centroids=1024, partition_tokens=20)


def _open(uri: Path) -> list[str]:
    rng = np.random.default_rng(1)
    query = rng.standard_normal((32, DIM), dtype=np.float32)
    with measured() as opening:
        index = Index.open(uri)
    with measured() as first:
        index.search([query])
    with measured() as searching:
        for _ in range(10):
            index.search([query], threads=1)
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    n_partitions = len(index.partitions)
    with measured() as appending:
        index.append([Document("new", rng.standard_normal((20, DIM), dtype=np.float32))])
    with measured() as again:
        index.search([query])
    with measured() as deleting:
        index.delete(["new"])
    index.vacuum(keep=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return [f"{n_partitions:,}", f"{opening.cpu_s:.2f}", f"{first.cpu_s:.2f}", f"{100 * searching.cpu_s:.1f}",
            f"{appending.wall_s:.2f}", f"{1000 * again.cpu_s:.0f}", f"{deleting.wall_s:.2f}", f"{maps:,}", f"{peak:,}",
            f"{index.manifest.size / n_partitions:.0f}"]  # fmt: skip


def _draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "raycol"
    figure, axes = plt.subplots(3, 1, figsize=(7, 6), sharex=True, layout="constrained")
    for each, key, label in zip(
        axes, ("partitions", "append_ms", "search_ms"), ("partitions", "append, ms", "search, CPU ms"), strict=True
    ):
        each.plot([row["append"] for row in rows[1:]], [row[key] for row in rows[1:]])
        each.set(ylabel=label, ylim=(0, None))
        each.grid(visible=True, alpha=0.3)
    axes[-1].set(xlabel="append")
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / "appends.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
