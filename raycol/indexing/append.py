"""`raycol index append`: encode a corpus with the index's own encoder and codebook, and add it in one new version."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raycol.core.progress import Report, no_report
from raycol.data import Fields, Passage
from raycol.distributed.executor import ON_RAY, Executor
from raycol.errors import ConflictError, IndexCorruptError, InputError
from raycol.index.format.manifest import (
    BUILDS,
    Manifest,
    ModelInfo,
    PartitionInfo,
    check_current,
    read_manifest,
    writing_from,
)
from raycol.index.format.snapshot import Snapshot
from raycol.index.write.changes import check_writable, commit_change
from raycol.index.write.vacuum import sweep
from raycol.indexing.clock import Clock
from raycol.indexing.codebook import Sampled
from raycol.indexing.config import AppendConfig
from raycol.indexing.existing_documents import Present, positions_of
from raycol.indexing.journal import Journal, fingerprint
from raycol.indexing.metadata import PARENT_COLUMNS, TEXT_COLUMNS, MetadataCheck
from raycol.indexing.part import Task
from raycol.indexing.partitions import Target, build_partitions, built_before, merge_partitions
from raycol.indexing.plan import BuildPlan, plan_build
from raycol.indexing.report import BuildReport, make_report, save_report
from raycol.indexing.source import model_name, open_encoded
from raycol.storage import Store, absolute, open_store

# Appends to one index at once of which one may be the last to get through.
_ATTEMPTS = 8


def append_corpus(config: AppendConfig, report: Report = no_report, executor: Executor = ON_RAY) -> BuildReport:
    """Add a corpus to an index; or continue where the same command was interrupted.

    Where another writer changes the index meanwhile, the corpus is added to what that one has made, from the start.

    Raises:
        InputError: no index there, an unusable corpus, another model than the index's, or (unless `upsert`) a
            document that the index has already.
        ConflictError: other writers changed the index meanwhile, again and again.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _append(config, report, executor)
        except ConflictError:
            report(0, None, "another writer was first: adding to its version")
    return _append(config, report, executor)


def _append(config: AppendConfig, report: Report, executor: Executor) -> BuildReport:
    """One attempt. Raises as `append_corpus`, and `ConflictError` as soon as another writer is known to be first."""
    started, clock = time.monotonic(), Clock()
    store = open_store(absolute(config.index))
    current = read_manifest(store)
    work = _committed(config, store, current, report, clock)
    if work is None:
        snapshot = Snapshot.open(store, current)
        check_writable(snapshot)
        work = _prepare(config, snapshot, report, clock)
    snapshot, manifest, plan = work.snapshot, work.snapshot.manifest, work.plan
    before = built_before(work.journal, plan)
    target = Target(store.uri, manifest.dim, manifest.bits, work.model, manifest.codebook)

    def while_first(done: float, total: float | None, note: str) -> None:
        check_current(store, current.version)
        report(done, total, note)

    with writing_from(store, current.version), executor.session(config):
        with clock("encode"):
            built = build_partitions(config, plan, work.task, target, work.journal, before, while_first, executor)
        infos, columns, base = [part.info for part in built if part.info], manifest.columns, manifest.version
        with clock("merge"):
            added = merge_partitions(target, columns, base, infos, manifest.partition_tokens, while_first, executor)
    left_out = [id_ for part in built for id_ in part.left_out]
    kept = positions_of(snapshot, left_out)  # what does not come stays as it was
    gone = [np.setdiff1d(positions, here) for positions, here in zip(work.gone, kept, strict=True)]
    removed = sum(map(len, gone))
    try:
        with clock("commit"):
            commit_change(snapshot, gone, added)
    except ConflictError:
        if not _is_committed(store, manifest.version + 1, added):
            work.journal.forget_parts()
            raise
    done = make_report(
        config.index,
        manifest.version + 1,
        built,
        partitions=len(added),
        before=before,
        replaced=removed,
        skipped=plan.problems,
        seconds=time.monotonic() - started,
        clock=clock,
        sampled=Sampled(),
    )
    save_report(store, done)
    sweep(store)
    work.journal.remove()
    return done


def _is_committed(store: Store, version: int, added: tuple[PartitionInfo, ...]) -> bool:
    """Whether a version has these partitions: named after their contents, an append's own if it is the next one."""
    try:
        return bool(added) and read_manifest(store, version).partitions[-len(added) :] == added
    except InputError:  # it has been vacuumed
        return False


@dataclass(frozen=True)
class _Work:
    """What is to be appended to which version, and the documents of each of its partitions that are replaced."""

    snapshot: Snapshot
    plan: BuildPlan
    gone: list[NDArray[np.int64]]
    model: ModelInfo | None
    task: Task
    journal: Journal


def _committed(config: AppendConfig, store: Store, current: Manifest, report: Report, clock: Clock) -> _Work | None:
    """The same append from the version before, if it may have died between its commit and its end."""
    version = current.version
    mark = f"{version - 1:08d}-"
    begun = any(name.startswith(mark) for name in store.names(BUILDS))
    if not begun or not any(info.name.startswith(mark) for info in current.partitions):
        return None
    try:
        work = _prepare(config, Snapshot.open(store, read_manifest(store, version - 1)), report, clock)
    except (InputError, IndexCorruptError):
        return None
    return work if work.journal.exists() else None


def _prepare(config: AppendConfig, snapshot: Snapshot, report: Report, clock: Clock) -> _Work:
    """Plan, and check everything that can be checked before the work."""
    manifest = snapshot.manifest
    _check_effects(config, manifest)
    fields = _fields(config, manifest)
    with clock("plan"):
        plan, gone = _plan(config, snapshot, fields, report)
        model = _find_model(manifest, plan, config.model)
    task = Task(
        fields,
        manifest.columns,
        config.batch,
        manifest.pool_factor,
        config.on_error,
        manifest.version,
        manifest.split,
    )
    name = fingerprint(config, plan, task, model, bits=manifest.bits, codebook=manifest.codebook.name)
    journal = Journal(snapshot.store, manifest.version, name)
    return _Work(snapshot, plan, gone, model, task, journal)


def _plan(
    config: AppendConfig, snapshot: Snapshot, fields: Fields, report: Report
) -> tuple[BuildPlan, list[NDArray[np.int64]]]:
    """What is to come, and which documents of each partition go for it: with `upsert` those of the same ids.

    Without it, such documents cannot be used. They are looked up by thousands, so where they stand is found by
    reading again, which is for this case only.
    """
    metadata = MetadataCheck(fields, snapshot.manifest.columns, split=snapshot.manifest.split is not None)
    present = Present(snapshot)

    def look(passage: Passage) -> None:
        metadata(passage)
        present(passage)

    def plan_with(check: Callable[[Passage], None]) -> BuildPlan:
        return plan_build(config.files(), fields, config.docs_per_partition, config.on_error, check, report)

    plan, gone = plan_with(look), present.positions()
    if config.upsert or not any(map(len, gone)):
        return plan, gone
    there = present.ids()

    def refuse(passage: Passage) -> None:
        metadata(passage)
        if passage.id in there:
            raise InputError(f"document {passage.id!r} is in the index {snapshot.store} already; --upsert replaces it")

    if config.on_error == "skip" and len(there) == plan.documents:
        raise InputError(f"{config.corpus}: the index {snapshot.store} has all of it already; --upsert replaces it")
    return plan_with(refuse), [np.empty(0, dtype=np.int64) for _ in gone]


def _fields(config: AppendConfig, manifest: Manifest) -> Fields:
    """Which fields are what: metadata is what the index has columns for, under their names."""
    own = {*TEXT_COLUMNS, *(PARENT_COLUMNS if manifest.split else ())}
    return Fields(
        id=config.id_column,
        title=config.title_column,
        text=config.text_column,
        embeddings=config.embeddings_column,
        metadata={name: kind for name, kind in manifest.columns.items() if name not in own},
        make_ids=config.make_ids,
        encoded=manifest.model is None,
    )


def _check_effects(config: AppendConfig, manifest: Manifest) -> None:
    """Raise `InputError` for a setting that was given and that nothing reads beside what the index is."""
    if manifest.model:
        unread, reason = ["embeddings_column"], "the index has a model, which encodes the texts"
    elif "text" in manifest.columns:
        unread, reason = ["batch_tokens", "dtype"], "the index's documents come encoded"
    else:
        unread = ["batch_tokens", "dtype", "title_column", "text_column"]
        reason = "the index's documents come encoded, and it stores no texts"
    for name in unread:
        if name in config.model_fields_set and getattr(config, name) is not None:
            raise InputError(f"{name} has no effect: {reason}; leave {name} out")


def _find_model(manifest: Manifest, plan: BuildPlan, name_or_path: str | None) -> ModelInfo | None:
    """Where the index's model is now; opened once, so that a wrong one is found before any work is done."""
    info = manifest.model
    if info is None:
        if name_or_path:
            raise InputError("the index has no model, its documents came encoded; leave --model out")
        dim = open_encoded(plan, "the index's documents came encoded, so must these").dim
        if dim != manifest.dim:
            raise InputError(f"embeddings of {dim} dimensions; the index has {manifest.dim}")
        return None
    # torch is imported once the rest of the input is known to be good.
    from raycol.models.encoder import load_index_encoder

    load_index_encoder(info, name_or_path, device="cpu")
    return info.model_copy(update={"name": model_name(name_or_path or info.name)})
