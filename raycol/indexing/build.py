"""`raycol index build`: plan, sample, train the codebook, encode partitions on Ray Data, commit.

Each row of the Ray Dataset is a partition to make, not a document: an actor reads its part of the corpus,
encodes, quantises and writes, and only the partition's description comes back. So of the corpus's embeddings
only those of the codebook's sample cross the object store, a lost worker costs one partition, and the bytes
do not depend on the number of workers.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from raycol.data import Problem
from raycol.index.codebook import check_codec, default_centroids, train_codebook
from raycol.index.codebook_files import save_codebook
from raycol.index.create import PARTITION_TOKENS, check_new
from raycol.index.manifest import FORMAT_VERSION, CodebookInfo, Manifest, ModelInfo, commit_manifest
from raycol.index.storage import Store, absolute, open_store
from raycol.index.vacuum import sweep
from raycol.indexing.config import EncodingConfig, IndexConfig
from raycol.indexing.encode import TEXT_COLUMNS
from raycol.indexing.journal import Journal
from raycol.indexing.partitions import Target, build_partitions, finished_partitions
from raycol.indexing.plan import Plan, plan_build, sample_documents
from raycol.indexing.workers import SampleEncoder, on_workers
from raycol.progress import Report, no_report
from raycol.ray_session import ray_session


@dataclass(frozen=True)
class BuildReport:
    """What a build or an append did; `replaced` documents were in the index before."""

    index: str
    version: int
    documents: int
    tokens: int
    partitions: int
    reused_partitions: int
    replaced: int
    skipped: list[Problem]
    seconds: float


def build_index(config: IndexConfig, report: Report = no_report) -> BuildReport:
    """Build an index of a corpus; or continue one that was interrupted, from the partitions it finished.

    Raises:
        InputError: an unusable corpus or model, or `out` holds an index already.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started = time.monotonic()
    store = open_store(absolute(config.out))
    check_new(store)
    plan = plan_build(config.corpus, config.docs_per_partition, config.on_error)
    # torch is imported once the rest of the input is known to be good.
    from raycol.models import encoder_fingerprint, load_encoder

    encoder = load_encoder(config.model, device="cpu")
    dim = encoder.get_embedding_dimension()
    check_codec(dim, config.bits)
    model = ModelInfo(name=_model_name(config.model), fingerprint=encoder_fingerprint(encoder))
    del encoder

    columns = TEXT_COLUMNS if config.store_text else {}
    target = Target(store.uri, 0, dim, config.bits, columns, config.pool_factor, model)
    journal = Journal(store, 0, _fingerprint(config, plan, model))
    codebook = journal.codebook()
    # Without their codebook, partitions are of no use: another one might differ in its last bits.
    done = finished_partitions(journal, plan) if codebook else {}
    if codebook is None or len(done) < len(plan.partitions):
        with session(config):
            if codebook is None:
                codebook = _train_codebook(config, plan, store, model.name, report)
                journal.save_codebook(codebook)
            partitions = build_partitions(config, plan, target, codebook, journal, done, report)
    else:
        partitions = tuple(done[number] for number in range(len(plan.partitions)))
    manifest = Manifest(
        version=1,
        dim=dim,
        bits=config.bits,
        seed=config.seed,
        partition_tokens=PARTITION_TOKENS,
        pool_factor=config.pool_factor,
        columns=columns,
        model=model,
        codebook=codebook,
        partitions=partitions,
    )
    commit_manifest(store, manifest)
    journal.remove()
    sweep(store)
    return BuildReport(
        index=config.out,
        version=1,
        documents=manifest.documents,
        tokens=manifest.tokens,
        partitions=len(partitions),
        reused_partitions=len(done),
        replaced=0,
        skipped=plan.problems,
        seconds=time.monotonic() - started,
    )


def session(config: EncodingConfig) -> AbstractContextManager[None]:
    """A Ray session with room for the workers."""
    workers = config.num_workers or 1
    return ray_session(cpus=workers, gpus=workers if config.use_gpu else 0)


def _model_name(model: str) -> str:
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else model


def _fingerprint(config: IndexConfig, plan: Plan, model: ModelInfo) -> str:
    """Names a build by everything that decides its bytes."""
    shape = config.model_dump_json(
        include={
            "bits",
            "n_centroids",
            "docs_per_partition",
            "sample_documents",
            "batch_size",
            "pool_factor",
            "store_text",
            "seed",
        }
    )
    return xxhash.xxh3_64_hexdigest(f"{FORMAT_VERSION} {plan.digest} {model.fingerprint} {shape}".encode())


def _train_codebook(config: IndexConfig, plan: Plan, store: Store, model: str, report: Report) -> CodebookInfo:
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
    arguments = {"model": model, "batch_size": config.batch_size, "pool_factor": config.pool_factor}
    for row in on_workers(SampleEncoder, config, rows, arguments):
        arrays[row["number"]] = np.frombuffer(row["tokens"], np.float16).reshape(-1, row["dim"])
        sampled += row["documents"]
        report(sampled, size, "sampling")
    sample_TD = np.concatenate([arrays[number] for number in sorted(arrays)])
    n_tokens = round(len(sample_TD) * plan.documents / size)
    n_centroids = config.n_centroids or default_centroids(n_tokens, len(sample_TD))
    report(size, size, f"training {n_centroids} centroids")
    codebook = train_codebook(sample_TD, bits=config.bits, n_centroids=n_centroids, seed=config.seed)
    return save_codebook(store, codebook)
