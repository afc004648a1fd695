"""Shards gain replicas on another host under load and lose them afterwards, without a failed request."""

import logging
import time
from pathlib import Path

import pytest

from raycol.index import Index
from tests.cluster.deployed import deployed, status_of
from tests.cluster.hosts import Hosts, running_hosts, skip_reason
from tests.cluster.job_files import JobFiles
from tests.cluster.querying import querying

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
]

LOG = logging.getLogger(__name__)
SHARDS = ("shard-0000", "shard-0001")
# An endpoint's settings, with shorter delays.
AUTOSCALING = {"min_replicas": 1, "max_replicas": 2, "upscale_delay_s": 1.0, "downscale_delay_s": 5.0,
            "look_back_period_s": 5.0}  # fmt: skip


def test_shards_scale_over_hosts(tiny_colbert: Path, tmp_path: Path) -> None:
    index = Index.open(JobFiles(tmp_path, tiny_colbert).run_locally("index") / "index")
    app = {"index": index.uri, "host": "0.0.0.0", "open": True, "shards": 2, "max_replicas": 2, "timeout_s": 30}
    deployments = [{"name": name, "max_replicas_per_node": 1, "autoscaling_config": AUTOSCALING} for name in SHARDS]
    policy = {"policy_function": "raycol.serving.scaling:scale_together"}
    with running_hosts(3, cpus=4) as hosts, deployed(hosts, tmp_path, app, deployments, autoscaling_policy=policy):
        assert replicas(hosts, tmp_path) == [1, 1]
        with load(hosts, tmp_path, "heavy") as many:
            wait_for(hosts, tmp_path, [2, 2])
            many.wait(lambda answers: len(answers) > 20)
        with load(hosts, tmp_path, "light") as few:
            wait_for(hosts, tmp_path, [1, 1])
            few.wait(lambda answers: len(answers) > 20)
    for asked in (many, few):
        assert set(asked.statuses) == {200}
        assert not any(answer.body["partial"] for answer in asked.answers)


def load(hosts: Hosts, folder: Path, kind: str):
    where = folder / kind
    where.mkdir()
    return querying(hosts, 1, f"http://{hosts.address(2)}:8000", where, kind)


def replicas(hosts: Hosts, folder: Path) -> list[int]:
    """Number of running replicas of each shard."""
    of = status_of(hosts, folder)["applications"]["raycol"]["deployments"]
    return [of[name]["replica_states"].get("RUNNING", 0) for name in SHARDS]


def wait_for(hosts: Hosts, folder: Path, wanted: list[int]) -> None:
    began = time.monotonic()
    while (found := replicas(hosts, folder)) != wanted:
        assert time.monotonic() < began + 120, found
        time.sleep(0.5)
    LOG.info("%s replicas after %.0f s", wanted, time.monotonic() - began)
