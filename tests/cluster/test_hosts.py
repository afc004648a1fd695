"""Three hosts train, index, append and serve as one does, through the Jobs API, and outlive what befalls hosts."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raycol.models.encoder import load_encoder
from tests.cluster.deployed import deployed
from tests.cluster.hosts import A_HOST, Hosts, running_hosts, why_not
from tests.cluster.place import Place
from tests.indexing.cluster import contents
from tests.training.material import weights

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=why_not())]

QUERIES = ("violin and piano", "rain", "a ship in the fog")
PARTS, CHECKPOINTS = "index/builds/*/0*.json", ".model-training/checkpoints/*.json"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(3) as hosts:
        yield hosts


@pytest.fixture
def place(tmp_path: Path, tiny_colbert: Path) -> Place:
    return Place(tmp_path, tiny_colbert)


def test_three_hosts_produce_the_same_results_as_one(hosts: Hosts, place: Place) -> None:
    expected, made = place.alone("train", "index", "append"), place.shared / "made"
    for verb in ("train", "index", "append"):
        place.submit(hosts, verb, made)
    one, other = (weights(load_encoder(folder / "model", device="cpu")) for folder in (expected, made))
    assert np.abs(one - other).max() <= 1e-6
    assert contents(expected / "index") == contents(made / "index")
    app = {"index": str(made / "index"), "host": "0.0.0.0", "open": True, "shards": 2}
    with deployed(hosts, place.checkout, app):
        endpoint = f"http://{hosts.address(2)}:8000"
        words = ["search", endpoint, *QUERIES, "-k", 5]
        answers = hosts.raycol(3, *words, cwd=place.checkout)
        assert answers == hosts.raycol(1, "search", expected / "index", *words[2:], cwd=place.checkout)


def cut_for_a_while(hosts: Hosts) -> None:
    """Long enough for the cluster to give the host up; what is left of Ray there ends, and is started anew."""
    hosts.cut(3)
    time.sleep(6)
    hosts.mend(3)
    hosts.destroy(3)
    hosts.start(3)


def destroy(hosts: Hosts) -> None:
    hosts.destroy(2)
    hosts.start(2)


def restart_the_head(hosts: Hosts) -> None:
    """Its job dies with it, and goes on where it was once it is submitted to the head that has restarted."""
    hosts.destroy(1)
    hosts.start(1)


@pytest.mark.parametrize("befalls", [cut_for_a_while, destroy, restart_the_head])
def test_a_build_survives_failures_of_hosts(hosts: Hosts, place: Place, befalls: Callable[[Hosts], None]) -> None:
    expected = place.alone("index")
    made = place.disturb(hosts, "index", PARTS, partial(befalls, hosts))
    assert contents(expected / "index") == contents(made / "index")


@pytest.mark.parametrize("befalls", [cut_for_a_while, destroy, restart_the_head])
def test_training_survives_failures_of_hosts(hosts: Hosts, place: Place, befalls: Callable[[Hosts], None]) -> None:
    place.change("train", max_steps=200, save_every=10)
    expected = place.alone("train")
    # A worker a host, so that each host that is lost has one.
    place.change("train", resources={"CPU": 1, A_HOST: 1})
    made = place.disturb(hosts, "train", CHECKPOINTS, partial(befalls, hosts))
    one, other = (weights(load_encoder(folder / "model", device="cpu")) for folder in (expected, made))
    assert np.abs(one - other).max() <= 1e-6
