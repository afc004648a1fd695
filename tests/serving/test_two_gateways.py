"""All gateways of an endpoint follow version switches."""

from collections.abc import Iterator

import httpx2
import pytest

from raycol.index import Index
from raycol.serving.deploy import DeployConfig, deploy
from tests.serving.by_config import deployed_by_config
from tests.serving.load import Answered, check_answers, clients, one_query, replicas

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def url(index: Index, ray_local: None) -> Iterator[str]:
    two = [{"name": "gateway", "num_replicas": 2}]
    with deployed_by_config({"index": index.uri, "shards": 2, "timeout_s": 5}, deployments=two) as url:
        assert len(replicas("gateway")) == 2
        yield url


def test_all_gateways_switch_versions_under_load(url: str, index: Index, expected) -> None:
    newest = index.version

    def all_of(version: int):
        def last(answers: list[Answered]) -> bool:
            return len(answers) > 100 and {answer.body["version"] for answer in answers[-100:]} == {version}

        return last

    with clients(url, one_query, 8) as load:
        load.wait(all_of(newest))
        deploy(DeployConfig(target=index.uri, version=1))
        load.wait(all_of(1))
        # One gateway switches, the other follows.
        answer = httpx2.post(f"{url}/v1/admin/version", json={"version": None}, timeout=60)
        assert answer.json()["version"] == newest
        load.wait(all_of(newest))
    assert set(load.statuses) == {200}
    assert not any(answer.body["partial"] for answer in load.answers)
    check_answers(load, expected)


def test_each_gateway_has_its_own_series(url: str) -> None:
    names = set()
    for _ in range(20):
        lines = httpx2.get(f"{url}/metrics").text.splitlines()
        names |= {line for line in lines if line.startswith("raycol_index_version{")}
    assert len(names) == 2
