"""Both jobs on Ray write the same bytes, with any workers and after workers or drivers were killed."""

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
from tests.mining import in_process
from tests.mining.conftest import contents

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("ray_local")]

_TIMEOUT_S = 240


def parts(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.glob(f".{out.name}-unfinished/*/0*.json"))


def workers(actor: str) -> list[psutil.Process]:
    """Return the processes of an actor class in the Ray session of this process."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if f"MapWorker(MapBatches({actor}" in " ".join(process.cmdline()):
                processes.append(process)
    return processes


def kill_worker(actor: str) -> None:
    """Kill one worker process."""
    processes = workers(actor)
    assert processes, "no worker"
    processes[0].kill()


def start(verb: str, *words: object) -> subprocess.Popen:
    """Start the job as on a cluster: in a separate process that connects to this session's Ray."""
    import ray

    from tests.conftest import PROJECT

    command = [sys.executable, str(PROJECT / "jobs" / f"{verb}.py"), *map(str, words)]
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def kill_worker_and_driver(process: subprocess.Popen, out: Path, actor: str) -> int:
    """Kill a worker and later the driver; return the number of parts finished by then."""
    try:
        wait_for(process, lambda: len(parts(out)) >= 2)
        kill_worker(actor)
        wait_for(process, lambda: len(parts(out)) >= 6)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + _TIMEOUT_S
    while workers(actor):  # they outlive the driver for a moment
        assert time.monotonic() < deadline, "the driver's workers still run"
        time.sleep(0.05)
    assert not out.exists()
    return len(parts(out))


def test_workers_on_ray_mine_the_same_bytes(beir: Path, index: Path, tmp_path: Path) -> None:
    config = MineConfig(index=index, data=beir, out="-", num_workers=1, queries_per_part=16)
    in_process.mine_negatives(config.model_copy(update={"out": str(tmp_path / "in_process")}))
    mine_negatives(config.model_copy(update={"out": str(tmp_path / "ray")}))
    assert contents(tmp_path / "ray") == contents(tmp_path / "in_process")


def test_mining_survives_a_killed_worker_and_driver(
    beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    settings = {"cross_encoder": str(tiny_cross_encoder), "short": "keep", "sampling": "random", "queries_per_part": 1}
    whole = in_process.mine_negatives(MineConfig(index=index, data=beir, out=tmp_path / "whole", **settings))
    out = tmp_path / "o"
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    process = start("mine", index, beir, "--out", out, "--num-workers", 2, *words)
    finished = kill_worker_and_driver(process, out, "MiningWorker")
    report = mine_negatives(MineConfig(index=index, data=beir, out=out, num_workers=1, **settings))
    assert report.reused_parts == finished < report.parts == 30
    assert contents(out) == contents(tmp_path / "whole")
    assert report.negatives == whole.negatives


def test_scoring_survives_a_killed_worker_and_driver(
    beir: Path, index: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    in_process.mine_negatives(MineConfig(index=index, data=beir, out=tmp_path / "mined"))
    config = ScoreConfig(data=tmp_path / "mined", teacher=str(tiny_cross_encoder), out="-", queries_per_part=2)
    in_process.score_examples(config.model_copy(update={"out": str(tmp_path / "whole")}))
    out = tmp_path / "o"
    words = ["--teacher", tiny_cross_encoder, "--queries-per-part", 2]
    process = start("score", tmp_path / "mined", "--out", out, "--num-workers", 2, *words)
    finished = kill_worker_and_driver(process, out, "ScoringWorker")
    report = score_examples(config.model_copy(update={"out": str(out), "num_workers": 1}))
    assert report.reused_parts == finished < report.parts == 30
    assert contents(out) == contents(tmp_path / "whole")
