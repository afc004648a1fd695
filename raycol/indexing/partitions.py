"""Build the partitions of a plan on the workers, and merge small ones."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycol.core.progress import Report
from raycol.data.corpus import refuse
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.index.format.codebook_files import open_codebook
from raycol.index.format.columns import Columns
from raycol.index.format.manifest import CodebookInfo, ModelInfo, PartitionInfo
from raycol.index.write.compact import group_partitions, merge_group
from raycol.indexing.config import EncodingConfig
from raycol.indexing.journal import Journal
from raycol.indexing.metrics import BuildMetrics
from raycol.indexing.part import BuiltPart, PartSettings
from raycol.indexing.plan import BuildPlan
from raycol.indexing.workers import PartitionBuilder
from raycol.storage import open_store

# Merging leaves about this many partitions or more, to spread over shards.
_MIN_PARTITIONS = 8
# At most this many tokens are merged on the driver, which takes less time than starting workers.
_MAX_DRIVER_TOKENS = 1 << 18


@dataclass(frozen=True)
class Target:
    """The index that partitions are built for."""

    uri: str
    dim: int
    bits: int
    model: ModelInfo | None
    codebook: CodebookInfo


def built_parts(journal: Journal, plan: BuildPlan) -> dict[int, BuiltPart]:
    """Return the finished parts of a plan, by number."""
    return {number: built for number in range(len(plan.parts)) if (built := journal.built(number))}


def build_partitions(
    config: EncodingConfig,
    plan: BuildPlan,
    settings: PartSettings,
    target: Target,
    journal: Journal,
    reused: Mapping[int, BuiltPart],
    report: Report,
    executor: Executor,
) -> list[BuiltPart]:
    """Build all parts but the reused ones; return all, in the order of the plan."""
    done = dict(reused)
    for problem in [problem for built in done.values() for problem in built.problems]:
        refuse(problem, config.on_error)  # the part may have been built with --on-error skip
    progress = _Progress(config, plan, done, report, executor)
    unfinished = [number for number in range(len(plan.parts)) if number not in done]
    rows = [{"number": number, "part": plan.parts[number].to_json()} for number in unfinished]
    arguments: dict[str, Any] = {
        "settings": settings.to_json(),
        "model": target.model.model_dump_json() if target.model else None,
        "uri": target.uri,
        "codebook": target.codebook.model_dump_json(),
        "dim": target.dim,
        "bits": target.bits,
        "journal": journal.name,
    }
    for row in executor.run(PartitionBuilder, config, rows, arguments) if rows else ():
        built = BuiltPart.model_validate_json(row["built"])
        done[row["number"]] = built
        progress.add(built)
    return [done[number] for number in range(len(plan.parts))]


class _Progress:
    """Reports progress to the terminal and as Ray metrics."""

    def __init__(
        self,
        config: EncodingConfig,
        plan: BuildPlan,
        done: Mapping[int, BuiltPart],
        report: Report,
        executor: Executor,
    ) -> None:
        self._report = report
        self._plan = plan
        self._workers = executor.n_workers(config)
        self._documents = sum(built.documents for built in done.values())
        self._skipped = len(plan.problems) + sum(len(built.problems) for built in done.values())
        self._parts = len(done)
        self._tokens = 0
        self._started = math.inf
        self._metrics = None if executor.in_process else BuildMetrics(plan.documents)
        self._report_progress()

    def add(self, built: BuiltPart) -> None:
        """Add a finished part."""
        # Leaves out the time in which workers start and open their model.
        self._started = min(self._started, time.monotonic() - built.wall_s)
        self._documents += built.documents
        self._tokens += built.tokens
        self._skipped += len(built.problems)
        self._parts += 1
        self._report_progress()

    def _report_progress(self) -> None:
        rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
        if self._metrics:
            self._metrics.show(self._documents, self._tokens, self._parts, self._skipped, rate)
        parts = len(self._plan.parts)
        n_running = min(self._workers, parts - self._parts)
        running = f", {n_running} running" if n_running else ""
        skipped = f", {self._skipped} skipped" if self._skipped else ""
        note = f"{rate:,.0f} tokens/s, {self._parts} of {parts} parts{running}{skipped}"
        self._report(self._documents, self._plan.documents, note)


def merged_tokens(total: int, partition_tokens: int) -> int:
    """Return the tokens per merged partition: `partition_tokens`, but fewer if the index is small."""
    return min(partition_tokens, max(1, total // _MIN_PARTITIONS))


def merge_partitions(
    target: Target,
    columns: Columns,
    base: int,
    infos: Sequence[PartitionInfo],
    tokens: int,
    report: Report,
    executor: Executor,
) -> tuple[PartitionInfo, ...]:
    """Merge consecutive small partitions to about `tokens` tokens each, on the cluster unless the index is small."""
    groups = list(group_partitions(infos, merged_tokens(sum(info.tokens for info in infos), tokens)))
    merged = [group[0] for group in groups]
    unmerged = [number for number, group in enumerate(groups) if len(group) > 1]
    if not unmerged:
        return tuple(merged)
    report(0, len(unmerged), "merging")
    common = (target.uri, target.codebook.model_dump_json(), target.dim, target.bits, dict(columns), base)
    calls = {number: ([info.model_dump_json() for info in groups[number]], *common) for number in unmerged}
    on_driver = sum(info.tokens for number in unmerged for info in groups[number]) <= _MAX_DRIVER_TOKENS
    for number, info in (IN_PROCESS if on_driver else executor).call(_merge, calls, "merging partitions"):
        merged[number] = PartitionInfo.model_validate_json(info)
        unmerged.remove(number)
        report(len(calls) - len(unmerged), len(calls), "merging")
    return tuple(merged)


def _merge(partitions: list[str], uri: str, codebook: str, dim: int, bits: int, columns: Columns, base: int) -> str:
    store = open_store(uri)
    infos = [PartitionInfo.model_validate_json(info) for info in partitions]
    opened_codebook = open_codebook(store, CodebookInfo.model_validate_json(codebook), dim, bits)
    return merge_group(store, infos, opened_codebook, columns, base).model_dump_json()
