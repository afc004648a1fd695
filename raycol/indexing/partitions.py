"""Encoding the partitions of a plan on the workers, with a journal of those that are finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from raycol.index.columns import Columns
from raycol.index.manifest import CodebookInfo, ModelInfo, PartitionInfo
from raycol.indexing.config import EncodingConfig
from raycol.indexing.journal import Journal
from raycol.indexing.plan import Plan
from raycol.indexing.workers import PartitionBuilder, on_workers
from raycol.progress import Report


@dataclass(frozen=True)
class Target:
    """The index that partitions are made for, and the version that the work started from."""

    uri: str
    base: int
    dim: int
    bits: int
    columns: Columns
    pool_factor: float
    model: ModelInfo


def finished_partitions(journal: Journal, plan: Plan) -> dict[int, PartitionInfo]:
    """Partitions from before, by their number in the plan."""
    return {number: info for number in range(len(plan.partitions)) if (info := journal.partition(number))}


def build_partitions(
    config: EncodingConfig,
    plan: Plan,
    target: Target,
    codebook: CodebookInfo,
    journal: Journal,
    done: dict[int, PartitionInfo],
    report: Report,
) -> tuple[PartitionInfo, ...]:
    """Build the partitions that are not done yet; return all, in the order of the plan."""
    waiting = [number for number in range(len(plan.partitions)) if number not in done]
    found = dict(done)
    report(sum(info.documents for info in found.values()), plan.documents, "encoding")
    for number, info in _build(config, plan, target, codebook, waiting) if waiting else ():
        journal.save_partition(number, info)
        found[number] = info
        report(sum(info.documents for info in found.values()), plan.documents, "encoding")
    return tuple(found[number] for number in range(len(plan.partitions)))


def _build(
    config: EncodingConfig, plan: Plan, target: Target, codebook: CodebookInfo, numbers: Iterable[int]
) -> Iterator[tuple[int, PartitionInfo]]:
    """Yield each partition with its number, as workers finish them."""
    rows = [{"number": number, **plan.partitions[number].to_row()} for number in numbers]
    arguments: dict[str, Any] = {
        "model": target.model.name,
        "batch_size": config.batch_size,
        "pool_factor": target.pool_factor,
        "uri": target.uri,
        "codebook": codebook.model_dump_json(),
        "dim": target.dim,
        "bits": target.bits,
        "columns": dict(target.columns),
        "base": target.base,
    }
    for row in on_workers(PartitionBuilder, config, rows, arguments):
        yield row["number"], PartitionInfo.model_validate_json(row["partition"])
