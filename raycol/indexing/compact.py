"""`raycol index compact`: merge small partitions and drop deleted documents, without encoding.

Each part of the job is one new partition, so workers share the work, and the bytes are those of `Index.compact`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from raycol.core.progress import Report, no_report
from raycol.core.shown import Shown
from raycol.distributed.executor import IN_PROCESS, Executor, choose_executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.manifest import (
    BUILDS,
    FORMAT_VERSION,
    PARTITIONS,
    Manifest,
    PartitionInfo,
    check_current,
    writing_from,
)
from raycol.index.format.partition import Partition
from raycol.index.format.snapshot import Snapshot
from raycol.index.write.compact import Slice, commit_compaction, join_slices, plan_compaction
from raycol.index.write.vacuum import sweep
from raycol.indexing.config import CompactConfig
from raycol.storage import StoredFolder, absolute, open_store

# A compaction of at most this many tokens runs on the driver, which takes less time than starting workers.
_MAX_DRIVER_TOKENS = 20_000_000


@dataclass(frozen=True, repr=False)
class CompactReport(Shown):
    """Result of a compaction.

    Args:
        index: path or URI of the index.
        version: the committed version; the current one if there was nothing to rewrite.
        partitions_before, partitions: number of partitions before and after.
        dropped: deleted documents that are no longer stored.
        reused_parts: new partitions that an interrupted run had finished.
        seconds: wall-clock time of this run.
    """

    _main: ClassVar = ("index", "version", "partitions_before", "partitions", "dropped", "seconds")

    index: str
    version: int
    partitions_before: int
    partitions: int
    dropped: int
    reused_parts: int
    seconds: float


class MergedPart(PartRecord):
    """Record of a new partition."""

    info: PartitionInfo

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        """The partition."""
        return [StoredFolder(folder=f"{PARTITIONS}/{self.info.name}", files=self.info.files)]


class Merger(PartWorker[tuple[Slice, ...], MergedPart]):
    """Joins slices of partitions.

    Args:
        job: the compaction; its store is the index.
        manifest: the version to compact.
    """

    def __init__(self, job: PartitionedJob[MergedPart], manifest: Manifest) -> None:
        super().__init__(job)
        self.manifest = manifest

    def open(self) -> None:
        """Open the codebook."""
        self.codebook = open_codebook(self.job.store, self.manifest.codebook, self.manifest.dim, self.manifest.bits)
        self._opened_partitions: dict[str, Partition] = {}

    def describe(self, number: int, input_: tuple[Slice, ...]) -> str:
        """Name the first of the partitions."""
        return f"partition {input_[0].partition.name}"

    def compute(self, number: int, input_: tuple[Slice, ...]) -> MergedPart:
        """Write a new partition. Those that a worker has read stay open: the next part may begin in one."""
        opened = self._opened_partitions
        self._opened_partitions = {
            each.partition.name: opened.get(each.partition.name)
            or Partition.open(self.job.store, each.partition, self.codebook, self.manifest.columns)
            for each in input_
        }
        info = join_slices(
            self.job.store, input_, self._opened_partitions, self.codebook.n_centroids, self.manifest.version
        )
        return MergedPart(info=info)


def compact_index(
    config: CompactConfig, report: Report = no_report, executor: Executor | None = None
) -> CompactReport:
    """Compact an index on workers, or continue an interrupted compaction of the same settings.

    `executor` runs the workers; by default `choose_executor` decides.

    Raises:
        InputError: no index there, no such partition, or it cannot be written.
        ConflictError: another writer committed first; the index is as that writer left it.
        RaycolError: a worker failed.
    """
    started = time.monotonic()
    store = open_store(absolute(config.index))
    snapshot = Snapshot.open_version(store)
    manifest = snapshot.manifest
    target_tokens = config.target_tokens or manifest.partition_tokens
    plan = plan_compaction(snapshot, target_tokens, config.partitions)
    reused: dict[int, MergedPart] = {}
    if plan.merged:
        settings = {
            "format": FORMAT_VERSION,
            "compact": target_tokens,
            "partitions": sorted(config.partitions),
            "version": manifest.version,
        }
        job = PartitionedJob(store, f"{BUILDS}/{manifest.version:08d}-", settings, MergedPart)
        n_parts = len(plan.merged)
        reused = job.finished_parts(n_parts)
        tokens = sum(info.tokens for info in manifest.partitions) - sum(info.tokens for info in plan.unchanged)
        if executor is None:
            executor = IN_PROCESS if tokens <= _MAX_DRIVER_TOKENS else choose_executor(config, n_parts)
        with writing_from(store, manifest.version), executor.session(config, report):
            job.begin()
            progress = PartProgress(report, [1] * n_parts, reused, executor.n_workers(config))
            check = partial(check_current, store, manifest.version)
            arguments = {"manifest": manifest}
            parts = job.run(
                Merger, config, plan.merged, reused, arguments, "the compaction", executor, progress, check
            )
        snapshot = commit_compaction(snapshot, plan, [part.info for part in parts])
        report(n_parts, n_parts, "removing what is left over")
        sweep(store, manifest.version)
        store.remove_empty_folder(BUILDS)
    after = snapshot.manifest
    stored = sum(info.documents for info in manifest.partitions)
    return CompactReport(
        index=config.index,
        version=after.version,
        partitions_before=len(manifest.partitions),
        partitions=len(after.partitions),
        dropped=stored - sum(info.documents for info in after.partitions),
        reused_parts=len(reused),
        seconds=round(time.monotonic() - started, 3),
    )
