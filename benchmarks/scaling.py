"""Measure an index as it grows, and estimate larger ones from the results.

    python benchmarks/scaling.py measure --keep FOLDER [--tokens 1e6,3e6,1e7,3e7,1e8]
    python benchmarks/scaling.py report --keep FOLDER [--write] [prices, rates: see --help]

measure  builds, serves and searches an index of each size: clustered tokens of 128 dimensions (clustered.py), in parts
         generated from their seeds, quantised by two worker processes with the library's functions and committed once.
         Recall is against `Index.exact`, and against MaxSim over the original embeddings, which the workers compute
         while these are in memory. FOLDER keeps every index and every step's figures; the same command resumes after
         an interruption, part by part.
report   prints the figures of all finished sizes, and estimates for 1, 10 and 100 billion tokens from the measured
         rates; --write updates the tables in docs/scaling.md, and draws docs/img/scaling.svg.

A hundred million tokens need 8 GB of disk; `report` prints the measured disk and time.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# For the package `scaling`, which has this file's name.
sys.path.insert(0, str(Path(__file__).parent))

from scaling import build, search, serve
from scaling.corpus import Corpus
from scaling.kept import Step, folder_of, step
from scaling.report import add_options, report

_SHARDS = (1, 2, 4, 8)
_SERVED = (2, 8)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measuring = verbs.add_parser("measure", help="build, serve and search")
    measuring.add_argument("--tokens", default="1e6,3e6,1e7,3e7,1e8", help="sizes (1e6,3e6,1e7,3e7,1e8)")
    measuring.add_argument("--workers", type=int, default=2, help="processes that make partitions (2)")
    measuring.add_argument("--queries", type=int, default=50, help="queries (50)")
    measuring.add_argument("--exact-queries", type=int, default=20, help="of them with recall (20)")
    measuring.add_argument("--rounds", type=int, default=2, help="times that each is searched (2)")
    reporting = verbs.add_parser("report", help="print, and write the doc's tables")
    add_options(reporting)
    for verb in (measuring, reporting):
        verb.add_argument("--keep", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    if options.verb == "report":
        report(options)
        return
    for tokens in (int(float(size)) for size in options.tokens.split(",")):
        measure(options, Corpus(tokens))


def measure(options: argparse.Namespace, corpus: Corpus) -> None:
    """Run the unfinished steps of one size."""
    folder = folder_of(options.keep, corpus.tokens)
    folder.mkdir(parents=True, exist_ok=True)
    n, n_exact, rounds = options.queries, min(options.exact_queries, options.queries), options.rounds
    codebook = step(folder, "codebook", lambda: build.train(folder, corpus))
    encoded = step(folder, "encode", lambda: build.encode(folder, corpus, codebook, options.workers, n_exact))
    step(folder, "commit", lambda: build.commit(folder, corpus, codebook))
    step(folder, "merge", lambda: build.merging(folder, codebook))
    whole = step(folder, "search", lambda: search.whole(folder, corpus, n, n_exact, rounds, encoded["truth"]))
    found = whole["found"]
    step(folder, "shards", lambda: search.sharded(folder, corpus, n, rounds, _SHARDS, found))
    step(folder, "cold", lambda: search.cold(folder, corpus))
    step(folder, "serve", lambda: serve.served(folder, corpus, n, rounds, _SERVED, found))
    step(folder, "done", machine)


def machine() -> Step:
    """Describe the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": name, "cores": os.cpu_count(), "memory_bytes": memory}


if __name__ == "__main__":
    main()
