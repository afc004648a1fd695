"""Builds and searches a fast-plaid index; run by benchmarks/index.py with a Python that has fast-plaid.

    python fast_plaid_build.py FOLDER --results 11 --queries 100

Reads tokens.npy, lengths.npy, queries.npy and query_lengths.npy from FOLDER; writes peer.json, peer_positions.npy and
peer_scores.npy there. CPU seconds are of `FastPlaid.create` alone, all threads and child processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from fast_plaid import search

NBITS = 4


def main() -> None:
    """Build, measure, search, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=int, required=True)
    parser.add_argument("--queries", type=int, required=True)
    options = parser.parse_args()
    folder: Path = options.folder
    documents = list(torch.split(load(folder / "tokens.npy"), np.load(folder / "lengths.npy").tolist()))
    queries = list(torch.split(load(folder / "queries.npy"), np.load(folder / "query_lengths.npy").tolist()))
    with tempfile.TemporaryDirectory() as first:  # starts threads and loads what is loaded once
        search.FastPlaid(index=first, device="cpu").create(documents[:20], nbits=NBITS)

    place = folder / "fast-plaid"
    engine = search.FastPlaid(index=str(place), device="cpu")
    cpu, wall = cpu_seconds(), time.perf_counter()
    engine.create(documents_embeddings=documents, nbits=NBITS)
    result = {
        "version": version("fast-plaid"),
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_bytes": peak_memory(),
        "bytes": sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
    }
    wall = time.perf_counter()
    found = engine.search(queries[: options.queries], top_k=options.results, show_progress=False)
    result["search_s"] = time.perf_counter() - wall
    positions = np.full((len(found), options.results), -1, dtype=np.int64)
    scores = np.full((len(found), options.results), -np.inf, dtype=np.float32)
    for row, hits in enumerate(found):
        positions[row, : len(hits)] = [position for position, _ in hits]
        scores[row, : len(hits)] = [score for _, score in hits]
    np.save(folder / "peer_positions.npy", positions)
    np.save(folder / "peer_scores.npy", scores)
    (folder / "peer.json").write_text(json.dumps(result))


def load(path: Path) -> torch.Tensor:
    """An array as a tensor over the same memory."""
    return torch.from_numpy(np.load(path))


def cpu_seconds() -> float:
    """CPU time of this process and its children."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes (see benchmarks/measure.py)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
