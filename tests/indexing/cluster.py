"""A Ray cluster of several nodes on this machine, builds on it in separate processes, and ways to kill them."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import xxhash

from raycol.indexing import BuildReport
from tests.conftest import PROJECT

_NODE = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
_SYSTEM = {
    # Otherwise each build starts one process per CPU of each node before it needs any.
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
    # Detect a dead node within seconds.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
_TIMEOUT_S = 240
# Process titles of actors that are not Ray Data's.
TRAINERS = "RayTrainWorker"
_KINDS = (TRAINERS,)


class Nodes:
    """The nodes of one cluster; builds connect to it by `RAY_ADDRESS`."""

    def __init__(self, n: int) -> None:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._cluster = Cluster(initialize_head=True, head_node_args={**_NODE, "_system_config": _SYSTEM})
        self._nodes: list[Any] = [self._cluster.head_node]
        self._processes: list[psutil.Process] = []
        for _ in range(n - 1):
            self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, **settings: Any) -> None:
        self._nodes.append(self._cluster.add_node(**{**_NODE, **settings}))

    def lose(self) -> None:
        """Kill the newest node, as in a power cut."""
        node = self._nodes.pop()
        self._processes += _children(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def workers(self, actor: str = "") -> list[psutil.Process]:
        """Processes of the actors of builds, or of an actor class, on all nodes."""
        title = actor if actor in _KINDS else f"MapWorker(MapBatches({actor}"
        return [process for node in self._nodes for process in _children(node) if title in _title(process)]

    def kill_worker(self, rng: random.Random, actor: str = "") -> bool:
        """Kill the process of a random actor; return whether there was one."""
        workers = self.workers(actor)
        if workers:
            _kill(rng.choice(workers))
        return bool(workers)

    def settle(self, actor: str = "") -> None:
        """Wait until all actors have stopped: they outlive their driver for a moment."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self.workers(actor) and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        for node in self._nodes:
            self._processes += _children(node)
        self._cluster.shutdown()
        _, alive = psutil.wait_procs(self._processes, timeout=10)
        for process in alive:
            _kill(process)


@contextmanager
def nodes(n: int) -> Iterator[Nodes]:
    running = Nodes(n)
    try:
        yield running
    finally:
        running.stop()


def _children(node: Any) -> list[psutil.Process]:
    try:
        return psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


class Command:
    """`raycol ...`, or another program, on a cluster in a separate process."""

    def __init__(self, cluster: Nodes, *words: object, program: Sequence[object] = ()) -> None:
        raycol = ("-c", "from raycol.cli import main; main()")
        command = [sys.executable, *map(str, program or raycol), *map(str, words)]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        if self.running:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def wait_for(self, happened: Callable[[], object]) -> bool:
        """Wait until `happened` returns true; return False if the command ends before that."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not happened():
            if not self.running:
                return False
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.01)
        return True

    def finish(self) -> None:
        code, output = self.end()
        assert code == 0, output

    def end(self) -> tuple[int, str]:
        """Wait for the command; return its exit code and output."""
        output, _ = self._process.communicate(timeout=_TIMEOUT_S)
        return self._process.returncode, output.decode()


def Build(cluster: Nodes, verb: str, *arguments: object) -> Command:  # noqa: N802
    """`raycol index build` or `append`, or with `job` the script of a Ray job."""
    if verb == "job":
        return Command(cluster, *arguments, program=[PROJECT / "jobs" / "index.py"])
    return Command(cluster, "index", verb, *arguments)


def contents(root: Path) -> dict[str, str]:
    """Digests of all files except the report, which contains times."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name != "build-report.json"]
    return {path.relative_to(root).as_posix(): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}


def report_of(root: Path) -> BuildReport:
    return BuildReport.model_validate_json((root / "build-report.json").read_bytes())


def records(root: Path) -> dict[str, int]:
    """Records of finished parts, each with its inode, which changes if it is written again."""
    inodes = {}
    for path in root.glob("builds/*/0*.json"):
        try:
            inodes[path.name] = path.stat().st_ino
        except FileNotFoundError:
            continue
    return inodes
