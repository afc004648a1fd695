"""What an endpoint on this machine listens on, and whom its files are closed to."""

import ipaddress
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raycol import listening
from raycol.errors import InputError
from raycol.serving.config import ServeConfig
from raycol.serving.run import Endpoint, serving

VARIABLES = [*listening.PATHS, "RAY_SERVE_HAPROXY_BINARY_PATH"]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_haproxys_files_are_in_a_folder_that_only_its_user_can_enter(unset: None) -> None:
    listening.keep_haproxy_private()
    folders = {Path(os.environ[name]) if not file else Path(os.environ[name]).parent
               for name, file in listening.PATHS.items()}  # fmt: skip
    (folder,) = folders
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()
    # Serve puts a node's id between folder and file, and HAProxy takes no longer path for a socket.
    assert len(str(folder / ("0" * 56) / "metrics.sock")) <= 97
    listening.keep_haproxy_private()
    assert Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent == folder


@pytest.mark.parametrize("kind", ["open", "link", "no folder", "another's"])
def test_a_folder_that_others_control_is_refused(
    unset: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "haproxy"
    if kind == "open":
        folder.mkdir(mode=0o755)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "no folder":
        folder = tmp_path / "missing" / "haproxy"
    else:
        if os.geteuid() != 0:
            pytest.skip("needs root, to give a folder away")
        folder.mkdir(mode=0o700)
        os.chown(folder, 65534, 65534)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(folder / "admin.sock"))
    with pytest.raises(InputError, match=r"RAY_SERVE_HAPROXY_SOCKET_PATH: .*haproxy"):
        listening.keep_haproxy_private()


def test_a_folder_of_ones_own_is_used(unset: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "new" / "admin.sock"))
    listening.keep_haproxy_private()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


# The endpoint itself


@pytest.fixture(scope="module")
def endpoint(index, ray_local: None) -> Iterator[Endpoint]:
    with serving(ServeConfig(index=index.uri, shards=2, port=0)) as running:
        yield running


@pytest.mark.slow
def test_everything_listens_on_loopback(endpoint: Endpoint) -> None:
    """Ray's servers, HAProxy's pages, the replicas: whatever this process started."""
    found = [
        (connection.laddr.ip, connection.laddr.port, process.name())
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {port for _, port, _ in found}
    pages = {int(os.environ[f"RAY_SERVE_HAPROXY_{page}_PORT"]) for page in ("STATS", "METRICS")}
    assert int(endpoint.url.rsplit(":", 1)[1]) in ports
    assert pages <= ports
    assert [where for where in found if not _is_loopback(where[0])] == []


@pytest.mark.slow
def test_another_user_cannot_control_haproxy(endpoint: Endpoint) -> None:
    folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    (admin,) = folder.glob("*/admin.sock")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin))
        connection.sendall(b"show info\n")
        assert b"HAProxy" in connection.recv(1 << 16)
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    look = (
        "import os, socket, sys\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "for look in (lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]), lambda: open(sys.argv[2]),\n"
        "             lambda: open(sys.argv[2], 'w')):\n"
        "    try:\n"
        "        look()\n"
        "    except PermissionError:\n"
        "        print('closed')\n"
    )
    command = [sys.executable, "-S", "-c", look, str(admin), str(admin.with_name("haproxy.cfg"))]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.stdout.split() == ["closed"] * 3, told.stderr


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
