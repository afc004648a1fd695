"""Three hosts train, index, append and serve like one, through the Jobs API, and survive failures of hosts."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raycol.models.encoder import load_encoder
from tests.cluster.deployed import deployed
from tests.cluster.hosts import HOST_RESOURCE, Hosts, running_hosts, skip_reason
from tests.cluster.job_files import JobFiles
from tests.indexing.cluster import contents
from tests.training.material import weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
]

QUERIES = ("violin and piano", "rain", "a ship in the fog")
PARTS, CHECKPOINTS = "index/builds/*/0*.json", ".model-training/checkpoints/*.json"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(3) as hosts:
        yield hosts


@pytest.fixture
def files(tmp_path: Path, tiny_colbert: Path) -> JobFiles:
    return JobFiles(tmp_path, tiny_colbert)


def test_three_hosts_produce_the_same_results_as_one(hosts: Hosts, files: JobFiles) -> None:
    expected, made = files.run_locally("train", "index", "append"), files.shared / "made"
    for verb in ("train", "index", "append"):
        files.submit(hosts, verb, made)
    one, other = (weights(load_encoder(folder / "model", device="cpu")) for folder in (expected, made))
    assert np.abs(one - other).max() <= 1e-6
    assert contents(expected / "index") == contents(made / "index")
    app = {"index": str(made / "index"), "host": "0.0.0.0", "open": True, "shards": 2}
    with deployed(hosts, files.checkout, app):
        endpoint = f"http://{hosts.address(2)}:8000"
        words = ["search", endpoint, *QUERIES, "-k", 5]
        answers = hosts.raycol(3, *words, cwd=files.checkout)
        assert answers == hosts.raycol(1, "search", expected / "index", *words[2:], cwd=files.checkout)


def partition(hosts: Hosts) -> None:
    """Cut a host off until the cluster declares it dead; then kill and restart its Ray."""
    hosts.disconnect(3)
    time.sleep(6)
    hosts.reconnect(3)
    hosts.destroy(3)
    hosts.start(3)


def destroy(hosts: Hosts) -> None:
    hosts.destroy(2)
    hosts.start(2)


def restart_head(hosts: Hosts) -> None:
    """The job dies with the head, and resumes once it is submitted to the restarted head."""
    hosts.destroy(1)
    hosts.start(1)


@pytest.mark.parametrize("failure", [partition, destroy, restart_head])
def test_a_build_survives_failures_of_hosts(hosts: Hosts, files: JobFiles, failure: Callable[[Hosts], None]) -> None:
    expected = files.run_locally("index")
    made = files.submit_through_failure(hosts, "index", PARTS, partial(failure, hosts))
    assert contents(expected / "index") == contents(made / "index")


@pytest.mark.parametrize("failure", [partition, destroy, restart_head])
def test_training_survives_failures_of_hosts(hosts: Hosts, files: JobFiles, failure: Callable[[Hosts], None]) -> None:
    files.change("train", max_steps=200, save_every=10)
    expected = files.run_locally("train")
    # One worker a host, so that every lost host has one.
    files.change("train", resources={"CPU": 1, HOST_RESOURCE: 1})
    made = files.submit_through_failure(hosts, "train", CHECKPOINTS, partial(failure, hosts))
    one, other = (weights(load_encoder(folder / "model", device="cpu")) for folder in (expected, made))
    assert np.abs(one - other).max() <= 1e-6
