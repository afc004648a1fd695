"""Responses of an endpoint with two replicas per shard during crashes and version switches."""

import os
import signal
import time
from collections.abc import Iterator

import httpx2
import pytest

from raycol.index import Index
from raycol.serving.config import ServeConfig
from raycol.serving.run import RunningEndpoint, serving
from tests.serving.load import check_answers, clients, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def two_replicas(index: Index, ray_local: None) -> Iterator[RunningEndpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, replicas=2, port=0, timeout_s=5.0)) as running:
        yield running


def test_versions_are_switched_and_rolled_back_under_load(two_replicas, index, expected) -> None:
    newest = index.version
    with clients(two_replicas.url, one_query, 8) as load:
        load.wait(lambda answers: len(answers) > 50)
        for version in (1, newest, 1, None):
            answer = httpx2.post(f"{two_replicas.url}/v1/admin/version", json={"version": version}, timeout=60)
            assert answer.status_code == 200, answer.text
            served = answer.json()["version"]
            assert served == (version or newest)
            switched = time.monotonic()
            load.wait(lambda answers: len(answers) > 50)
            assert {answer.body["version"] for answer in load.since(switched)} == {served}
    assert set(load.statuses) == {200}
    assert not any(answer.body["partial"] for answer in load.answers)
    assert {answer.body["version"] for answer in load.answers} == {1, newest}
    check_answers(load, expected)


def test_a_failed_switch_keeps_the_served_version(two_replicas, index) -> None:
    answer = httpx2.post(f"{two_replicas.url}/v1/admin/version", json={"version": 99}, timeout=60)
    assert answer.status_code == 422
    assert "no version 99" in answer.json()["detail"]
    assert httpx2.get(f"{two_replicas.url}/v1/index").json()["version"] == index.version


def test_one_of_two_replicas_killed_under_load(two_replicas, expected) -> None:
    with clients(two_replicas.url, one_query, 4, pause=0.01) as load:
        load.wait(lambda answers: len(answers) > 50)
        victim = replicas("shard-0001")[0]
        os.kill(victim.pid, signal.SIGKILL)
        killed = time.monotonic()
        recovered = load.wait(lambda answers: sum(a.status == 200 and not a.body["partial"] for a in answers) > 300)
    # Requests in flight there may get partial responses; none fails or is late.
    assert set(load.statuses) == {200}
    check_answers(load, expected)
    short = [answer for answer in load.since(killed - 5) if answer.body["partial"]]
    assert all(answer.body["shards"] == {"total": 2, "answered": 1} for answer in short)
    assert all(answer.seconds < 4 for answer in load.answers)
    assert not [answer for answer in load.since(recovered - 0.5) if answer.body["partial"]]


def test_the_encoder_and_the_gateway_killed(two_replicas, expected) -> None:
    for deployment in ("query-encoder", "gateway"):
        with clients(two_replicas.url, one_query, 2, pause=0.02) as load:
            load.wait(lambda answers: len(answers) > 20)
            os.kill(replicas(deployment)[0].pid, signal.SIGKILL)
            load.wait(lambda answers: len(answers) > 5)
            load.wait(lambda answers: [a.status for a in answers[-20:]] == [200] * 20, timeout=60)
        assert set(load.statuses) <= {200, 0, 500, 502, 503}, load.statuses
        check_answers(load, expected)
