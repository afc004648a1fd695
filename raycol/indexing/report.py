"""The report of a build or an append, stored in the index as build-report.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from raycol.core.memory import peak_memory
from raycol.core.shown import Shown
from raycol.core.version import __version__
from raycol.data import BadRecord
from raycol.errors import writing
from raycol.index.format.manifest import REPORT
from raycol.indexing.clock import Clock
from raycol.indexing.codebook import SampleStats
from raycol.indexing.part import BuiltPart, Span
from raycol.storage import Store

_LIBRARIES = (
    "ray",
    "torch",
    "transformers",
    "sentence-transformers",
    "numpy",
    "numba",
    "faiss-cpu",
    "pyarrow",
    "datasets",
)


class BuildReport(Shown, BaseModel):
    """Result and cost of a build or an append.

    Args:
        index: location of the index.
        version: the committed version.
        documents: documents of the corpus that were added.
        passages: passages that were added; equal to `documents` unless documents were split.
        in_index: documents (passages, if split) in the index, in this version.
        tokens: tokens stored.
        truncated: documents (passages, if split) truncated at the model's length.
        replaced: existing documents (passages) that were replaced.
        partitions: partitions added, before the commit merges small ones.
        parts: parts that the corpus was cut into, a worker's task each.
        reused_parts: parts that an interrupted build had finished.
        skipped: unusable records.
        seconds: wall-clock seconds of the command.
        stage_seconds: wall-clock seconds of this command's plan, sample, train, encode, merge and commit.
        stage_tokens_per_second: tokens per wall-clock second of sample and encode.
        cpu_seconds: CPU seconds by stage: plan and train of the driver, the others of the workers, including those of
            reused parts.
        tokens_per_cpu_second: tokens per CPU second of each stage of the workers that took measurable time.
        tokens_per_worker_second: tokens per wall-clock second of a worker.
        busy_workers: mean number of workers in each stage (read, encode, write) while this command was encoding.
        encoding_share: share of that time in which a worker that encodes was encoding, rather than waiting.
        peak_worker_bytes: peak resident memory of the largest worker.
        peak_driver_bytes: peak resident memory of the driver.
        versions: versions of raycol, Python and the main libraries.
    """

    model_config = ConfigDict(frozen=True)
    _main: ClassVar = ("index", "version", "documents", "passages", "tokens", "partitions", "seconds")

    index: str
    version: int
    documents: int
    passages: int
    in_index: int
    tokens: int
    truncated: int
    replaced: int
    partitions: int
    parts: int
    reused_parts: int
    skipped: list[BadRecord]
    seconds: float
    stage_seconds: dict[str, float]
    stage_tokens_per_second: dict[str, float]
    cpu_seconds: dict[str, float]
    tokens_per_cpu_second: dict[str, float]
    tokens_per_worker_second: float
    busy_workers: dict[str, float]
    encoding_share: float
    peak_worker_bytes: int
    peak_driver_bytes: int
    versions: dict[str, str]


def make_report(
    index: str,
    version: int,
    built: Sequence[BuiltPart],
    *,
    in_index: int,
    partitions: int,
    reused: Mapping[int, BuiltPart],
    replaced: int,
    skipped: Sequence[BadRecord],
    seconds: float,
    clock: Clock,
    sample: SampleStats,
) -> BuildReport:
    """Sum up the parts' statistics and the driver's clock."""
    stages: dict[str, float] = {}
    for part in built:
        for stage, spent in part.cpu_s.items():
            stages[stage] = stages.get(stage, 0.0) + spent
    # In the other stages the driver waits for workers.
    cpu_s = {stage: spent for stage, spent in clock.cpu_s.items() if stage in ("plan", "train")}
    if sample.tokens:
        cpu_s["sample"] = sample.cpu_s
    tokens = sum(part.tokens for part in built)
    stage_tokens = {"sample": sample.tokens, "encode": tokens - sum(part.tokens for part in reused.values())}
    busy, share = busy_shares([part for number, part in enumerate(built) if number not in reused])
    return BuildReport(
        index=index,
        version=version,
        documents=sum(part.documents for part in built),
        passages=sum(part.info.documents for part in built if part.info),
        in_index=in_index,
        tokens=tokens,
        truncated=sum(part.truncated for part in built),
        replaced=replaced,
        partitions=partitions,
        parts=len(built),
        reused_parts=len(reused),
        skipped=[*skipped, *(problem for part in built for problem in part.problems)],
        seconds=round(seconds, 3),
        stage_seconds=_rounded(clock.wall_s),
        stage_tokens_per_second={stage: round(n / clock.wall_s[stage], 1) for stage, n in stage_tokens.items() if n},
        cpu_seconds=_rounded({**cpu_s, **stages}),
        tokens_per_cpu_second={stage: round(tokens / spent, 1) for stage, spent in stages.items() if spent >= 0.001},
        tokens_per_worker_second=round(tokens / max(sum(part.wall_s for part in built), 1e-9), 1),
        busy_workers=busy,
        encoding_share=share,
        peak_worker_bytes=max(sample.peak_bytes, *(part.peak_bytes for part in built)),
        peak_driver_bytes=peak_memory(),
        versions=library_versions(),
    )


def busy_shares(parts: Sequence[BuiltPart]) -> tuple[dict[str, float], float]:
    """Return `busy_workers` and `encoding_share` of a report: from the first part's encoding to the last one's."""
    encoding = [part.spans["encode"] for part in parts if "encode" in part.spans]
    if not encoding:
        return {}, 0.0
    start, end = min(span.start for span in encoding), max(span.end for span in encoding)
    busy: dict[str, float] = {}
    for part in parts:
        for stage, span in part.spans.items():
            seconds = max(0.0, min(span.end, end) - max(span.start, start))
            busy[stage] = busy.get(stage, 0.0) + seconds / max(end - start, 1e-9)
    # Each worker's own time: they start one after another.
    by_process: dict[str, list[Span]] = {}
    for span in encoding:
        by_process.setdefault(span.process, []).append(span)
    worked = sum(span.end - span.start for span in encoding)
    there = sum(max(span.end for span in own) - min(span.start for span in own) for own in by_process.values())
    return _rounded(busy), round(min(1.0, worked / max(there, 1e-9)), 3)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(spent, 3) for stage, spent in seconds.items()}


def save_report(store: Store, report: BuildReport) -> None:
    """Write the report into the index, replacing the previous one."""
    with writing(store):
        store.write(REPORT, report.model_dump_json(indent=1).encode())


def library_versions() -> dict[str, str]:
    """Return the versions of raycol, Python and the main libraries."""
    versions = {"raycol": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
