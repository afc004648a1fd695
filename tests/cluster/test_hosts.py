"""Three hosts train, index, append and serve as one does, through the Jobs API, and outlive what befalls hosts."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from raycol.models import load_encoder
from tests.cluster.hosts import PATIENCE_S, Hosts, running_hosts, why_not
from tests.conftest import PROJECT, make_passages, write_jsonl
from tests.indexing.cluster import contents
from tests.training.material import weights, write_examples

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(bool(why_not()), reason=why_not())]

QUERIES = ("violin and piano", "rain", "a ship in the fog")
TRAIN = {"batch_size": 8, "mini_batch_size": 4, "max_steps": 6, "learning_rate": 1e-3, "seed": 1,
         "no_duplicates": False, "num_workers": 2, "save_every": 2}  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with running_hosts(3) as hosts:
        yield hosts


class Place:
    """A checkout with configurations, and what its jobs read and write, as on shared storage."""

    def __init__(self, folder: Path, colbert: Path) -> None:
        self.checkout, self.shared = folder / "checkout", folder / "shared"
        shutil.copytree(PROJECT / "jobs", self.checkout / "jobs")
        self.shared.mkdir()
        passages = make_passages(120)
        corpus, more = (
            str(write_jsonl(self.shared / f"{name}.jsonl", part))
            for name, part in (("corpus", passages[:80]), ("more", passages[80:]))
        )
        data = str(write_examples(self.shared / "pairs.jsonl", 64))
        cut = {"docs_per_partition": 8, "num_workers": 2}
        self.configs = {
            "train": {"model": str(colbert), "data": data, "out": "model", **TRAIN},
            "index": {"corpus": corpus, "model": str(colbert), "out": "index", **cut},
            "append": {"index": "index", "corpus": more, **cut},
        }

    def write(self, verb: str, where: Path) -> Path:
        """A verb's configuration, with its results in a folder."""
        setting = "index" if verb == "append" else "out"
        settings = {**self.configs[verb], setting: str(where / self.configs[verb][setting])}
        file = self.checkout / f"{verb}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    def alone(self, *verbs: str) -> Path:
        """What this machine makes by itself."""
        where = self.shared / "alone"
        names = {"train": ["train"], "index": ["index", "build"], "append": ["index", "append"]}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        for verb in verbs:
            command = [sys.executable, "-m", "raycol", *names[verb], "--config", str(self.write(verb, where))]
            subprocess.run(command, env=clean | {"RAY_AUTH_MODE": "disabled"}, cwd=PROJECT, check=True,
                           timeout=PATIENCE_S)  # fmt: skip
        return where

    def submit(self, hosts: Hosts, verb: str, where: Path) -> str:
        """The same as a job of the hosts."""
        file = self.write(verb, where)
        return hosts.raycol(1, "submit", verb, file, "--address", hosts.dashboard, cwd=self.checkout)


@pytest.fixture
def place(tmp_path: Path, tiny_colbert: Path) -> Place:
    return Place(tmp_path, tiny_colbert)


def test_three_hosts_give_what_one_does(hosts: Hosts, place: Place) -> None:
    expected, made = place.alone("train", "index", "append"), place.shared / "made"
    for verb in ("train", "index", "append"):
        place.submit(hosts, verb, made)
    one, other = (weights(load_encoder(folder / "model", device="cpu")) for folder in (expected, made))
    assert np.abs(one - other).max() <= 1e-6
    assert contents(expected / "index") == contents(made / "index")
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [
            {
                "name": "raycol",
                "route_prefix": "/",
                "import_path": "raycol.serving.app:build_app",
                "args": {"index": str(made / "index"), "host": "0.0.0.0", "open": True, "shards": 2},
            }
        ],
    }
    (place.checkout / "serve.yaml").write_text(yaml.safe_dump(config))
    serve = Path(sys.executable).parent / "serve"
    hosts.run(1, serve, "deploy", "serve.yaml", "--address", hosts.dashboard, cwd=place.checkout)
    try:
        endpoint = f"http://{hosts.address(1)}:8000"
        wait_until_served(hosts, endpoint, place.checkout)
        words = ["search", endpoint, *QUERIES, "-k", 5]
        answers = hosts.raycol(3, *words, cwd=place.checkout)
        assert answers == hosts.raycol(1, "search", expected / "index", *words[2:], cwd=place.checkout)
    finally:
        hosts.run(1, serve, "shutdown", "--yes", "--address", hosts.dashboard, cwd=place.checkout)


def wait_until_served(hosts: Hosts, endpoint: str, folder: Path) -> None:
    asking = "import sys, raycol; sys.exit(raycol.Client(sys.argv[1]).ready().status != 'ok')"
    deadline = time.monotonic() + PATIENCE_S
    while hosts.popen(3, sys.executable, "-c", asking, endpoint, cwd=folder).wait():
        assert time.monotonic() < deadline
        time.sleep(1)


def disturbed(hosts: Hosts, place: Place, verb: str, progress: str, disturb) -> Path:
    """A job that something befalls once it has made so much; submitted again where it failed of it."""
    made = place.shared / "made"
    file = place.write(verb, made)
    words = [sys.executable, "-m", "raycol", "submit", verb, file, "--address", hosts.dashboard]
    job = hosts.popen(1, *words, cwd=place.checkout, log=place.shared / "job.log")
    deadline = time.monotonic() + PATIENCE_S
    while not list(made.glob(progress)) and not list(made.parent.glob(progress)):
        assert job.poll() is None, (place.shared / "job.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    disturb()
    # A head that has restarted takes a job of before for running until it has looked for it.
    for _ in range(3):
        if not job.wait(PATIENCE_S):
            return made
        job = hosts.popen(1, *words, cwd=place.checkout, log=place.shared / "job.log")
    raise AssertionError((place.shared / "job.log").read_text())


def test_a_build_outlives_a_host_that_is_cut_off(hosts: Hosts, place: Place) -> None:
    expected = place.alone("index")

    def cut_for_a_while() -> None:
        hosts.cut(3)
        time.sleep(6)
        hosts.mend(3)

    made = disturbed(hosts, place, "index", "index/builds/*/0*.json", cut_for_a_while)
    assert contents(expected / "index") == contents(made / "index")
    hosts.destroy(3)  # what is left of Ray there: it was given up
    hosts.start(3)


def test_a_build_outlives_a_host_that_is_destroyed(hosts: Hosts, place: Place) -> None:
    expected = place.alone("index")
    made = disturbed(hosts, place, "index", "index/builds/*/0*.json", lambda: hosts.destroy(2))
    assert contents(expected / "index") == contents(made / "index")
    hosts.start(2)


def test_a_build_outlives_the_head(hosts: Hosts, place: Place) -> None:
    """The job dies with the head, and goes on where it was once it is submitted to the head that has restarted."""
    expected = place.alone("index")

    def restart() -> None:
        hosts.destroy(1)
        hosts.start(1)

    made = disturbed(hosts, place, "index", "index/builds/*/0*.json", restart)
    assert contents(expected / "index") == contents(made / "index")
