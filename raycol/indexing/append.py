"""`raycol index append`: encode a corpus with the index's own encoder and codebook, and add it in one new version."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
import xxhash
from numpy.typing import NDArray

from raycol.data.corpus import check_corpus, corpus_file
from raycol.errors import InputError
from raycol.index.changes import check_writable, commit_change
from raycol.index.manifest import ModelInfo, read_manifest
from raycol.index.selection import locate
from raycol.index.snapshot import Snapshot
from raycol.index.storage import absolute, open_store
from raycol.index.vacuum import sweep
from raycol.indexing.build import BuildReport, session
from raycol.indexing.config import AppendConfig
from raycol.indexing.journal import Journal
from raycol.indexing.partitions import Target, build_partitions, finished_partitions
from raycol.indexing.plan import plan_build
from raycol.progress import Report, no_report


def append_corpus(config: AppendConfig, report: Report = no_report) -> BuildReport:
    """Add a corpus to an index; or continue where the same command was interrupted.

    Raises:
        InputError: no index there, an unusable corpus, another model than the index's, or (unless `upsert`) a
            document that the index has already.
        ConflictError: another writer changed the index meanwhile.
    """
    started = time.monotonic()
    store = open_store(absolute(config.index))
    snapshot = Snapshot.open(store, read_manifest(store))
    manifest = snapshot.manifest
    check_writable(snapshot)
    plan = plan_build(config.corpus, config.docs_per_partition, config.on_error)
    gone = _present(snapshot, config)
    model = _find_model(manifest.model, config.model)

    target = Target(
        store.uri, manifest.version, manifest.dim, manifest.bits, manifest.columns, manifest.pool_factor, model
    )
    shape = f"{plan.digest} {model.fingerprint} {config.docs_per_partition} {config.batch_size}"
    journal = Journal(store, manifest.version, xxhash.xxh3_64_hexdigest(shape.encode()))
    done = finished_partitions(journal, plan)
    with session(config):
        added = build_partitions(config, plan, target, manifest.codebook, journal, done, report)
    _, change = commit_change(snapshot, gone, added)
    journal.remove()
    sweep(store)
    return BuildReport(
        index=config.index,
        version=change.version,
        documents=change.added,
        tokens=sum(info.tokens for info in added),
        partitions=len(added),
        reused_partitions=len(done),
        replaced=change.removed,
        skipped=plan.problems,
        seconds=time.monotonic() - started,
    )


def _present(snapshot: Snapshot, config: AppendConfig) -> list[NDArray[np.int64]]:
    """For each partition the positions of documents that the corpus has again."""
    found: list[list[NDArray[np.int64]]] = [[] for _ in snapshot.partitions]
    passages = (passage for _, passage in check_corpus(corpus_file(config.corpus), "skip", []) if passage)
    while group := list(islice(passages, 8192)):
        positions = locate(snapshot.partitions, [passage.id for passage in group])
        for partition, here, so_far in zip(snapshot.partitions, positions, found, strict=True):
            if len(here) and not config.upsert:
                raise InputError(
                    f"document {partition.ids[here[0]]!r} is in the index {config.index} already; --upsert replaces it"
                )
            so_far.append(here)
    return [np.sort(np.concatenate(parts)) for parts in found]


def _find_model(info: ModelInfo | None, name_or_path: str | None) -> ModelInfo:
    """Where the index's model is now; opened once, so that a wrong one is found before any work is done."""
    if info is None:
        raise InputError("the index does not know its model; add documents with Index.append in Python")
    # torch is imported once the rest of the input is known to be good.
    from raycol.models import load_encoder_of

    load_encoder_of(info, name_or_path, device="cpu")
    return info.model_copy(update={"name": name_or_path or info.name})
