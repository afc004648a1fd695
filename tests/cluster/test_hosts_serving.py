"""An endpoint over three hosts answers on while hosts are lost, and is whole again when they are back."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycol.index import Index
from raycol.models.encoder import load_encoder
from tests.cluster.asking import CLIENTS, Asked, asking
from tests.cluster.deployed import deployed, wait_until_whole
from tests.cluster.hosts import Hosts, running_hosts, why_not
from tests.cluster.place import Place
from tests.serving.load import QUERIES, Answered, check_answers

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=why_not())]

LOG = logging.getLogger(__name__)
# A replica of everything on either host that has CPUs.
TWO = {"num_replicas": 2, "max_replicas_per_node": 1}
DEPLOYMENTS = [{"name": name, **TWO} for name in ("gateway", "query-encoder", "shard-0000", "shard-0001")]
DEADLINE_S = 3.0
# HAProxy misses a gateway within ten seconds. If Serve does so before, what is there ends ten seconds after that.
MISSED_S = 14.0


@pytest.fixture(scope="module")
def index(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    place = Place(tmp_path_factory.mktemp("indexed"), tiny_colbert)
    return Index.open(place.alone("index") / "index")


@pytest.fixture(scope="module")
def expected(index: Index, tiny_colbert: Path) -> dict[int, list[list[str]]]:
    """The ids that each query finds, by the version."""
    encoder = load_encoder(tiny_colbert, device="cpu")
    queries = [encoder.encode_query([query], convert_to_numpy=True)[0] for query in QUERIES]
    return {index.version: [[hit.id for hit in hits] for hits in index.search(queries, k=10)]}


@pytest.fixture(scope="module")
def hosts(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    app = {"index": index.uri, "host": "0.0.0.0", "open": True, "shards": 2, "replicas": 2}
    folder = tmp_path_factory.mktemp("serve")
    with running_hosts(3, cpus=4) as hosts, deployed(hosts, folder, app, DEPLOYMENTS):
        yield hosts


def whole(answers: list[Answered]) -> list[Answered]:
    return [answer for answer in answers if answer.status == 200 and not answer.body["partial"]]


def check(asked: Asked, expected, began: float, recovered: float) -> None:
    """No wrong answer, none after its deadline, and none that is not whole but while something was missed.

    What is at a gateway whose host goes silent has no answer, and ends when HAProxy misses the gateway.
    """
    check_answers(asked, expected)
    late = [answer for answer in asked.answers if answer.seconds > (DEADLINE_S if answer.status else MISSED_S) + 1]
    short = [answer for answer in asked.answers if answer not in whole([answer])]
    LOG.info(
        "%d answers, %d whole, %s; whole again %.1f s after; slowest %.2f s",
        len(asked.answers), len(whole(asked.answers)), dict(asked.statuses), recovered - began,
        max(answer.seconds for answer in asked.answers),
    )  # fmt: skip
    assert not late
    assert asked.statuses[0] <= CLIENTS
    assert all(began - DEADLINE_S < answer.asked < recovered for answer in short)


def all_whole(answers: list[Answered]) -> bool:
    return len(answers) >= 100 and len(whole(answers[-100:])) == 100


def test_a_host_is_destroyed(hosts: Hosts, expected, tmp_path: Path) -> None:
    lose_host_3(hosts, expected, tmp_path, lambda: hosts.destroy(3), lambda: None)


def test_a_host_is_partitioned_and_returns(hosts: Hosts, expected, tmp_path: Path) -> None:
    def cut() -> None:
        hosts.cut(3)
        time.sleep(MISSED_S)

    def come_back() -> None:
        hosts.mend(3)
        time.sleep(3)
        # The cluster gave it up; what is left of Ray there ends, and is started anew.
        hosts.destroy(3)

    lose_host_3(hosts, expected, tmp_path, cut, come_back)


def lose_host_3(hosts: Hosts, expected, folder: Path, lose: Callable[[], None], come_back: Callable[[], None]) -> None:
    """Clients ask on while the host is lost, and while Ray is started there again."""
    with asking(hosts, 1, f"http://{hosts.address(2)}:8000", folder) as asked:
        asked.wait(all_whole)
        began = time.monotonic()
        lose()
        asked.wait(all_whole)
        recovered = last_short(asked, began)
        come_back()
        hosts.start(3)
        wait_until_whole(hosts, folder)
        asked.wait(all_whole)
    check(asked, expected, began, recovered)


def test_the_head_restarts(hosts: Hosts, expected, tmp_path: Path) -> None:
    """Nobody misses it: what it knows is in its storage, and what answers is elsewhere."""
    with asking(hosts, 3, f"http://{hosts.address(2)}:8000", tmp_path) as asked:
        asked.wait(all_whole)
        began = time.monotonic()
        hosts.destroy(1)
        asked.wait(all_whole)
        hosts.start(1)
        wait_until_whole(hosts, tmp_path)
        recovered = time.monotonic()
        asked.wait(all_whole)
        assert len(whole(asked.since(0.0))) == len(asked.answers)
    check(asked, expected, began, recovered)


def last_short(asked: Asked, began: float) -> float:
    """When the last answer that was not whole had been asked for, and a little."""
    return (
        max([answer.asked for answer in asked.since(began - DEADLINE_S) if not whole([answer])], default=began) + 0.1
    )
