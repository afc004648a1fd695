"""The codebook of a build: workers encode a seeded sample of the corpus, and the driver runs k-means on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.distributed.partitioned_job import PartRecord
from raycol.errors import InputError
from raycol.index.codec.training import default_centroids, sample_size, sample_tokens, train_codebook
from raycol.index.format.codebook_files import save_codebook
from raycol.index.format.manifest import CODEBOOKS, CodebookInfo, ModelInfo
from raycol.indexing.clock import Clock
from raycol.indexing.config import IndexConfig
from raycol.indexing.part import PartSettings
from raycol.indexing.plan import BuildPlan, sample_documents
from raycol.indexing.workers import PartSample, SampleEncoder
from raycol.storage import Store, StoredFolder

# A sample of at most this many tokens is encoded on the driver, which takes less time than starting workers.
_MAX_DRIVER_TOKENS = 8192


class TrainedCodebook(PartRecord):
    """Record of the codebook of an unfinished build: partitions are useless without it."""

    info: CodebookInfo

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The codebook's files."""
        return [StoredFolder(folder=f"{CODEBOOKS}/{self.info.name}", files=self.info.files)]


@dataclass(frozen=True)
class SampleStats:
    """Tokens of the sample, CPU seconds of its encoding, and peak memory of a worker (0 if none was started)."""

    tokens: int = 0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def train_on_sample(
    config: IndexConfig,
    plan: BuildPlan,
    settings: PartSettings,
    store: Store,
    model: ModelInfo | None,
    dim: int,
    mean_tokens: float,
    clock: Clock,
    report: Report,
    executor: Executor,
) -> tuple[CodebookInfo, SampleStats]:
    """Encode the sample, train the codebook and save it.

    The sample's embeddings, in float16, are the only ones of a build that cross the object store.

    Raises:
        InputError: no sampled document has usable embeddings.
    """
    size = config.sample_documents or default_sample_size(plan.documents, mean_tokens, dim, config.n_centroids)
    positions = sample_documents(plan, size, config.seed)
    samples = {
        number: PartSample(part, sampled)
        for number, (part, sampled) in enumerate(zip(plan.parts, positions, strict=True))
        if sampled
    }
    size = sum(map(len, positions))
    arrays: dict[int, NDArray[np.float16]] = {}
    done, cpu_s, peak_bytes = 0, 0.0, 0
    report(0, size, "sampling")
    on_driver = size * mean_tokens <= _MAX_DRIVER_TOKENS and not config.on_gpu
    run = IN_PROCESS.run if on_driver else executor.run

    def within_part(documents: int) -> None:
        report(done + documents, size, "sampling")

    with clock("sample"):
        arguments = {**config.model_arguments, "settings": settings, "model": model, "dim": dim}
        for number, sample in run(SampleEncoder, config, samples, arguments, on_progress=within_part):
            if len(sample.tokens_TD):
                arrays[number] = sample.tokens_TD
            done += sample.documents
            cpu_s += sample.cpu_s
            peak_bytes = 0 if on_driver else max(peak_bytes, sample.peak_bytes)
            report(done, size, "sampling")
    if not arrays:
        raise InputError(
            f"none of the {size} sampled documents has usable embeddings; sample more with `sample_documents=`"
        )
    sample_TD = np.concatenate([arrays[number] for number in sorted(arrays)])
    n_tokens = round(len(sample_TD) * plan.documents / size)
    n_centroids = config.n_centroids or default_centroids(n_tokens, len(sample_TD))
    report(size, size, f"training {n_centroids} centroids")
    with clock("train"):
        codebook = train_codebook(sample_TD, bits=config.bits, n_centroids=n_centroids, seed=config.seed)
        return save_codebook(store, codebook), SampleStats(len(sample_TD), cpu_s, peak_bytes)


def default_sample_size(n_documents: int, mean_tokens: float, dim: int, n_centroids: int | None) -> int:
    """Return the number of documents to train on: PLAID's, but no more tokens than k-means uses."""
    k = n_centroids or default_centroids(max(1, round(n_documents * mean_tokens)))
    enough = math.ceil(1.1 * sample_tokens(k, dim) / max(mean_tokens, 1.0))
    return max(1, min(sample_size(n_documents), enough))
