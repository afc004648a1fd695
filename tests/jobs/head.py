"""A separate Ray head with a dashboard on loopback, and `raycol` processes that have its token."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import PROJECT

_TIMEOUT_S = 120


@dataclass
class Head:
    """A head's addresses and token, and the environment of processes that connect to it."""

    address: str
    gcs: str
    token: str
    environment: dict[str, str] = field(repr=False)

    def start(self, *words: object, folder: Path, **variables: str) -> subprocess.Popen:
        """Start `raycol ...` in a folder, with its output captured."""
        return subprocess.Popen(
            [sys.executable, "-m", "raycol", *map(str, words)],
            cwd=folder,
            env={**self.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def raycol(self, *words: object, folder: Path, **variables: str) -> subprocess.CompletedProcess:
        """Run `raycol ...` to its end."""
        process = self.start(*words, folder=folder, **variables)
        try:
            out, err = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert self.token not in out + err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def running_head() -> Iterator[Head]:
    """Start a head in its own process group; end that group, and all other processes that the head has started."""
    token = secrets.token_hex(16)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    scripts = Path(sys.executable).parent
    environment = {
        **clean,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    gcs, dashboard, agent, client = free_ports(4)
    # Unix socket paths are limited to 107 bytes; pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="raycol-head-") as folder, ExitStack() as ending:
        log = ending.enter_context((Path(folder) / "head.log").open("w+"))
        process = subprocess.Popen(
            [scripts / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
             f"--ray-client-server-port={client}", "--num-cpus=4", "--num-gpus=0", f"--temp-dir={folder}",
             f"--object-store-memory={100 << 20}", "--disable-usage-stats"],
            env={**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        ending.callback(_end, process)
        head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", token, environment)
        _wait_until_it_answers(head, process, Path(log.name))
        yield head


def free_ports(n: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(n)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def _wait_until_it_answers(head: Head, process: subprocess.Popen, log: Path) -> None:
    """Wait until the dashboard lists jobs: it answers other requests earlier."""
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            opener.open(request, timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)


def _end(process: subprocess.Popen) -> None:
    """End the head and all its descendants: a job's driver has its own session, so ending the group is not enough."""
    try:
        ours = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        ours = []
    process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(ours, timeout=3)
    for one in left:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(30)
