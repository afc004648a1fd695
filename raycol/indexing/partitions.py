"""Build the partitions of a plan on the workers, and merge small ones."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from raycol.core.progress import Report
from raycol.data.corpus import refuse
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.columns import Columns
from raycol.index.format.manifest import BUILDS, FORMAT_VERSION, CodebookInfo, ModelInfo, PartitionInfo
from raycol.index.write.compact import group_partitions, merge_group, merged_tokens
from raycol.indexing.config import EncodingConfig
from raycol.indexing.metrics import BuildMetrics
from raycol.indexing.part import BuiltPart, PartSettings
from raycol.indexing.plan import BuildPlan
from raycol.indexing.workers import PartitionBuilder
from raycol.storage import Store

# At most this many tokens are merged on the driver, which takes less time than starting workers.
_MAX_DRIVER_TOKENS = 1 << 18
# Memory of a merge: that of the process, and of the partitions joined, in multiples of their size.
_MERGE_BASE, _MERGE_COPIES = 300 << 20, 3


@dataclass(frozen=True)
class Target:
    """The index that partitions are built for."""

    store: Store
    dim: int
    bits: int
    model: ModelInfo | None
    codebook: CodebookInfo


def build_job(
    store: Store,
    config: EncodingConfig,
    plan: BuildPlan,
    settings: PartSettings,
    model: ModelInfo | None,
    **codec: object,
) -> PartitionedJob[BuiltPart]:
    """Return the job of a build or an append: `builds/<version>-<fingerprint>/` in the index.

    The version is the one that it starts from, by which `vacuum` knows whether it may still be running.

    Args:
        store: the index.
        config: settings; `on_error` and the number of workers do not decide the result.
        plan: the corpus, cut into parts.
        settings: settings of every part.
        model: the encoder; None if documents come encoded.
        codec: settings of the codebook, or its name.
    """
    fields = asdict(settings.fields)
    decides = {
        "format": FORMAT_VERSION,
        "version": settings.base,
        "docs_per_partition": config.docs_per_partition,
        "corpus": plan.digest,
        "model": model.fingerprint if model else None,
        **{f"{name}_column": fields.pop(name) for name in ("id", "title", "text", "embeddings")},
        **fields,
        "columns": dict(settings.columns),
        "split": settings.split.model_dump() if settings.split else None,
        "batch_tokens": settings.batch_tokens,
        "pool_factor": settings.pool_factor,
        "dtype": config.dtype,
        "on_gpu": config.on_gpu,
        **codec,
    }
    return PartitionedJob(store, f"{BUILDS}/{settings.base:08d}-", decides, BuiltPart)


def build_partitions(
    config: EncodingConfig,
    plan: BuildPlan,
    settings: PartSettings,
    target: Target,
    job: PartitionedJob[BuiltPart],
    reused: Mapping[int, BuiltPart],
    report: Report,
    executor: Executor,
) -> list[BuiltPart]:
    """Build all parts but the reused ones; return all, in the order of the plan."""
    for problem in [problem for built in reused.values() for problem in built.problems]:
        refuse(problem, config.on_error)  # the part may have been built with --on-error skip
    arguments = {
        **config.model_arguments,
        "settings": settings,
        "model": target.model,
        "codebook": target.codebook,
        "dim": target.dim,
        "bits": target.bits,
    }
    progress = _BuildProgress(config, plan, reused, report, executor)
    return job.run(PartitionBuilder, config, plan.parts, reused, arguments, "the build", executor, progress)


class _BuildProgress(PartProgress):
    """Reports progress to the terminal, with the speed, and as Ray metrics."""

    def __init__(
        self,
        config: EncodingConfig,
        plan: BuildPlan,
        reused: Mapping[int, BuiltPart],
        report: Report,
        executor: Executor,
    ) -> None:
        sizes = [part.documents for part in plan.parts]
        super().__init__(report, sizes, reused, executor.n_workers(config), "encoding")
        self._skipped = len(plan.problems) + sum(len(built.problems) for built in reused.values())
        self._tokens = 0
        self._started = math.inf
        self._metrics = None if executor.in_process else BuildMetrics(plan.documents)

    def add(self, number: int, built: BuiltPart) -> None:
        """Add a finished part."""
        # Leaves out the time in which workers start and open their model.
        self._started = min(self._started, time.monotonic() - built.wall_s)
        self._tokens += built.tokens
        self._skipped += len(built.problems)
        super().add(number, built)

    def note(self) -> str:
        """Add the speed and the skipped documents to the parts; set the metrics to the same values."""
        rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
        if self._metrics:
            self._metrics.show(self.done, self._tokens, self.n_finished, self._skipped, rate)
        skipped = f", {self._skipped} skipped" if self._skipped else ""
        return f"{rate:,.0f} tokens/s, {super().note()}{skipped}"


def merge_partitions(
    target: Target,
    columns: Columns,
    base: int,
    infos: Sequence[PartitionInfo],
    tokens: int,
    report: Report,
    executor: Executor,
    config: EncodingConfig,
) -> tuple[PartitionInfo, ...]:
    """Merge consecutive small partitions to about `tokens` tokens each, on the cluster unless the index is small."""
    groups = list(group_partitions(infos, merged_tokens(sum(info.tokens for info in infos), tokens)))
    merged = [group[0] for group in groups]
    unmerged = [number for number, group in enumerate(groups) if len(group) > 1]
    if not unmerged:
        return tuple(merged)
    report(0, len(unmerged), "merging")
    calls = {number: (target, groups[number], dict(columns), base) for number in unmerged}
    on_driver = sum(info.tokens for number in unmerged for info in groups[number]) <= _MAX_DRIVER_TOKENS
    memory = {number: _merge_memory(groups[number]) for number in unmerged}
    merging = (IN_PROCESS if on_driver else executor).call(_merge, calls, "merging partitions", config, memory)
    for number, info in merging:
        merged[number] = info
        unmerged.remove(number)
        report(len(calls) - len(unmerged), len(calls), "merging")
    return tuple(merged)


def _merge_memory(partitions: Sequence[PartitionInfo]) -> int:
    stored = sum(file.bytes for info in partitions for file in info.files.values())
    return _MERGE_BASE + _MERGE_COPIES * stored


def _merge(target: Target, partitions: Sequence[PartitionInfo], columns: Columns, base: int) -> PartitionInfo:
    codebook = open_codebook(target.store, target.codebook, target.dim, target.bits)
    return merge_group(target.store, partitions, codebook, columns, base)
