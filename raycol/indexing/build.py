"""`raycol index build`: plan, sample, train the codebook, encode partitions on Ray Data, commit.

Each row of the Ray Dataset is a partition to make, not a document: an actor reads its part of the corpus,
encodes, quantises and writes, and only the partition's description comes back. So of the corpus's embeddings
only those of the codebook's sample cross the object store, a lost worker costs one partition, and the bytes
do not depend on the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from raycol.data import Problem
from raycol.errors import writing
from raycol.index.codebook import check_codec, default_centroids, train_codebook
from raycol.index.codebook_files import save_codebook
from raycol.index.index import check_new
from raycol.index.manifest import (
    FORMAT_VERSION,
    PARTITIONS,
    CodebookInfo,
    Manifest,
    ModelInfo,
    PartitionInfo,
    commit_manifest,
)
from raycol.index.storage import remove_unfinished
from raycol.indexing.config import IndexConfig
from raycol.indexing.encode import TEXT_COLUMNS
from raycol.indexing.journal import Journal
from raycol.indexing.plan import Plan, plan_build, sample_documents
from raycol.indexing.workers import PartitionBuilder, SampleEncoder, on_workers
from raycol.progress import Report, no_report
from raycol.ray_session import ray_session


@dataclass(frozen=True)
class BuildReport:
    """What a build did."""

    index: Path
    documents: int
    tokens: int
    partitions: int
    reused_partitions: int
    skipped: list[Problem]
    seconds: float


def build_index(config: IndexConfig, report: Report = no_report) -> BuildReport:
    """Build an index of a corpus; or continue one that was interrupted, from the partitions it finished.

    Raises:
        InputError: an unusable corpus or model, or `out` holds an index already.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started = time.monotonic()
    root = config.out.resolve()
    check_new(root)
    plan = plan_build(config.corpus, config.docs_per_partition, config.on_error)
    # torch is imported once the rest of the input is known to be good.
    from raycol.models import encoder_fingerprint, load_encoder

    encoder = load_encoder(config.model, device="cpu")
    dim = encoder.get_embedding_dimension()
    check_codec(dim, config.bits)
    path = Path(config.model)
    model = ModelInfo(
        name=str(path.resolve()) if path.is_dir() else config.model, fingerprint=encoder_fingerprint(encoder)
    )
    del encoder

    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    journal = Journal(root, _fingerprint(config, plan, model))
    codebook = journal.codebook()
    numbers = range(len(plan.partitions))
    # Without their codebook, partitions are of no use: another one might differ in its last bits.
    done = {number: info for number in numbers if codebook and (info := journal.partition(number))}
    waiting = [number for number in numbers if number not in done]
    if codebook is None or waiting:
        with ray_session(cpus=config.num_workers or 1, gpus=(config.num_workers or 1) if config.use_gpu else 0):
            if codebook is None:
                codebook = _train_codebook(config, plan, root, model.name, report)
                journal.save_codebook(codebook)
            report(sum(info.documents for info in done.values()), plan.documents, "encoding")
            for number, info in _build_partitions(config, plan, waiting, codebook, dim, model.name):
                journal.save_partition(number, info)
                done[number] = info
                report(sum(info.documents for info in done.values()), plan.documents, "encoding")

    manifest = Manifest(
        version=1,
        dim=dim,
        bits=config.bits,
        seed=config.seed,
        columns=TEXT_COLUMNS if config.store_text else {},
        model=model,
        codebook=codebook,
        partitions=tuple(done[number] for number in numbers),
    )
    for folder in (root, root / PARTITIONS):
        remove_unfinished(folder)
    commit_manifest(root, manifest)
    journal.remove()
    return BuildReport(
        root,
        manifest.documents,
        manifest.tokens,
        len(manifest.partitions),
        len(plan.partitions) - len(waiting),
        plan.problems,
        time.monotonic() - started,
    )


def _fingerprint(config: IndexConfig, plan: Plan, model: ModelInfo) -> str:
    """Names a build by everything that decides its bytes."""
    shape = config.model_dump_json(
        include={
            "bits",
            "n_centroids",
            "docs_per_partition",
            "sample_documents",
            "batch_size",
            "store_text",
            "seed",
        }
    )
    return xxhash.xxh3_64_hexdigest(f"{FORMAT_VERSION} {plan.digest} {model.fingerprint} {shape}".encode())


def _train_codebook(config: IndexConfig, plan: Plan, root: Path, model: str, report: Report) -> CodebookInfo:
    """Encode the sample on the workers, train here, save."""
    positions = sample_documents(plan, config.sample_documents, config.seed)
    rows = [
        {"number": number, **part.to_row(), "positions": chosen}
        for number, (part, chosen) in enumerate(zip(plan.partitions, positions, strict=True))
        if chosen
    ]
    size = sum(len(chosen) for chosen in positions)
    arrays: dict[int, np.ndarray] = {}
    sampled = 0
    report(0, size, "sampling")
    for row in on_workers(SampleEncoder, config, rows, {"model": model, "batch_size": config.batch_size}):
        tokens_TD = np.frombuffer(row["tokens"], np.float16).reshape(-1, row["dim"])
        arrays[row["number"]] = tokens_TD
        sampled += row["documents"]
        report(sampled, size, "sampling")
    sample_TD = np.concatenate([arrays[number] for number in sorted(arrays)]).astype(np.float32)
    n_tokens = round(len(sample_TD) * plan.documents / size)
    n_centroids = config.n_centroids or default_centroids(n_tokens, len(sample_TD))
    report(size, size, f"training {n_centroids} centroids")
    return save_codebook(root, train_codebook(sample_TD, bits=config.bits, n_centroids=n_centroids, seed=config.seed))


def _build_partitions(
    config: IndexConfig, plan: Plan, numbers: Iterable[int], codebook: CodebookInfo, dim: int, model: str
) -> Iterator[tuple[int, PartitionInfo]]:
    """Yield each partition with its number, as workers finish them."""
    rows = [{"number": number, **plan.partitions[number].to_row()} for number in numbers]
    arguments = {
        "model": model,
        "batch_size": config.batch_size,
        "root": str(config.out.resolve()),
        "codebook": codebook.model_dump_json(),
        "dim": dim,
        "bits": config.bits,
        "store_text": config.store_text,
    }
    for row in on_workers(PartitionBuilder, config, rows, arguments):
        yield row["number"], PartitionInfo.model_validate_json(row["partition"])
