"""Building the partitions of a plan on the workers, and merging small ones."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycol.core.progress import Report
from raycol.data.corpus import refuse
from raycol.distributed.executor import IN_PROCESS, Executor
from raycol.index.codec.codebook_files import open_codebook
from raycol.index.format.columns import Columns
from raycol.index.format.manifest import CodebookInfo, ModelInfo, PartitionInfo
from raycol.index.write.compact import group_partitions, merge_group
from raycol.indexing.config import EncodingConfig
from raycol.indexing.journal import Journal
from raycol.indexing.metrics import BuildMetrics
from raycol.indexing.part import Built, Task
from raycol.indexing.plan import BuildPlan
from raycol.indexing.workers import PartitionBuilder
from raycol.storage import open_store

_FEWEST = 8
# So few tokens in all are merged where the build was started: that takes less than starting workers for it.
_FEW_TOKENS = 1 << 18


@dataclass(frozen=True)
class Target:
    """The index that partitions are made for."""

    uri: str
    dim: int
    bits: int
    model: ModelInfo | None
    codebook: CodebookInfo


def built_before(journal: Journal, plan: BuildPlan) -> dict[int, Built]:
    """Parts that are done, by their number in the plan."""
    return {number: built for number in range(len(plan.parts)) if (built := journal.built(number))}


def build_partitions(
    config: EncodingConfig,
    plan: BuildPlan,
    task: Task,
    target: Target,
    journal: Journal,
    before: Mapping[int, Built],
    report: Report,
    executor: Executor,
) -> list[Built]:
    """Build what was not done before; return all, in the order of the plan."""
    done = dict(before)
    for problem in [problem for built in done.values() for problem in built.problems]:
        refuse(problem, config.on_error)  # they may have been skipped when the part was built
    progress = _Progress(config, plan, done, report, executor)
    waiting = [number for number in range(len(plan.parts)) if number not in done]
    rows = [{"number": number, "part": plan.parts[number].to_json()} for number in waiting]
    arguments: dict[str, Any] = {
        "task": task.to_json(),
        "model": target.model.model_dump_json() if target.model else None,
        "uri": target.uri,
        "codebook": target.codebook.model_dump_json(),
        "dim": target.dim,
        "bits": target.bits,
        "journal": journal.name,
    }
    for row in executor.run(PartitionBuilder, config, rows, arguments) if rows else ():
        built = Built.model_validate_json(row["built"])
        done[row["number"]] = built
        progress.add(built)
    return [done[number] for number in range(len(plan.parts))]


class _Progress:
    """Tells how the work goes: to the terminal, and as Ray's metrics."""

    def __init__(
        self, config: EncodingConfig, plan: BuildPlan, done: Mapping[int, Built], report: Report, executor: Executor
    ) -> None:
        self._report = report
        self._plan = plan
        self._workers = executor.n_workers(config)
        self._documents = sum(built.documents for built in done.values())
        self._skipped = len(plan.problems) + sum(len(built.problems) for built in done.values())
        self._parts = len(done)
        self._tokens = 0
        self._began = math.inf
        self._metrics = None if executor.in_process else BuildMetrics(plan.documents)
        self._tell()

    def add(self, built: Built) -> None:
        """One more part is done."""
        # Workers are started, and open their model, before they begin.
        self._began = min(self._began, time.monotonic() - built.wall_s)
        self._documents += built.documents
        self._tokens += built.tokens
        self._skipped += len(built.problems)
        self._parts += 1
        self._tell()

    def _tell(self) -> None:
        rate = self._tokens / max(time.monotonic() - self._began, 1e-9)
        if self._metrics:
            self._metrics.show(self._documents, self._tokens, self._parts, self._skipped, rate)
        parts = len(self._plan.parts)
        working = min(self._workers, parts - self._parts)
        at_work = f", {working} at work" if working else ""
        skipped = f", {self._skipped} skipped" if self._skipped else ""
        note = f"{rate:,.0f} tokens/s, {self._parts} of {parts} parts{at_work}{skipped}"
        self._report(self._documents, self._plan.documents, note)


def merged_tokens(total: int, partition_tokens: int) -> int:
    """Tokens that partitions are merged up to: never to so few that there is nothing to spread over shards."""
    return min(partition_tokens, max(1, total // _FEWEST))


def merge_partitions(
    target: Target,
    columns: Columns,
    base: int,
    infos: Sequence[PartitionInfo],
    tokens: int,
    report: Report,
    executor: Executor,
) -> tuple[PartitionInfo, ...]:
    """Merge small partitions to about so many tokens each, in order, on the cluster where they are many."""
    groups = list(group_partitions(infos, merged_tokens(sum(info.tokens for info in infos), tokens)))
    merged = [group[0] for group in groups]
    work = [number for number, group in enumerate(groups) if len(group) > 1]
    if not work:
        return tuple(merged)
    report(0, len(work), "merging")
    common = (target.uri, target.codebook.model_dump_json(), target.dim, target.bits, dict(columns), base)
    tasks = {number: ([info.model_dump_json() for info in groups[number]], *common) for number in work}
    few = sum(info.tokens for number in work for info in groups[number]) <= _FEW_TOKENS
    for number, info in (IN_PROCESS if few else executor).call(_merge, tasks, "merging partitions"):
        merged[number] = PartitionInfo.model_validate_json(info)
        work.remove(number)
        report(len(tasks) - len(work), len(tasks), "merging")
    return tuple(merged)


def _merge(partitions: list[str], uri: str, codebook: str, dim: int, bits: int, columns: Columns, base: int) -> str:
    store = open_store(uri)
    opened = open_codebook(store, CodebookInfo.model_validate_json(codebook), dim, bits)
    infos = [PartitionInfo.model_validate_json(info) for info in partitions]
    return merge_group(store, infos, opened, columns, base).model_dump_json()
