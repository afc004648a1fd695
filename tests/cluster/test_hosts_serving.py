"""An endpoint over three hosts keeps answering while hosts are lost, and recovers when they return."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycol.index import Index
from raycol.models.encoder import load_encoder
from tests.cluster.deployed import deployed, wait_until_healthy
from tests.cluster.hosts import Hosts, running_hosts, skip_reason
from tests.cluster.job_files import JobFiles
from tests.cluster.querying import CLIENTS, RecordedLoad, querying
from tests.serving.load import QUERIES, Answered, check_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
]

LOG = logging.getLogger(__name__)
# One replica of each deployment on each host with CPUs.
TWO = {"num_replicas": 2, "max_replicas_per_node": 1}
DEPLOYMENTS = [{"name": name, **TWO} for name in ("gateway", "query-encoder", "shard-0000", "shard-0001")]
DEADLINE_S = 3.0
# HAProxy detects a lost gateway within 10 seconds. If Serve does first, the old HAProxy ends its requests 10 s later.
MISSED_S = 14.0


@pytest.fixture(scope="module")
def index(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    files = JobFiles(tmp_path_factory.mktemp("indexed"), tiny_colbert)
    return Index.open(files.run_locally("index") / "index")


@pytest.fixture(scope="module")
def expected(index: Index, tiny_colbert: Path) -> dict[int, list[list[str]]]:
    """The ids of each query's hits, by version."""
    encoder = load_encoder(tiny_colbert, device="cpu")
    queries = [encoder.encode_query([query], convert_to_numpy=True)[0] for query in QUERIES]
    return {index.version: [[hit.id for hit in hits] for hits in index.search(queries, k=10)]}


@pytest.fixture(scope="module")
def hosts(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    app = {"index": index.uri, "host": "0.0.0.0", "open": True, "shards": 2, "replicas": 2}
    folder = tmp_path_factory.mktemp("serve")
    with running_hosts(3, cpus=4) as hosts, deployed(hosts, folder, app, DEPLOYMENTS):
        yield hosts


def complete(answers: list[Answered]) -> list[Answered]:
    return [answer for answer in answers if answer.status == 200 and not answer.body["partial"]]


def check(asked: RecordedLoad, expected, began: float, recovered: float) -> None:
    """Check that no answer is wrong or late, and that answers are incomplete only between failure and recovery.

    Requests at a gateway whose host goes silent get no answer; HAProxy ends them once it detects the lost gateway.
    """
    check_answers(asked, expected)
    late = [answer for answer in asked.answers if answer.seconds > (DEADLINE_S if answer.status else MISSED_S) + 1]
    short = [answer for answer in asked.answers if answer not in complete([answer])]
    LOG.info(
        "%d answers, %d complete, %s; recovered after %.1f s; slowest %.2f s",
        len(asked.answers), len(complete(asked.answers)), dict(asked.statuses), recovered - began,
        max(answer.seconds for answer in asked.answers),
    )  # fmt: skip
    assert not late
    assert asked.statuses[0] <= CLIENTS
    assert all(began - DEADLINE_S < answer.asked < recovered for answer in short)


def all_complete(answers: list[Answered]) -> bool:
    return len(answers) >= 100 and len(complete(answers[-100:])) == 100


def test_a_host_is_destroyed(hosts: Hosts, expected, tmp_path: Path) -> None:
    lose_host_3(hosts, expected, tmp_path, lambda: hosts.destroy(3), lambda: None)


def test_a_host_is_partitioned_and_returns(hosts: Hosts, expected, tmp_path: Path) -> None:
    def cut() -> None:
        hosts.disconnect(3)
        time.sleep(MISSED_S)

    def come_back() -> None:
        hosts.reconnect(3)
        time.sleep(3)
        # The cluster has declared it dead: kill what remains of its Ray, which is restarted next.
        hosts.destroy(3)

    lose_host_3(hosts, expected, tmp_path, cut, come_back)


def lose_host_3(hosts: Hosts, expected, folder: Path, lose: Callable[[], None], come_back: Callable[[], None]) -> None:
    """Query the endpoint while the host is lost and while Ray restarts there."""
    with querying(hosts, 1, f"http://{hosts.address(2)}:8000", folder) as asked:
        asked.wait(all_complete)
        began = time.monotonic()
        lose()
        asked.wait(all_complete)
        recovered = last_short(asked, began)
        come_back()
        hosts.start(3)
        wait_until_healthy(hosts, folder)
        asked.wait(all_complete)
    check(asked, expected, began, recovered)


def test_the_head_restarts(hosts: Hosts, expected, tmp_path: Path) -> None:
    """No request is affected: the head's state is in its storage, and all replicas run elsewhere."""
    with querying(hosts, 3, f"http://{hosts.address(2)}:8000", tmp_path) as asked:
        asked.wait(all_complete)
        began = time.monotonic()
        hosts.destroy(1)
        asked.wait(all_complete)
        hosts.start(1)
        wait_until_healthy(hosts, tmp_path)
        recovered = time.monotonic()
        asked.wait(all_complete)
        assert len(complete(asked.since(0.0))) == len(asked.answers)
    check(asked, expected, began, recovered)


def last_short(asked: RecordedLoad, began: float) -> float:
    """The moment just after the last request with an incomplete answer."""
    incomplete = [answer for answer in asked.since(began - DEADLINE_S) if not complete([answer])]
    return max((answer.asked for answer in incomplete), default=began) + 0.1
