"""Builds and searches the index of an engine; run by benchmarks/ with a Python that has the engine.

    python peer.py ENGINE build FOLDER     ENGINE is raycol, maxsim, fast_plaid or xtr_warp
    python peer.py ENGINE serve FOLDER

FOLDER holds tokens.npy, lengths.npy, queries.npy and query_lengths.npy. `build` puts the index into FOLDER/ENGINE and
what it cost into FOLDER/ENGINE.json: CPU seconds are of building alone, all threads and child processes. `serve`
searches on one thread: each line of its input is JSON, {"first", "last", "k", "settings"}, and is answered by a line
{"cpu_ms", "wall_ms", "positions", "scores", "peak_bytes"} with a row for each of these queries, searched one at a
time; with "together" they are searched in one call, and the costs are their shares of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["raycol", "maxsim", "fast_plaid", "xtr_warp"])
    parser.add_argument("verb", choices=["build", "serve"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    engine = importlib.import_module(f"{options.engine}_engine")
    place = options.folder / options.engine
    if options.verb == "build":
        (options.folder / f"{options.engine}.json").write_text(json.dumps(build(engine, options.folder, place)))
    else:
        serve(engine, options.folder, place)


def build(engine: Any, folder: Path, place: Path) -> dict[str, Any]:
    """Build, and say what it cost."""
    documents = load(folder, "tokens.npy", "lengths.npy")
    with tempfile.TemporaryDirectory() as first:  # starts threads and loads what is loaded once
        engine.build(Path(first) / "index", documents[:50])
    cpu, wall = cpu_seconds(), time.perf_counter()
    engine.build(place, documents)
    return {
        "name": engine.NAME,
        "cpu_s": cpu_seconds() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_bytes": peak_memory(),
        "bytes": sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
    }


def serve(engine: Any, folder: Path, place: Path) -> None:
    """Answer until the input ends."""
    queries = load(folder, "queries.npy", "query_lengths.npy")
    opened = engine.Engine(place)
    opened.search(queries[:1], 10, {})
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what engines print is no answer
    print(json.dumps({"name": engine.NAME}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        chosen = queries[asked["first"] : asked["last"]]
        batches = [chosen] if asked.get("together") else [[query] for query in chosen]
        answer: dict[str, list[Any]] = {"cpu_ms": [], "wall_ms": [], "positions": [], "scores": []}
        for batch in batches:
            cpu, wall = time.process_time(), time.perf_counter()
            found = opened.search(batch, asked["k"], asked["settings"])
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            for hits in found:
                answer["cpu_ms"].append(1000 * cpu / len(batch))
                answer["wall_ms"].append(1000 * wall / len(batch))
                answer["positions"].append([int(position) for position, _ in hits])
                answer["scores"].append([float(score) for _, score in hits])
        answer["peak_bytes"] = [peak_memory()]
        print(json.dumps(answer), file=answers, flush=True)


def load(folder: Path, tokens: str, lengths: str) -> list[np.ndarray[Any, Any]]:
    """One float32 array [tokens, dim] a document or query."""
    return np.split(np.load(folder / tokens), np.cumsum(np.load(folder / lengths))[:-1])


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
