"""Measure planning builds of large corpora.

    python benchmarks/planning.py [worker] [driver] [ray]

worker  documents that one worker plans in a CPU second: MedQuAD in ranges of 4 MiB, as JSON Lines and as Parquet, with
        the hashes of its ids compared
driver  SIMULATED: a corpus of a billion documents in 100,000 files (sparse, of a kilobyte a document). Ranges are
        planned by a stand-in that returns a plan of the right size at once; so are the tasks that compare hashes. What
        is measured is the driver: wall time and peak memory of listing and cutting the corpus, of joining the plans,
        and of the same command again, which reads the records of all ranges
ray     what a range costs the driver on Ray beside its work: 2,000 ranges of a few documents

`--documents` and `--files` change the size of `driver`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from measure import in_fresh_process, measured, peak_memory, print_table, processor, say

from raycol.data import corpus_files
from raycol.data.readers.reader import Position
from raycol.distributed.executor import IN_PROCESS, ON_RAY
from raycol.indexing import IndexConfig, duplicates, plan_ranges
from raycol.indexing.duplicates import IdHashes
from raycol.indexing.plan import PartitionPlan, Slice
from raycol.indexing.plan_ranges import CorpusRange, PlannedRange, cut_corpus, plan_corpus
from raycol.storage import StoredFolder, open_store

DATA = Path(os.environ.get("RAYCOL_DATA", Path(__file__).parents[2] / "shared" / "data"))
DOCUMENT_BYTES = 1024


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["worker", "driver", "ray"], metavar="WHAT")
    parser.add_argument("--documents", type=int, default=10**9)
    parser.add_argument("--files", type=int, default=10**5)
    options = parser.parse_args()
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            if what == "driver":
                driver(Path(folder), options.documents, options.files)
            else:
                {"worker": worker, "ray": on_ray}[what](Path(folder))


def worker(folder: Path) -> None:
    """Documents a CPU second of one worker."""
    source = DATA / "medquad" / "corpus.jsonl"
    if not source.exists():
        print(f"skipped: needs {source}; point RAYCOL_DATA at it")
        return
    records = [json.loads(line) for line in source.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(records), folder / "corpus.parquet", row_group_size=1024)
    rows = []
    for path in (source, folder / "corpus.parquet"):
        plan_ranges.RANGE_BYTES = 4 << 20
        config = IndexConfig(corpus=path, out=folder / path.suffix[1:], make_ids=None, model="unused")
        ranges = cut_corpus(config.files())
        with measured() as cost:
            plan, _ = _plan(config, ranges, IN_PROCESS)
        assert plan.documents == len(records)
        rows.append([path.suffix[1:], str(len(ranges)), f"{plan.documents:,}", f"{plan.documents / cost.cpu_s:,.0f}"])
    print(processor())
    print_table(["format", "ranges", "documents", "documents a CPU second"], rows)


def _plan(config: IndexConfig, ranges: list[CorpusRange], executor: Any) -> Any:
    return plan_corpus(
        config, config.files(), ranges, config.fields(), False, open_store(config.out), 0, lambda *_: None, executor
    )


class StandIn(type(IN_PROCESS)):  # type: ignore[misc]
    """Returns plans of ranges at once, as if they had come from workers: pickled."""

    def run(
        self, worker: type, config: object, inputs: Mapping[int, CorpusRange], arguments: Mapping[str, Any], *_: object
    ) -> Iterator[Any]:
        """Yield a plan for each range."""
        for number, range_ in inputs.items():
            planned = pickle.dumps(_planned(range_, arguments["job"].folder, number))
            record = pickle.loads(planned)
            arguments["job"].save(number, record)
            yield number, record

    def call(self, function: Any, calls: Mapping[int, Any], *_: object) -> Iterator[Any]:
        """Yield what the tasks would return if no id occurred twice."""
        for key, arguments in calls.items():
            if function is duplicates._divide:
                yield key, [_hashes(f"{key}-{value}", 0) for value in range(1 << arguments[-1])]
            else:
                yield key, duplicates._repeated_in(open_store("unused"), [])


def _hashes(name: str, n_ids: int) -> IdHashes:
    # Of no bytes, so that finding the records again does not look for the file.
    return IdHashes(stored=StoredFolder(folder="none", files={}), n_ids=n_ids)


def _planned(range_: CorpusRange, folder: str, number: int) -> PlannedRange:
    parts, documents = [], 0
    slices: list[Slice] = []
    in_part = 0
    for each in range_.files:
        left, start = FILE_DOCUMENTS, 0
        while left:
            taken = min(left, 4096 - in_part)
            slices.append(Slice(each.file, Position(start * DOCUMENT_BYTES, start + 1), documents, taken))
            documents, left, start, in_part = documents + taken, left - taken, start + taken, in_part + taken
            if in_part == 4096:
                parts.append(PartitionPlan(tuple(slices), f"{number:016x}"))
                slices, in_part = [], 0
    if slices:
        parts.append(PartitionPlan(tuple(slices), f"{number:016x}"))
    return PlannedRange(
        state=range_.state, parts=parts, records=documents, lengths=[0] * 255 + [documents],
        hashes=_hashes(str(number), documents),
    )  # fmt: skip


FILE_DOCUMENTS = 0


def driver(folder: Path, documents: int, n_files: int) -> None:
    """The driver's time and memory, with workers that return at once."""
    corpus = folder / "corpus"
    for number in range(n_files):
        path = corpus / f"{number // 1000:03d}" / f"{number:06d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(documents // n_files * DOCUMENT_BYTES)
    rows = []
    for what in ("plan", "the same again"):
        say(what)
        rows.append([what, *in_fresh_process(_drive, corpus, folder / "index", documents // n_files)])
    shutil.rmtree(corpus)
    print(f"SIMULATED workers; {documents:,} documents in {n_files:,} files; {processor()}")
    print_table(["", "ranges", "parts", "list and cut, s", "plan, s", "peak MiB"], rows)


def _drive(corpus: Path, out: Path, per_file: int) -> list[str]:
    global FILE_DOCUMENTS
    FILE_DOCUMENTS = per_file
    config = IndexConfig(corpus=corpus, out=out, model="unused")
    started = time.perf_counter()
    ranges = cut_corpus(config.files())
    cut_s = time.perf_counter() - started
    started = time.perf_counter()
    plan, _ = _plan(config, ranges, StandIn())
    plan_s = time.perf_counter() - started
    assert plan.documents == per_file * sum(len(range_.files) for range_ in ranges)
    return [f"{len(ranges):,}", f"{len(plan.parts):,}", f"{cut_s:.1f}", f"{plan_s:.1f}", f"{peak_memory() >> 20:,}"]


def on_ray(folder: Path) -> None:
    """Many small ranges on two workers."""
    corpus = folder / "corpus"
    corpus.mkdir()
    n_ranges = 2000
    for number in range(n_ranges):
        (corpus / f"{number:04d}.jsonl").write_text(
            "".join(f'{{"_id": "{number}-{n}", "text": "rain"}}\n' for n in range(4))
        )
    plan_ranges._RANGE_FILES = 1
    config = IndexConfig(corpus=corpus, out=folder / "index", model="unused")
    ranges = cut_corpus(corpus_files(str(corpus)))
    with ON_RAY.planning(config), measured() as cost:
        plan, _ = _plan(config, ranges, ON_RAY)
    assert plan.documents == 4 * n_ranges
    print(
        f"{n_ranges} ranges of four documents on Ray, {processor()}: {1e3 * cost.wall_s / n_ranges:.1f} ms and "
        f"{1e3 * cost.cpu_s / n_ranges:.1f} CPU ms of the driver a range"
    )


if __name__ == "__main__":
    main()
