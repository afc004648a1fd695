"""The codebook of a build: a seeded sample of the corpus, encoded on the workers, and k-means here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.errors import InputError
from raycol.index.codec.codebook import default_centroids, sample_size, sample_tokens, train_codebook
from raycol.index.codec.codebook_files import save_codebook
from raycol.index.format.manifest import CodebookInfo, ModelInfo
from raycol.indexing.clock import Clock
from raycol.indexing.config import IndexConfig
from raycol.indexing.part import Task
from raycol.indexing.plan import BuildPlan, sample_documents
from raycol.indexing.workers import SampleEncoder
from raycol.storage import Store

# A sample of so few tokens is encoded where the build was started: that takes less than starting workers for it.
_FEW_TOKENS = 8192


@dataclass(frozen=True)
class Sampled:
    """What sampling took: tokens, CPU seconds of the workers, and the largest one's memory (0: none was started)."""

    tokens: int = 0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def train_on_sample(
    config: IndexConfig,
    plan: BuildPlan,
    task: Task,
    store: Store,
    model: ModelInfo | None,
    dim: int,
    mean_tokens: float,
    clock: Clock,
    report: Report,
    executor: Executor,
) -> tuple[CodebookInfo, Sampled]:
    """Encode the sample, train, save. The sample's embeddings are what crosses the object store, in float16."""
    size = config.sample_documents or enough_documents(plan.documents, mean_tokens, dim, config.n_centroids)
    positions = sample_documents(plan, size, config.seed)
    rows = [
        {"number": number, "part": part.to_json(), "positions": chosen}
        for number, (part, chosen) in enumerate(zip(plan.parts, positions, strict=True))
        if chosen
    ]
    size = sum(map(len, positions))
    arrays: dict[int, NDArray[np.float16]] = {}
    done, cpu_s, peak_bytes = 0, 0.0, 0
    report(0, size, "sampling")
    few = size * mean_tokens <= _FEW_TOKENS and not config.on_gpu
    run = IN_PROCESS.run if few else executor.run
    name = model.model_dump_json() if model else None
    with clock("sample"):
        for row in run(SampleEncoder, config, rows, {"task": task.to_json(), "model": name, "dim": dim}):
            if row["dim"]:
                arrays[row["number"]] = np.frombuffer(row["tokens"], np.float16).reshape(-1, row["dim"])
            done += row["documents"]
            cpu_s += row["cpu_s"]
            peak_bytes = 0 if few else max(peak_bytes, row["peak_bytes"])
            report(done, size, "sampling")
    if not arrays:
        raise InputError(
            f"none of {size} sampled documents has usable embeddings; sample more with --sample-documents"
        )
    sample_TD = np.concatenate([arrays[number] for number in sorted(arrays)])
    n_tokens = round(len(sample_TD) * plan.documents / size)
    n_centroids = config.n_centroids or default_centroids(n_tokens, len(sample_TD))
    report(size, size, f"training {n_centroids} centroids")
    with clock("train"):
        codebook = train_codebook(sample_TD, bits=config.bits, n_centroids=n_centroids, seed=config.seed)
        return save_codebook(store, codebook), Sampled(len(sample_TD), cpu_s, peak_bytes)


def enough_documents(n_documents: int, mean_tokens: float, dim: int, n_centroids: int | None) -> int:
    """How many documents to train on: as many as PLAID would, but no more tokens than k-means will look at."""
    k = n_centroids or default_centroids(max(1, round(n_documents * mean_tokens)))
    enough = math.ceil(1.1 * sample_tokens(k, dim) / max(mean_tokens, 1.0))
    return max(1, min(sample_size(n_documents), enough))
