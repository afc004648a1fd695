"""`raycol index build`: plan, sample, train the codebook, encode partitions on Ray Data, merge small ones, commit.

Each row of the Ray Dataset is a part of the corpus, not a document: an actor reads, encodes and quantises the part,
writes its partition and returns only a description. So only the embeddings of the codebook's sample cross the object
store, a lost worker costs one part, and the bytes do not depend on the number of workers.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from raycol.core.progress import Report, no_report
from raycol.distributed.executor import IN_PROCESS, Executor, choose_executor
from raycol.errors import ConflictError
from raycol.index.codec.codebook import check_codec
from raycol.index.format.columns import Columns
from raycol.index.format.manifest import (
    BUILDS,
    Manifest,
    commit_manifest,
    read_manifest,
    versions,
)
from raycol.index.write.create import check_new, partition_tokens_for
from raycol.index.write.vacuum import sweep
from raycol.indexing.clock import Clock
from raycol.indexing.codebook import SampleStats, TrainedCodebook, train_on_sample
from raycol.indexing.config import IndexConfig
from raycol.indexing.metadata import PARENT_COLUMNS, TEXT_COLUMNS, MetadataCheck
from raycol.indexing.part import PartSettings
from raycol.indexing.partitions import Target, build_job, build_partitions, merge_partitions
from raycol.indexing.plan import BuildPlan, CorpusChangedError, plan_build
from raycol.indexing.plan_ranges import cut_corpus, forget_plans, plan_corpus
from raycol.indexing.report import BuildReport, make_report, save_report
from raycol.indexing.source import SourceInfo, open_source
from raycol.storage import Store, absolute, open_store

# At most this many ranges are planned on the driver, which takes less time than starting workers.
_MAX_DRIVER_RANGES = 4


def build_index(config: IndexConfig, report: Report = no_report, executor: Executor | None = None) -> BuildReport:
    """Build an index of a corpus, or continue an interrupted build from its finished parts.

    `executor` runs the workers; by default `choose_executor` decides.

    Raises:
        InputError: an unusable corpus or model, or `out` already holds an index.
        RaycolError: a worker failed, or `out` cannot be written.
    """
    started, clock = time.monotonic(), Clock()
    store = open_store(absolute(config.out))
    if not store.names(BUILDS):
        check_new(store)
    with ExitStack() as stack:
        try:
            with clock("plan"):
                plan, metadata = _plan(config, store, stack, report, executor)
                if config.model:
                    report(0, None, "loading the model")
                source = open_source(plan, config.model, config.splitting, config.embedding_size)
            check_codec(source.dim, config.bits)
            return _build(config, store, plan, metadata, source, executor, clock, started, report)
        except CorpusChangedError:  # perhaps without a change of lengths and times, by which plans are kept
            forget_plans(store, 0)
            raise


def _plan(
    config: IndexConfig, store: Store, stack: ExitStack, report: Report, executor: Executor | None
) -> tuple[BuildPlan, Columns]:
    """Return the plan and the metadata columns. A large corpus is planned by workers, whose session enters `stack`."""
    files, fields, split = config.files(), config.fields(), config.splitting is not None
    ranges = cut_corpus(files, encoded=fields.encoded)
    if len(ranges) > 1:
        planner = IN_PROCESS
        if len(ranges) > _MAX_DRIVER_RANGES:
            planner = executor or choose_executor(config, len(ranges))
            stack.enter_context(planner.planning(config, report))
        return plan_corpus(config, files, ranges, fields, split, store, 0, report, planner)
    check = MetadataCheck(fields, split=split)
    plan = plan_build(files, fields, config.docs_per_partition, config.on_error, check, report)
    return plan, check.finish(files[0])


def _build(
    config: IndexConfig,
    store: Store,
    plan: BuildPlan,
    metadata: Columns,
    source: SourceInfo,
    executor: Executor | None,
    clock: Clock,
    started: float,
    report: Report,
) -> BuildReport:
    """Build an index as planned, or continue building it."""
    fields, split = plan.fields, config.splitting
    columns = (TEXT_COLUMNS if config.store_text else {}) | (PARENT_COLUMNS if split else {}) | dict(metadata)
    settings = PartSettings(fields, columns, config.batch, config.pool_factor, config.on_error, 0, split)
    codec = config.model_dump(include={"bits", "n_centroids", "sample_documents", "seed"})
    job = build_job(store, config, plan, settings, source.model, **codec)
    trained = job.read("codebook", TrainedCodebook)
    if versions(store) != [1] or trained is None or read_manifest(store).codebook != trained.info:
        check_new(store)  # otherwise this build died between its commit and its cleanup
    job.refuse_others(config.out)
    executor = executor or choose_executor(config, len(plan.parts))
    with executor.session(config, report):
        # Partitions are useless without their codebook: training it again may change its last bits.
        reused = job.finished_parts(len(plan.parts)) if trained else {}
        sample = SampleStats()
        if trained is None:
            codebook, sample = train_on_sample(
                config, plan, settings, store, source.model, source.dim, source.mean_tokens, clock, report, executor
            )
            trained = TrainedCodebook(info=codebook)
            job.remove()
            job.save("codebook", trained)
        job.begin()
        target = Target(store, source.dim, config.bits, source.model, trained.info)
        with clock("encode"):
            built = build_partitions(config, plan, settings, target, job, reused, report, executor)
        infos = [part.info for part in built if part.info]
        partition_tokens = partition_tokens_for(sum(info.tokens for info in infos))
        with clock("merge"):
            partitions = merge_partitions(target, columns, 0, infos, partition_tokens, report, executor, config)
    manifest = Manifest(
        version=1,
        dim=source.dim,
        bits=config.bits,
        seed=config.seed,
        partition_tokens=partition_tokens,
        pool_factor=config.pool_factor,
        columns=columns,
        model=source.model,
        split=split,
        codebook=trained.info,
        partitions=partitions,
    )
    try:
        with clock("commit"):
            commit_manifest(store, manifest)
    except ConflictError:
        if read_manifest(store, 1) != manifest:
            raise
    done = make_report(
        config.out,
        1,
        built,
        in_index=manifest.documents,
        partitions=len(partitions),
        reused=reused,
        replaced=0,
        skipped=plan.problems,
        seconds=time.monotonic() - started,
        clock=clock,
        sample=sample,
    )
    save_report(store, done)
    report(len(built), len(built), "removing what is left over")
    sweep(store, 0)
    store.remove_empty_folder(BUILDS)
    return done
