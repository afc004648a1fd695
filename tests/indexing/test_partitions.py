"""Progress of a build, without Ray."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycol.data import Fields, corpus_files
from raycol.distributed.executor import IN_PROCESS
from raycol.distributed.partitioned_job import PartitionedJob
from raycol.index.format.manifest import CodebookInfo
from raycol.indexing import IndexConfig
from raycol.indexing.part import BuiltPart, PartSettings
from raycol.indexing.partitions import Target, build_partitions
from raycol.indexing.plan import plan_build
from raycol.storage import open_store


def built(tokens: int, seconds: float) -> BuiltPart:
    """A finished part of fifteen documents."""
    table = {"bytes": 2, "xxh3": "0" * 32}
    info = {"name": "p", "documents": 15, "tokens": tokens, "id_bytes": 9, "error": 0, "files": {}, "table": table}
    return BuiltPart(
        info=info, documents=15, truncated=0, problems=[], cpu_s={}, wall_s=seconds, peak_bytes=0, spans={}
    )


class TwoWorkers(type(IN_PROCESS)):
    """Two workers that start slowly and build at once."""

    def n_workers(self, config: object) -> int:
        return 2

    def run(self, worker: object, config: object, inputs: dict[int, Any], *rest: object) -> Iterator[Any]:
        time.sleep(0.5)
        for number in inputs:
            yield number, built(1000, 0.01)


@pytest.mark.slow
def test_the_reported_rate_excludes_reused_parts_and_worker_startup(corpus: Path, tmp_path: Path) -> None:
    plan = plan_build(corpus_files(str(corpus)), Fields(), 15)
    store = open_store(str(tmp_path))
    target = Target(store, 16, 4, None, CodebookInfo(name="c", n_centroids=1, error=0, files={}))
    reports: list[tuple[float, float | None, str]] = []
    done = build_partitions(
        IndexConfig(corpus="c", out="i"),
        plan,
        PartSettings(Fields(), {}, 100, 1, "fail", 0),
        target,
        PartitionedJob(store, "builds/00000000-", {}, BuiltPart),
        {2: built(10**9, 1.0)},
        lambda done, total, note: reports.append((done, total, note)),
        TwoWorkers(),
    )
    assert [part.tokens for part in done] == [1000, 1000, 10**9, 1000]
    assert [done for done, _, _ in reports] == [15, 30, 45, 60]
    assert reports[0] == (15, 60, "0 tokens/s, 1 of 4 parts, 2 running; 1 from before")
    rate, _, rest = reports[-1][2].partition(" ")
    assert rest == "tokens/s, 4 of 4 parts"
    assert 3000 / 0.4 < float(rate.replace(",", "")) <= 3000 / 0.01
