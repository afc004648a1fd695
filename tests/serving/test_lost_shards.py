"""Responses of an endpoint with one replica per shard while a shard is lost or hangs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from raycol.index.shard import assign_partitions
from raycol.serving.config import ServeConfig
from raycol.serving.run import RunningEndpoint, serving
from tests.serving.load import check_answers, clients, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint(index, ray_local: None) -> Iterator[RunningEndpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, port=0, timeout_s=5.0)) as running:
        yield running


def test_the_only_replica_of_a_shard_killed(endpoint, expected) -> None:
    def body(number: int) -> dict:
        return {**one_query(number), "timeout_ms": 1500, "allow_partial": number % 2 == 0}

    with clients(endpoint.url, body, 4, pause=0.02) as load:
        load.wait(lambda answers: len(answers) > 30)
        killed = time.monotonic()
        os.kill(replicas("shard-0001")[0].pid, signal.SIGKILL)
        # It may recover at once: look for both kinds of response in all of them.
        load.wait(lambda _: any(a.status == 200 and a.body["partial"] for a in load.since(killed)))
        load.wait(lambda _: any(a.status == 503 for a in load.since(killed)))
        load.wait(lambda answers: [a.status == 200 and not a.body["partial"] for a in answers[-30:]] == [True] * 30)
    assert set(load.statuses) == {200, 503}
    assert all(answer.seconds < 2.5 for answer in load.answers), max(answer.seconds for answer in load.answers)
    check_answers(load, expected)


def test_a_hanging_shard_delays_no_request_past_its_deadline(endpoint, expected) -> None:
    process = replicas("shard-0000")[0]
    with clients(endpoint.url, lambda n: {**one_query(n), "timeout_ms": 700}, 4, pause=0.02) as load:
        load.wait(lambda answers: len(answers) > 30)
        process.send_signal(signal.SIGSTOP)
        try:
            load.wait(lambda answers: sum(a.status == 200 and a.body["partial"] for a in answers) > 3)
        finally:
            process.send_signal(signal.SIGCONT)
        load.wait(lambda answers: [a.status == 200 and not a.body["partial"] for a in answers[-30:]] == [True] * 30)
    assert set(load.statuses) == {200}
    assert all(answer.seconds < 1.7 for answer in load.answers), max(answer.seconds for answer in load.answers)
    check_answers(load, expected)


def test_truncated_mapped_files_cost_one_shard_and_no_time(endpoint, index, expected) -> None:
    """Reading past the end of a truncated mapped file kills the process (SIGBUS), and its successors."""
    names = assign_partitions(index.manifest.partitions, 2)[1]
    files = [path for name in names for path in (Path(index.uri) / "partitions" / name).iterdir()]
    originals = {path: path.read_bytes() for path in files}
    with clients(endpoint.url, lambda n: {**one_query(n), "timeout_ms": 4000}, 4, pause=0.02) as load:
        load.wait(lambda answers: len(answers) > 30)
        usual = median(answer.seconds for answer in load.answers)
        pids = {process.pid for process in replicas("shard-0001")}
        for path in files:
            os.truncate(path, 0)
        try:
            load.wait(lambda _: {process.pid for process in replicas("shard-0001")}.isdisjoint(pids), 60)
            load.wait(
                lambda answers: [a.status == 200 and a.body["partial"] for a in answers[-30:]] == [True] * 30, 60
            )
            # The circuit breaker stays open: the replica's successors die, too.
            opened = time.monotonic()
            load.wait(lambda _: len(load.since(opened)) > 200 and time.monotonic() > opened + 10, 60)
            down = load.since(opened)
        finally:
            for path, content in originals.items():
                path.write_bytes(content)
        assert all(answer.status == 200 and answer.body["partial"] for answer in down)
        late = [answer.seconds for answer in down if answer.seconds > max(0.5, 20 * usual)]
        assert not late, (usual, late)
        whole = [True] * 30
        load.wait(lambda answers: [a.status == 200 and not a.body["partial"] for a in answers[-30:]] == whole, 120)
    assert set(load.statuses) == {200}
    check_answers(load, expected)
