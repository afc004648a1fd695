"""Hosts of a cluster on one machine: network namespaces, each with its own address, on a private switch.

The network is isolated from the outside in both directions. All hosts see the same files, as on shared storage. Only
Ray's sessions are in a folder of each host's own: there it unpacks a job's files, and would delete another host's.
"""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from raycol.distributed.session import _ENVIRONMENT
from tests.conftest import PROJECT

TIMEOUT_S = 180
# Each host except the head has one unit of this resource.
HOST_RESOURCE = "host"
# Ray detects a lost host within seconds.
_HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
_SCRIPTS = Path(sys.executable).parent


@functools.cache
def skip_reason() -> str:
    """Why this machine cannot run such hosts; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "unshare") if not shutil.which(name)]:
        return f"there is no {' and no '.join(missing)} (iproute2, util-linux)"
    name = f"rc{os.getpid()}t"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    linked = subprocess.run(["ip", "-n", name, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True)
    _ip("netns", "del", name)
    return f"no bridges here: {linked.stderr.strip()}" if linked.returncode else ""


class Hosts:
    """Ray on hosts 1 to n. Host 1 is the head, which keeps its state in a folder and survives a restart.

    Args:
        n: number of hosts.
        folder: for Ray's sessions and the head's state; a short path.
        cpus: of each host except the head, which has none.
    """

    def __init__(self, n: int, folder: Path, cpus: int) -> None:
        self._name = f"rc{os.getpid()}"
        self._folder, self._cpus = folder, cpus
        self._numbers = range(1, n + 1)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {
            **clean,
            **_HEALTH,
            **{name: value for name, value in _ENVIRONMENT.items() if name.startswith("RAY_SERVE_")},
            "PATH": f"{_SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT),
            "HF_HUB_OFFLINE": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(folder / "gcs"),
        }
        self.dashboard = f"http://{self.address(1)}:8265"

    def open(self) -> None:
        """Create the hosts and start Ray on all of them."""
        for name in ("ray", *(f"ray-{number}" for number in self._numbers)):
            (self._folder / name).mkdir()
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for number in self._numbers:
            self._connect(number)
        for number in self._numbers:
            self.start(number)

    @staticmethod
    def address(number: int) -> str:
        """A host's address."""
        return f"10.83.0.{number}"

    def popen(self, number: int, *command: object, cwd: Path, log: Path | None = None) -> subprocess.Popen:
        """Start a command on a host, with its output in a file or captured."""
        output = subprocess.PIPE if log is None else log.open("w")
        # `ip netns exec` gives a command mounts of its own.
        own = ["sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", f"{self._folder}/ray-{number}",
               f"{self._folder}/ray"]  # fmt: skip
        return subprocess.Popen(
            ["ip", "netns", "exec", self._host(number), *own, *map(str, command)],
            cwd=cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.PIPE if log is None else subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, number: int, *command: object, cwd: Path, timeout: float = TIMEOUT_S) -> str:
        """Run a command on a host to its end; return its output."""
        process = self.popen(number, *command, cwd=cwd)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{command}: not done in {timeout} s\n{out}\n{err}") from None
        assert process.returncode == 0, f"{command}: exit code {process.returncode}\n{out}\n{err}"
        return str(out)

    def raycol(self, number: int, *words: object, cwd: Path, timeout: float = TIMEOUT_S) -> str:
        """Run `raycol ...` on a host; return its output."""
        return self.run(number, sys.executable, "-m", "raycol", *words, cwd=cwd, timeout=timeout)

    def start(self, number: int) -> None:
        """Start Ray on a host and wait until it runs."""
        where = ["--head", "--port=6379", f"--dashboard-host={self.address(1)}", f"--temp-dir={self._folder}/ray",
                 "--num-cpus=0"]  # fmt: skip
        if number > 1:
            where = [f"--address={self.address(1)}:6379", f"--num-cpus={self._cpus}",
                     f'--resources={{"{HOST_RESOURCE}": 1}}']  # fmt: skip
        log = self._folder / f"host-{number}.log"
        # A separate PID namespace, too: Ray searches all visible processes for a running head.
        isolated = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = self.popen(
            number, *isolated, _SCRIPTS / "ray", "start", "--block", f"--node-ip-address={self.address(number)}",
            "--num-gpus=0", f"--object-store-memory={100 << 20}", *where, cwd=self._folder, log=log,
        )  # fmt: skip
        deadline = time.monotonic() + TIMEOUT_S
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def disconnect(self, number: int) -> None:
        """Take a host's network link down."""
        _ip("-n", self._switch, "link", "set", f"p{number}", "down")

    def reconnect(self, number: int) -> None:
        """Bring a host's network link up again."""
        _ip("-n", self._switch, "link", "set", f"p{number}", "up")

    def destroy(self, number: int) -> None:
        """Kill all processes of a host, like a power failure."""
        deadline = time.monotonic() + TIMEOUT_S
        while pids := self.pids(number):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def pids(self, number: int) -> list[int]:
        """Pids of a host's processes."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self._host(number)], check=True, stdout=subprocess.PIPE, text=True
        )
        return [pid for pid in map(int, listed.stdout.split()) if psutil.pid_exists(pid) and _is_alive(pid)]

    def close(self) -> None:
        """Kill all processes of the hosts and remove the hosts."""
        listed = subprocess.run(["ip", "netns", "list"], check=True, stdout=subprocess.PIPE, text=True).stdout
        made = {line.split()[0] for line in listed.splitlines()}
        for number in self._numbers:
            if self._host(number) in made:
                self.destroy(number)
                _ip("netns", "del", self._host(number))
        if self._switch in made:
            _ip("netns", "del", self._switch)

    @property
    def _switch(self) -> str:
        return f"{self._name}s"

    def _host(self, number: int) -> str:
        return f"{self._name}h{number}"

    def _connect(self, number: int) -> None:
        host, port = self._host(number), f"p{number}"
        _ip("netns", "add", host)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", host, "link", "set", "lo", "up")
        _ip("-n", host, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "eth0", "up")


@contextmanager
def running_hosts(n: int, cpus: int = 2) -> Iterator[Hosts]:
    """Hosts that are always removed at the end."""
    # Unix socket paths are limited to 107 bytes; pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:
        hosts = Hosts(n, Path(folder), cpus)
        try:
            hosts.open()
            yield hosts
        finally:
            hosts.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
