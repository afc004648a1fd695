"""jobs/nodes.py asks for room, waits for it, and gives it back."""

import runpy
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import PROJECT


class Cluster:
    """One whose nodes come when it is looked at for the third time."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.looks = 0

    def request_resources(self, bundles: list[dict[str, float]]) -> None:
        self.asked.append(bundles)

    def cluster_resources(self) -> dict[str, float]:
        self.looks += 1
        return {"CPU": 4.0} if self.looks < 3 else {"CPU": 16.0, "spot": 16.0}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr("ray.init", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", cluster.cluster_resources)
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", cluster.request_resources)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return cluster


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(runpy.run_path(str(PROJECT / "jobs" / "nodes.py"))["main"])
    return CliRunner().invoke(app, arguments)


def test_it_waits_until_there_is_room(cluster: Cluster) -> None:
    done = run("8", "--resources", "CPU=2,spot=2")
    assert done.exit_code == 0
    assert cluster.asked == [[{"CPU": 2.0, "spot": 2.0}] * 8]
    assert cluster.looks == 3
    assert "lacking {'CPU': 12.0, 'spot': 16.0}" in done.output
    assert "there is room for 8 workers" in done.output


def test_nothing_is_asked_for_any_more(cluster: Cluster) -> None:
    done = run("0")
    assert done.exit_code == 0
    assert cluster.asked == [[]]


def test_nodes_that_do_not_come_are_not_waited_for_for_ever(cluster: Cluster) -> None:
    done = run("8", "--resources", "GPU=1", "--timeout-s", "0")
    assert done.exit_code == 1
    assert "lacking" in done.output


def test_resources_are_read_as_everywhere(cluster: Cluster) -> None:
    done = run("8", "--resources", "CPU=none")
    assert done.exit_code == 2
    assert cluster.asked == []
