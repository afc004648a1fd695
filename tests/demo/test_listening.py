"""The addresses that `raycol demo` listens on, from its first worker to its endpoint."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import PROJECT

COMMAND = "demo --documents 100 --queries 10 --steps 1 --batch-size 8 --keep-serving"
DEADLINE_S = 500

pytestmark = [pytest.mark.slow, pytest.mark.long]


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Addresses that a process and its descendants listen on, each with the process's command."""
    addresses = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            connections = each.net_connections("inet")
            name = " ".join(each.cmdline()[:2])[:80]
        except psutil.Error:  # the process has ended
            continue
        addresses |= {(one.laddr.ip, name) for one in connections if one.status == psutil.CONN_LISTEN}
    return addresses


def is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_the_demo_listens_on_loopback_only(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    log = tmp_path / "log"
    with log.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "raycol", *COMMAND.split()],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(PROJECT)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        addresses: set[tuple[str, str]] = set()
        deadline = time.monotonic() + DEADLINE_S
        try:
            while "(Ctrl-C stops)" not in log.read_text():
                assert demo.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                addresses |= listening(psutil.Process(demo.pid))
                assert {address for address in addresses if not is_loopback(address[0])} == set()
                time.sleep(0.2)
            addresses |= listening(psutil.Process(demo.pid))
        finally:
            demo.send_signal(signal.SIGINT)
            assert demo.wait(60) == 0
    assert addresses
    assert {address for address in addresses if not is_loopback(address[0])} == set()
