"""What a build or an append did: on the screen, and as build-report.json in the index."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

from pydantic import BaseModel, ConfigDict

import raycol
from raycol.core.memory import peak_memory
from raycol.data import BadRecord
from raycol.errors import writing
from raycol.index.format.manifest import REPORT
from raycol.indexing.clock import Clock
from raycol.indexing.codebook import Sampled
from raycol.indexing.part import Built
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


class BuildReport(BaseModel):
    """What a build or an append did.

    Args:
        index: where the index is.
        version: the version that was committed.
        documents: documents of the corpus that are in it now.
        passages: what the index counts as documents: more than `documents` where these were split.
        tokens: tokens stored.
        truncated: documents (passages, where they were split) cut off at the model's length.
        replaced: documents (passages) that were in the index before.
        partitions: partitions added.
        parts: parts that the corpus was cut into, a worker's task each.
        reused_parts: parts that an interrupted build had finished.
        skipped: records that could not be used.
        seconds: of the whole, by the clock.
        stage_seconds: by the clock: plan, sample, train, encode, merge, commit; without what was done before.
        stage_tokens_per_second: tokens by that time, of sample and encode.
        cpu_seconds: by stage: of plan and train here, of the others in the workers, those of parts from before too.
        tokens_per_cpu_second: of what the workers do to every token, by stage; those that took no time left out.
        tokens_per_worker_second: tokens by the workers' time.
        peak_worker_bytes: the largest worker's resident memory.
        peak_driver_bytes: this process's.
        versions: of raycol, Python and the libraries that matter.
    """

    model_config = ConfigDict(frozen=True)

    index: str
    version: int
    documents: int
    passages: int
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
    peak_worker_bytes: int
    peak_driver_bytes: int
    versions: dict[str, str]


def make_report(
    index: str,
    version: int,
    built: Sequence[Built],
    *,
    partitions: int,
    before: Mapping[int, Built],
    replaced: int,
    skipped: Sequence[BadRecord],
    seconds: float,
    clock: Clock,
    sampled: Sampled,
) -> BuildReport:
    """Put together what the parts say, and the clock of this process."""
    stages: dict[str, float] = {}
    for part in built:
        for stage, spent in part.cpu_s.items():
            stages[stage] = stages.get(stage, 0.0) + spent
    # What else this process does is waiting for workers.
    cpu_s = {stage: spent for stage, spent in clock.cpu_s.items() if stage in ("plan", "train")}
    if sampled.tokens:
        cpu_s["sample"] = sampled.cpu_s
    tokens = sum(part.tokens for part in built)
    made = {"sample": sampled.tokens, "encode": tokens - sum(part.tokens for part in before.values())}
    return BuildReport(
        index=index,
        version=version,
        documents=sum(part.documents for part in built),
        passages=sum(part.info.documents for part in built if part.info),
        tokens=tokens,
        truncated=sum(part.truncated for part in built),
        replaced=replaced,
        partitions=partitions,
        parts=len(built),
        reused_parts=len(before),
        skipped=[*skipped, *(problem for part in built for problem in part.problems)],
        seconds=round(seconds, 3),
        stage_seconds=_rounded(clock.wall_s),
        stage_tokens_per_second={stage: round(n / clock.wall_s[stage], 1) for stage, n in made.items() if n},
        cpu_seconds=_rounded({**cpu_s, **stages}),
        tokens_per_cpu_second={stage: round(tokens / spent, 1) for stage, spent in stages.items() if spent >= 0.001},
        tokens_per_worker_second=round(tokens / max(sum(part.wall_s for part in built), 1e-9), 1),
        peak_worker_bytes=max(sampled.peak_bytes, *(part.peak_bytes for part in built)),
        peak_driver_bytes=peak_memory(),
        versions=library_versions(),
    )


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(spent, 3) for stage, spent in seconds.items()}


def save_report(store: Store, report: BuildReport) -> None:
    """Write the report into the index, in place of the last one's."""
    with writing(store):
        store.write(REPORT, report.model_dump_json(indent=1).encode())


def library_versions() -> dict[str, str]:
    """Versions of raycol, Python and the libraries that matter."""
    found = {"raycol": raycol.__version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
