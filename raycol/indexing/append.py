"""`raycol index append`: encode a corpus with the index's encoder and codebook, and commit it as one new version."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data import Fields, Passage
from raycol.distributed.executor import Executor, choose_executor
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.errors import ConflictError, IndexCorruptError, InputError, RaycolError
from raycol.index.format.manifest import (
    BUILDS,
    Manifest,
    ModelInfo,
    PartitionInfo,
    check_current,
    check_room,
    read_manifest,
    writing_from,
)
from raycol.index.format.snapshot import Snapshot
from raycol.index.write.changes import commit_change, plan_change
from raycol.index.write.vacuum import sweep
from raycol.indexing.clock import Clock
from raycol.indexing.codebook import SampleStats
from raycol.indexing.config import AppendConfig
from raycol.indexing.existing_documents import ExistingDocuments, positions_of
from raycol.indexing.metadata import PARENT_COLUMNS, TEXT_COLUMNS, MetadataCheck
from raycol.indexing.part import BuiltPart, PartSettings
from raycol.indexing.partitions import Target, build_job, build_partitions, merge_partitions
from raycol.indexing.plan import BuildPlan, plan_build
from raycol.indexing.report import BuildReport, make_report, save_report
from raycol.indexing.source import model_name, open_encoded
from raycol.storage import Store, absolute, open_store

# Conflicts with other writers before an append gives up.
_ATTEMPTS = 8


def append_corpus(config: AppendConfig, report: Report = no_report, executor: Executor | None = None) -> BuildReport:
    """Append a corpus to an index, or continue an interrupted append of the same settings.

    If another writer commits first, start again from its version. `executor` runs the workers; by default
    `choose_executor` decides.

    Raises:
        InputError: no index there, an unusable corpus, another model than the index's, or (unless `upsert`) a
            document that the index already has.
        ConflictError: other writers committed first in every attempt.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _append(config, report, executor)
        except ConflictError:
            report(0, None, "another writer committed first: starting again from its version")
    return _append(config, report, executor)


def _append(config: AppendConfig, report: Report, executor: Executor | None) -> BuildReport:
    """Try once. Raises as `append_corpus`, and `ConflictError` as soon as another writer has committed."""
    started, clock = time.monotonic(), Clock()
    store = open_store(absolute(config.index))
    current = read_manifest(store)
    prepared = _committed_append(config, store, current, report, clock)
    if prepared is None:
        check_room(store, current)
        snapshot = Snapshot.open(store, current)
        snapshot.check_writable()
        prepared = _prepare(config, snapshot, report, clock)
    snapshot, manifest, plan = prepared.snapshot, prepared.snapshot.manifest, prepared.plan
    reused = prepared.job.finished_parts(len(plan.parts))
    target = Target(store, manifest.dim, manifest.bits, prepared.model, manifest.codebook)

    def report_if_current(done: float, total: float | None, note: str) -> None:
        check_current(store, current.version)
        report(done, total, note)

    executor = executor or choose_executor(config, len(plan.parts))
    with writing_from(store, current.version), executor.session(config, report):
        prepared.job.begin()
        with clock("encode"):
            built = build_partitions(
                config, plan, prepared.settings, target, prepared.job, reused, report_if_current, executor
            )
        infos, columns, base = [part.info for part in built if part.info], manifest.columns, manifest.version
        with clock("merge"):
            added = merge_partitions(
                target, columns, base, infos, manifest.partition_tokens, report_if_current, executor, config
            )
    # A document stays as it was if its replacement is unusable.
    retained = positions_of(snapshot, [id_ for part in built for id_ in part.left_out])
    replaced = [
        np.setdiff1d(positions, unchanged) for positions, unchanged in zip(prepared.replaced, retained, strict=True)
    ]
    n_replaced = sum(map(len, replaced))
    try:
        with clock("commit"):
            commit_change(snapshot, replaced, added)
    except ConflictError:
        if not _is_committed(snapshot, replaced, added):
            prepared.job.remove()
            raise
    done = make_report(
        config.index,
        manifest.version + 1,
        built,
        in_index=read_manifest(store, manifest.version + 1).documents,
        partitions=len(added),
        reused=reused,
        replaced=n_replaced,
        skipped=plan.problems,
        seconds=time.monotonic() - started,
        clock=clock,
        sample=SampleStats(),
    )
    save_report(store, done)
    report(len(built), len(built), "removing what is left over")
    sweep(store, manifest.version)
    store.remove_empty_folder(BUILDS)
    return done


def _is_committed(snapshot: Snapshot, replaced: Sequence[NDArray[np.int64]], added: Sequence[PartitionInfo]) -> bool:
    """Return whether the next version is this change: its partitions are named after their contents."""
    try:
        planned = plan_change(snapshot, replaced, added)
        return read_manifest(snapshot.store, planned.version) == planned
    except (RaycolError, OSError):  # vacuumed
        return False


@dataclass(frozen=True)
class _PreparedAppend:
    """A planned append to a snapshot. `replaced` are the positions of replaced documents in each partition."""

    snapshot: Snapshot
    plan: BuildPlan
    replaced: list[NDArray[np.int64]]
    model: ModelInfo | None
    settings: PartSettings
    job: PartitionedJob[BuiltPart]


def _committed_append(
    config: AppendConfig, store: Store, current: Manifest, report: Report, clock: Clock
) -> _PreparedAppend | None:
    """Return the same append to the previous version if it may have died between its commit and its cleanup."""
    version = current.version
    prefix = f"{version - 1:08d}-"
    is_unfinished = any(name.startswith(prefix) for name in store.names(BUILDS))
    if not is_unfinished or not any(info.name.startswith(prefix) for info in current.partitions):
        return None
    try:
        prepared = _prepare(config, Snapshot.open(store, read_manifest(store, version - 1)), report, clock)
    except (InputError, IndexCorruptError):
        return None
    return prepared if prepared.job.exists() else None


def _prepare(config: AppendConfig, snapshot: Snapshot, report: Report, clock: Clock) -> _PreparedAppend:
    """Plan the append, and check all input before any encoding starts."""
    manifest = snapshot.manifest
    _check_effects(config, manifest)
    fields = _fields(config, manifest)
    with clock("plan"):
        plan, replaced = _plan(config, snapshot, fields, report)
        model = _find_model(manifest, plan, config.model)
    settings = PartSettings(
        fields,
        manifest.columns,
        config.batch,
        manifest.pool_factor,
        config.on_error,
        manifest.version,
        manifest.split,
    )
    codec = {"bits": manifest.bits, "codebook": manifest.codebook.name}
    job = build_job(snapshot.store, config, plan, settings, model, **codec)
    return _PreparedAppend(snapshot, plan, replaced, model, settings, job)


def _plan(
    config: AppendConfig, snapshot: Snapshot, fields: Fields, report: Report
) -> tuple[BuildPlan, list[NDArray[np.int64]]]:
    """Plan the build; return it with the positions of replaced documents in each partition (none without `upsert`).

    Without `upsert`, an existing document is unusable. Ids are looked up thousands at a time, when the line of each is
    no longer known; so if any exists, the corpus is planned a second time to report it with its line.
    """
    metadata = MetadataCheck(fields, snapshot.manifest.columns, split=snapshot.manifest.split is not None)
    existing = ExistingDocuments(snapshot)

    def look_up(passage: Passage) -> None:
        metadata(passage)
        existing(passage)

    def plan_with(check: Callable[[Passage], None]) -> BuildPlan:
        return plan_build(config.files(), fields, config.docs_per_partition, config.on_error, check, report)

    plan, positions = plan_with(look_up), existing.positions()
    if config.upsert or not any(map(len, positions)):
        return plan, positions
    existing_ids = existing.ids()

    def refuse(passage: Passage) -> None:
        metadata(passage)
        if passage.id in existing_ids:
            raise InputError(
                f"document {passage.id!r} is already in the index {snapshot.store}; `upsert=True` replaces it"
            )

    if config.on_error == "skip" and len(existing_ids) == plan.documents:
        raise InputError(
            f"{config.corpus}: all its documents are already in the index {snapshot.store}; "
            "`upsert=True` replaces them"
        )
    return plan_with(refuse), [np.empty(0, dtype=np.int64) for _ in positions]


def _fields(config: AppendConfig, manifest: Manifest) -> Fields:
    """The corpus's fields; the metadata fields are the index's columns of the same names."""
    reserved = {*TEXT_COLUMNS, *(PARENT_COLUMNS if manifest.split else ())}
    return Fields(
        id=config.id_column,
        title=config.title_column,
        text=config.text_column,
        embeddings=config.embeddings_column,
        metadata={name: kind for name, kind in manifest.columns.items() if name not in reserved},
        make_ids=config.make_ids,
        encoded=manifest.model is None,
    )


def _check_effects(config: AppendConfig, manifest: Manifest) -> None:
    """Raise `InputError` for a setting that is set although it has no effect with this index."""
    if manifest.model:
        unused, reason = ["embeddings_column"], "the index has a model, which encodes the texts"
    elif "text" in manifest.columns:
        unused, reason = ["batch_tokens", "dtype", "cpu_workers"], "the index's documents come encoded"
    else:
        unused = ["batch_tokens", "dtype", "cpu_workers", "title_column", "text_column"]
        reason = "the index's documents come encoded, and it stores no texts"
    for name in unused:
        if name in config.model_fields_set and getattr(config, name) is not None:
            raise InputError(f"{name} has no effect: {reason}; leave {name} out")


def _find_model(manifest: Manifest, plan: BuildPlan, name_or_path: str | None) -> ModelInfo | None:
    """Return the index's model at its current path. Opens it once, to refuse a wrong one before encoding starts."""
    info = manifest.model
    if info is None:
        if name_or_path:
            raise InputError("the index has no model: its documents come encoded; leave `model=` out")
        dim = open_encoded(plan, "the index has no model, so its documents must come encoded").dim
        if dim != manifest.dim:
            raise InputError(f"embeddings of {dim} dimensions; the index has {manifest.dim}")
        return None
    # Importing torch is slow, so the rest of the input is checked first.
    from raycol.models.encoder import load_index_encoder

    load_index_encoder(info, name_or_path, device="cpu")
    return info.model_copy(update={"name": model_name(name_or_path or info.name)})
