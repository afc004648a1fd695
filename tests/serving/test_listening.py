"""HAProxy's files are private to their user."""

import os
import stat
from pathlib import Path

import pytest

from raycol.distributed import listening
from raycol.errors import InputError

VARIABLES = [*listening.PATHS, "RAY_SERVE_HAPROXY_BINARY_PATH"]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_haproxys_files_are_in_a_private_folder(unset: None) -> None:
    listening.keep_haproxy_private()
    folders = {Path(os.environ[name]) if not file else Path(os.environ[name]).parent
               for name, file in listening.PATHS.items()}  # fmt: skip
    (folder,) = folders
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()
    # Serve adds a node id between folder and file; 97 characters is HAProxy's limit for a socket path.
    assert len(str(folder / ("0" * 56) / "metrics.sock")) <= 97
    listening.keep_haproxy_private()
    assert Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent == folder


@pytest.mark.parametrize("kind", ["open", "link", "no folder", "another's"])
def test_a_folder_that_others_control_is_rejected(
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


def test_a_private_folder_is_used(unset: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_SOCKET_PATH", str(tmp_path / "new" / "admin.sock"))
    listening.keep_haproxy_private()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
