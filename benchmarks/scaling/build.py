"""Builds an index in pieces, as a cluster would: a codebook of a sample, partitions by workers, one commit.

Workers make their part of the corpus where they are, quantise it and write its partition; only a description of it
comes back. Where an encoder would be, documents are generated; that is timed apart, and so are the true answers.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clustered import DIM
from measure import in_fresh_process, measured, peak_memory, say
from numpy.typing import NDArray

from raycol.index import Document
from raycol.index.codec.codebook import Codebook
from raycol.index.codec.training import default_centroids, train_codebook
from raycol.index.format.codebook_files import open_codebook, save_codebook
from raycol.index.format.manifest import CodebookInfo, Manifest, PartitionInfo, commit_manifest, versions
from raycol.index.format.partition_writer import write_partition
from raycol.index.write.compact import merge_group
from raycol.index.write.create import partition_tokens_for
from raycol.indexing.clock import Clock
from raycol.storage import Store, open_store
from scaling.corpus import Corpus
from scaling.kept import Step, read, write
from scaling.truth import Truth, merge_best

BITS = 4
# Partitions that are merged to see what that takes.
_MERGED = 4


def train(folder: Path, corpus: Corpus) -> Step:
    """Train the codebook on a sample, in a process of its own."""
    return in_fresh_process(_train, folder, corpus)


def _train(folder: Path, corpus: Corpus) -> Step:
    with measured() as sampling:
        sample_TD = corpus.sample()
    n_centroids = default_centroids(corpus.tokens, len(sample_TD))
    with measured() as training:
        codebook = train_codebook(sample_TD, bits=BITS, n_centroids=n_centroids, seed=corpus.seed)
        info = save_codebook(open_store(folder / "index"), codebook)
    return {
        "info": info.model_dump_json(), "sample_tokens": len(sample_TD), "n_centroids": n_centroids,
        "sampling_cpu_s": sampling.cpu_s, "cpu_s": training.cpu_s, "wall_s": training.wall_s,
        "peak_bytes": training.peak_bytes,
    }  # fmt: skip


def encode(folder: Path, corpus: Corpus, codebook: Step, workers: int, n_exact: int) -> Step:
    """Have the workers make all partitions that are not there yet."""
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    waiting = [number for number in range(corpus.n_parts) if not _part(parts, number).exists()]
    queries = corpus.queries(n_exact)
    started = time.perf_counter()
    with (
        one_thread(),
        ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _open_worker, (folder, corpus, codebook["info"], queries)
        ) as pool,
    ):
        tasks = {pool.submit(_encode_part, number): number for number in waiting}
        for done, task in enumerate(as_completed(tasks), 1):
            write(_part(parts, tasks[task]), task.result())
            if done % 10 == 0:
                say(f"{folder.name}: {done} of {len(waiting)} parts in {time.perf_counter() - started:.0f} s")
    built = [read(_part(parts, number)) for number in range(corpus.n_parts)]
    stages = {stage: sum(part["cpu_s"][stage] for part in built) for stage in built[0]["cpu_s"]}
    return {
        "workers": workers, "parts": len(built), "cpu_s": stages,
        "wall_s": sum(part["wall_s"] for part in built) / workers,
        "worker_peak_bytes": max(part["peak_bytes"] for part in built),
        "truth": merge_best([part["best"] for part in built]) if n_exact else [],
    }  # fmt: skip


def commit(folder: Path, corpus: Corpus, codebook: Step) -> Step:
    """Make all partitions one index."""
    store = open_store(folder / "index")
    infos = tuple(_info(folder, number) for number in range(corpus.n_parts))
    manifest = Manifest(
        version=1, dim=DIM, bits=BITS, seed=corpus.seed,
        partition_tokens=partition_tokens_for(sum(info.tokens for info in infos)), pool_factor=1, columns={},
        model=None, codebook=CodebookInfo.model_validate_json(codebook["info"]), partitions=infos,
    )  # fmt: skip
    with measured() as cost:
        if not versions(store):
            commit_manifest(store, manifest)
    return {"wall_s": cost.wall_s, "manifest_bytes": manifest.size, "partitions": len(infos)}


def merging(folder: Path, codebook: Step) -> Step:
    """What making one partition of a few takes; the outcome is thrown away."""
    infos = [_info(folder, number).model_dump_json() for number in range(_MERGED)]
    return in_fresh_process(_merge, folder, codebook["info"], infos)


def _merge(folder: Path, codebook_info: str, infos: list[str]) -> Step:
    store, codebook = _open(folder, codebook_info)
    before = peak_memory()
    with measured() as cost:
        merged = merge_group(store, [PartitionInfo.model_validate_json(info) for info in infos], codebook, {}, 0)
    shutil.rmtree(folder / "index" / "partitions" / merged.name)
    return {"tokens": merged.tokens, "cpu_s": cost.cpu_s, "wall_s": cost.wall_s,
            "more_bytes": cost.peak_bytes - before}  # fmt: skip


class one_thread:  # noqa: N801
    """Processes started inside compute in one thread, as the workers of a build do."""

    def __enter__(self) -> None:
        self._before = dict(os.environ)
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


@dataclass(frozen=True)
class _Worker:
    store: Store
    codebook: Codebook
    corpus: Corpus
    queries: list[NDArray[np.float32]]


_worker: _Worker


def _open_worker(folder: Path, corpus: Corpus, codebook_info: str, queries: list[NDArray[np.float32]]) -> None:
    global _worker
    _worker = _Worker(*_open(folder, codebook_info), corpus, queries)


def _encode_part(number: int) -> Step:
    clock, truth = Clock(), Truth(_worker.queries)
    with measured() as cost:
        info = write_partition(_worker.store, _made(number, clock, truth), _worker.codebook, {})
        with clock("truth"):
            best = truth.best()
    clock.cpu_s["quantise and write"] = cost.cpu_s - sum(clock.cpu_s.values())
    return {"info": info.model_dump_json(), "cpu_s": clock.cpu_s, "wall_s": cost.wall_s,
            "peak_bytes": cost.peak_bytes, "best": best}  # fmt: skip


def _made(number: int, clock: Clock, truth: Truth) -> Iterator[Document]:
    documents = _worker.corpus.part(number)
    while True:
        with clock("generate"):
            document = next(documents, None)
        if document is None:
            return
        with clock("truth"):
            truth.add(document.id, document.embeddings)
        yield document


def _open(folder: Path, codebook_info: str) -> tuple[Store, Codebook]:
    store = open_store(folder / "index")
    return store, open_codebook(store, CodebookInfo.model_validate_json(codebook_info), DIM, BITS)


def _part(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.json"


def _info(folder: Path, number: int) -> PartitionInfo:
    return PartitionInfo.model_validate_json(read(_part(folder / "parts", number))["info"])
