"""What an endpoint with one replica of each shard answers while a shard is gone or hangs."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from raycol.serving.config import ServeConfig
from raycol.serving.run import Endpoint, serving
from tests.serving.load import check_answers, clients, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def endpoint(index, ray_local: None) -> Iterator[Endpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, port=0, timeout_s=5.0)) as running:
        yield running


def test_the_only_replica_of_a_shard_killed(endpoint, expected) -> None:
    def body(number: int) -> dict:
        return {**one_query(number), "timeout_ms": 1500, "allow_partial": number % 2 == 0}

    with clients(endpoint.url, body, 4, pause=0.02) as load:
        load.wait(lambda answers: len(answers) > 30)
        killed = time.monotonic()
        os.kill(replicas("shard-0001")[0].pid, signal.SIGKILL)
        # It may be there again in a moment: both are looked for in all answers since.
        load.wait(lambda _: any(a.status == 200 and a.body["partial"] for a in load.since(killed)))
        load.wait(lambda _: any(a.status == 503 for a in load.since(killed)))
        load.wait(lambda answers: [a.status == 200 and not a.body["partial"] for a in answers[-30:]] == [True] * 30)
    assert set(load.statuses) == {200, 503}
    assert all(answer.seconds < 2.5 for answer in load.answers), max(answer.seconds for answer in load.answers)
    check_answers(load, expected)


def test_a_shard_that_hangs_holds_no_request_beyond_its_deadline(endpoint, expected) -> None:
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
