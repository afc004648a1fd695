"""Overload: excess requests are rejected at once, memory is bounded, and the endpoint recovers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycol.index import Index
from raycol.serving.config import ServeConfig
from raycol.serving.run import RunningEndpoint, serving
from tests.conftest import PROJECT
from tests.serving.load import clients, heavy, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]

TIMES = 20
SECONDS = float(os.environ.get("RAYCOL_OVERLOAD_SECONDS", "60"))
TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def endpoint(index: Index, ray_local: None) -> Iterator[RunningEndpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, port=0, timeout_s=TIMEOUT_S, max_requests=8)) as running:
        yield running


def memory() -> int:
    names = ("gateway", "query-encoder", "shard-0000", "shard-0001")
    return sum(process.memory_info().rss for name in names for process in replicas(name))


def flood(url: str, rate: float, seconds: float, folder: Path) -> dict[str, Any]:
    """Send requests at a fixed rate (open loop) from a cheap process; returns its report."""
    bodies = folder / "bodies.jsonl"
    bodies.write_text(json.dumps(heavy("%%NUMBER%%")) + "\n")
    job = {"port": int(url.rsplit(":", 1)[1]), "path": "/v1/search", "bodies": str(bodies), "seconds": seconds,
           "warm_s": 0.0, "rate": rate}  # fmt: skip
    command = [sys.executable, str(PROJECT / "benchmarks" / "load.py"), json.dumps(job)]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report


def test_twenty_times_the_load_is_rejected_at_once(endpoint: RunningEndpoint, tmp_path: Path) -> None:
    with clients(endpoint.url, heavy, 2) as load:
        load.wait(lambda answers: len(answers) > 20)
    usual = sorted(answer.seconds for answer in load.answers)[len(load.answers) // 2]
    before = memory()
    report = flood(endpoint.url, TIMES * 2 / usual, SECONDS, tmp_path)
    after = memory()
    statuses, n = report["statuses"], sum(report["statuses"].values())
    assert set(statuses) <= {"200", "429", "503"}, statuses
    assert statuses["200"]
    assert statuses["429"] > n / 2, statuses
    # The deadline, plus scheduling delay on two cores.
    assert max(report["slowest_ms"].values()) < 1000 * (TIMEOUT_S + 3), report["slowest_ms"]
    assert after < before + (300 << 20)
    # Back to normal within five seconds.
    with clients(endpoint.url, one_query, 2, pause=0.01) as load:
        load.wait(lambda answers: [a.status == 200 and a.seconds < 1 for a in answers[-20:]] == [True] * 20, timeout=5)
