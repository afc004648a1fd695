"""Ray sessions: connect to the cluster of this process, or start an embedded one on this machine.

An embedded session is the default and needs no running cluster. It has no dashboard, listens on loopback with a token
that only this process and its children know, and stops at the end of the `with` block.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from urllib.parse import urlsplit

from raycol.distributed.capacity import wait_for_capacity
from raycol.distributed.listening import keep_haproxy_private
from raycol.errors import InputError, RaycolError

_OBJECT_STORE_BYTES = 512 << 20
# Ray gives its node half a minute to start, which can be too short on a busy machine.
_START_ATTEMPTS = 2
_CONNECT_TIMEOUT_S = 10.0
_CLIENT_PORT = 10001
# What a socket's path leaves for the folder, after the suffix that Ray appends (session time and process id).
_MAX_FOLDER_BYTES = 103 - len("/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")

# Ray reads these when it is imported or started. Variables that are already set take precedence.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # Ray Train polls its workers at this interval; the default of 2 s delays the end of a short training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Serve's throughput settings (see docs/serving.md): gRPC between replicas, user code on the replica's own event
    # loop, HAProxy instead of the Python proxy; and no half minute of draining when a deployment stops.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # gRPC's default of 4 MiB is too small for requests and responses of the documented sizes. The size of a shard's
    # reply is limited separately (`raycol.serving.answer_limits`).
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # Write each access log line at once; the default buffers a thousand.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # Middleware around Serve's own request handling, which fails with a 500 on a header that is not UTF-8.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raycol.serving.http.headers.middlewares",
    # Close an idle client connection after 30 s instead of an hour; one that awaits a response stays open.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # The kernel of a gateway's host accepts connections even if the gateway is busy: a timeout of seconds means that
    # the host is down. HAProxy's health checks use the same timeout, and two of them must fail.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
    # When the set of gateways changes, a new HAProxy process takes over. The old one stops its health checks, so
    # requests to a dead host end only when that process does. No other request should take this long.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
    # Serve has no variable for the timeout of a request's headers (the client timeout restarts with every byte), nor
    # for closing connections to a dead gateway, whose requests would wait forever. Serve copies this value verbatim
    # into the `defaults` of HAProxy's configuration. The first line is Serve's own default.
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure\n    timeout http-request 10s\n    default-server on-marked-down shutdown-sessions"
    ),
}
# Ports of HAProxy's own pages: Serve's fixed defaults would prevent a second session on the same machine.
_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")
_embedded = False


def set_environment() -> None:
    """Set the environment variables that Ray reads on import; call it before importing any part of Ray."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(
    workers: int = 1,
    wait_for_nodes: float = 0.0,
    min_workers: int | None = None,
    spare_cpus: int = 0,
    /,
    **resources: float,
) -> Iterator[None]:
    """Provide a Ray session with capacity for the workers.

    Inside a Ray job, or if RAY_ADDRESS is set, use that cluster and leave it running; likewise a session that the
    caller has open. Otherwise start an embedded session and stop it at the end. It has as many logical CPUs as the
    workers need, even if the machine has fewer, so that no worker waits forever.

    Args:
        workers: number of workers.
        wait_for_nodes: seconds to wait for nodes that the cluster's autoscaler adds.
        min_workers: number of workers that must fit; None for all.
        spare_cpus: CPUs to leave beside the workers.
        resources: what each worker needs, by Ray's resource names (CPU, GPU, ...).

    Raises:
        InputError: the cluster is too small, the path of Ray's sockets is too long, or no cluster answers at
            RAY_ADDRESS.
        RaycolError: the embedded session does not start, or the cluster is still too small after `wait_for_nodes`.
    """
    set_environment()
    embedded = not os.environ.get("RAY_ADDRESS")
    if embedded:
        # Unless RAY_AUTH_MODE is set, `ray.init` enables token mode for a new local cluster, and without a token it
        # would write a generated one into the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        for name, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True):
            os.environ.setdefault(name, str(port))
        keep_haproxy_private()

    import ray

    if ray.is_initialized():
        wait_for_capacity(min_workers or workers, resources, wait_for_nodes, spare_cpus)
        yield
        return
    global _embedded
    if embedded:
        _start(max(math.ceil(workers * resources.get("CPU", 1)) + spare_cpus, os.cpu_count() or 1))
    else:
        _connect(os.environ["RAY_ADDRESS"])
    _embedded = embedded
    try:
        wait_for_capacity(min_workers or workers, resources, wait_for_nodes, spare_cpus)
        yield
    finally:
        _embedded = False
        ray.shutdown()


def is_embedded() -> bool:
    """Whether `ray_session` has started the session of this process, which then has one node and ends with it."""
    return _embedded


def _start(num_cpus: int) -> None:
    """Start an embedded session of one node."""
    import ray

    check_socket_folder()
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            with _node_on_loopback():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except Exception as error:  # Ray raises a plain Exception if the node is late
            ray.shutdown()
            timed_out = "timed out" in str(error)
            if attempt < _START_ATTEMPTS and timed_out:
                continue
            advice = "; the machine is busy or short of memory: try again" if timed_out else ""
            raise RaycolError(f"cannot start Ray on this machine: {_first_line(error)}{advice}") from error


def _connect(address: str) -> None:
    """Connect to the cluster at RAY_ADDRESS. Check first that a server listens there: Ray would retry for minutes."""
    import ray

    try:
        host, port = _host_and_port(address)
        if host:
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
        with _node_on_loopback() if _only_on_loopback(host, port) else nullcontext():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else " ".join(str(error).split())
        raise InputError(
            f"RAY_ADDRESS is {address!r}, where no Ray cluster answers ({reason}); correct it, or unset it to run on "
            "this machine"
        ) from error


def _only_on_loopback(host: str, port: int) -> bool:
    """Whether a cluster listens on loopback only, as an embedded session does.

    Ray replaces a loopback address by the machine's own, where such a cluster does not answer.
    """
    if not host or not ipaddress.ip_address(socket.getaddrinfo(host, port)[0][4][0]).is_loopback:
        return False
    from ray.util import get_node_ip_address

    try:
        socket.create_connection((get_node_ip_address(), port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return True
    return False


def _host_and_port(address: str) -> tuple[str, int]:
    """Return the host and port of an address; ("", 0) if Ray finds the cluster itself (auto, local)."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    # ray:// addresses may omit the port.
    port = parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    return (parts.hostname, port) if parts.hostname and port else ("", 0)


def check_socket_folder() -> None:
    """Raise `InputError` if the paths of a Ray session's sockets would exceed the system's limit."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    folder = os.environ.get(name) or tempfile.gettempdir()
    size = len(os.fsencode(folder))
    if size > _MAX_FOLDER_BYTES:
        raise InputError(
            f"{name} is {folder!r}, {size} bytes: too long for the paths of Ray's sockets; set RAY_TMPDIR to a folder "
            f"of at most {_MAX_FOLDER_BYTES} bytes, such as /tmp"
        )


@contextmanager
def _node_on_loopback() -> Iterator[None]:
    """Make a node that starts in this context use the loopback address, so that its servers listen only there.

    `ray.init` replaces a loopback address by the machine's own unless multi-node clusters are disabled. Their variable
    (`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`) is read when Ray is imported, so this sets the constant.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextmanager
def ray_errors(operation: str) -> Iterator[None]:
    """Replace an error that Ray raises for a failed worker by the `RaycolError` behind it.

    Raises:
        RaycolError: the error that raycol's code raised in the worker; for any other failure, one that names the
            operation.
    """
    try:
        yield
    except Exception as error:
        cause = unwrap_ray_error(error)
        if isinstance(cause, RaycolError):
            raise cause from None
        raise RaycolError(f"{operation} failed: {_first_line(cause)}") from error


def _first_line(error: BaseException) -> str:
    """Type and first line of an error's message, without the traceback and the advice that Ray adds."""
    while isinstance(inner := _inner(error), BaseException):
        error = inner
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _inner(error: BaseException) -> object:
    """The error that a Ray Core task error or a Ray Train controller error wraps, if any."""
    return getattr(error, "cause", None) or getattr(error, "controller_failure", None)


def unwrap_ray_error(error: BaseException) -> BaseException:
    """Return the raycol error that a Ray error wraps; the error itself if it wraps none."""
    seen: set[int] = set()
    pending: list[BaseException] = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if type(current).__module__ == RaycolError.__module__:
            return current
        inner = [_inner(current), current.__cause__, current.__context__]
        inner += list((getattr(current, "worker_failures", None) or {}).values())
        pending += [item for item in inner if isinstance(item, BaseException)]
    return error
