"""Both jobs on Ray: the same bytes, whoever works, and whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from raycol.mining import MineConfig, ScoreConfig, mine_negatives, score_examples
from tests.mining import here
from tests.mining.conftest import contents

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]

_PATIENCE_S = 240


def parts(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.glob(f".{out.name}-unfinished-*/part-*"))


def workers(actor: str) -> list[psutil.Process]:
    """Processes of the actors of a kind, of the session that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if f"MapWorker(MapBatches({actor}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_worker(actor: str) -> None:
    """Kill one of them."""
    found = workers(actor)
    assert found, "no worker"
    found[0].kill()


def start(verb: str, *words: object) -> subprocess.Popen:
    """The job as it is submitted to a cluster: a process of its own, on this session's Ray."""
    import ray

    from tests.conftest import PROJECT

    command = [sys.executable, str(PROJECT / "jobs" / f"{verb}.py"), *map(str, words)]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen, happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not happened():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.005)


def die_twice(process: subprocess.Popen, out: Path, actor: str) -> int:
    """Kill a worker, and later the driver, between the parts; return how many were finished then."""
    try:
        wait_for(process, lambda: len(parts(out)) >= 2)
        kill_worker(actor)
        wait_for(process, lambda: len(parts(out)) >= 6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + _PATIENCE_S
    while workers(actor):  # they outlive it for a moment
        assert time.monotonic() < deadline, "its workers go on"
        time.sleep(0.05)
    assert not out.exists()
    return len(parts(out))


def test_workers_on_ray_mine_the_same_bytes(beir: Path, index: Path, tmp_path: Path) -> None:
    config = MineConfig(index=index, data=beir, out="-", num_workers=1, queries_per_part=16)
    here.mine_negatives(config.model_copy(update={"out": str(tmp_path / "here")}))
    mine_negatives(config.model_copy(update={"out": str(tmp_path / "ray")}))
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


@pytest.mark.long
def test_mining_outlives_a_worker_and_its_driver(
    beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    settings = {"cross_encoder": str(tiny_cross_encoder), "short": "keep", "sampling": "random", "queries_per_part": 1}
    whole = here.mine_negatives(MineConfig(index=index, data=beir, out=tmp_path / "whole", **settings))
    out = tmp_path / "o"
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    process = start("mine", index, beir, "--out", out, "--num-workers", 2, *words)
    before = die_twice(process, out, "MiningWorker")
    report = mine_negatives(MineConfig(index=index, data=beir, out=out, num_workers=1, **settings))
    assert report.reused_parts == before < report.parts == 30
    assert contents(out) == contents(tmp_path / "whole")
    assert report.negatives == whole.negatives


@pytest.mark.long
def test_scoring_outlives_a_worker_and_its_driver(
    beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    here.mine_negatives(MineConfig(index=index, data=beir, out=tmp_path / "mined"))
    config = ScoreConfig(data=tmp_path / "mined", teacher=str(tiny_cross_encoder), out="-", queries_per_part=2)
    here.score_examples(config.model_copy(update={"out": tmp_path / "whole"}))
    out = tmp_path / "o"
    words = ["--teacher", tiny_cross_encoder, "--queries-per-part", 2]
    process = start("score", tmp_path / "mined", "--out", out, "--num-workers", 2, *words)
    before = die_twice(process, out, "ScoringWorker")
    report = score_examples(config.model_copy(update={"out": out, "num_workers": 1}))
    assert report.reused_parts == before < report.parts == 30
    assert contents(out) == contents(tmp_path / "whole")
