"""Where Ray work runs: the cluster that this process belongs to, or an embedded one of this machine's own.

Embedded is the default and needs nothing running. It has no dashboard, listens on the loopback interface with a token
that only this process and its children know, and ends with the `with` block.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from raycol.distributed.capacity import make_room
from raycol.distributed.listening import keep_haproxy_private
from raycol.errors import InputError, RaycolError

_OBJECT_STORE_BYTES = 512 << 20
# Ray waits half a minute for a node of its own, which a busy machine may not have started by then.
_STARTS = 2
# Something that is there accepts connections at once.
_REACHED_S = 10.0
_CLIENT_PORT = 10001
# Of the 107 bytes that a socket's path may have, what is left of those that Ray puts below (the time, a process's id).
_MOST_FOLDER_BYTES = 103 - len("/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")

# Read by Ray at import or at start, so they are set before either. A value that is set already wins.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How often Ray Train looks at its workers; two seconds otherwise, which a short training waits for at its end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Serve's fast settings (docs/serving.md says what they change): gRPC between replicas, user code on a replica's
    # own event loop, HAProxy in place of the proxy in Python; and deployments end without half a minute of draining.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # Messages between replicas have gRPC's limit of 4 MiB otherwise, which requests and answers of documented sizes
    # exceed. What a shard tells of documents has a limit of its own (`raycol.serving.answer_limits`).
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    # A request's line is in the log at once, not with a thousand others.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # Around everything that Serve does with a request: a header that is not UTF-8 would be an error 500 of its own.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raycol.serving.http.headers.middlewares",
    # A connection that sends nothing is ended after half a minute, not an hour; one that waits for an answer is not.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
    # The kernel of a gateway's host accepts connections even while the gateway is busy: seconds mean that the host is
    # gone. HAProxy's checks of it end by the same clock, and two of them must fail.
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
    # When gateways come or go, a new process of HAProxy takes over. The old one checks no gateway any more: what waits
    # there for one whose host is silent ends when it does. Nothing else should take so long.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
    # There is no variable for how long a request's headers may take, and a byte now and then is not nothing; nor one
    # for requests at a gateway whose host has gone silent, which would wait for ever. This one is written into the
    # `defaults` of HAProxy's configuration as it is. The first line is Serve's own default.
    "RAY_SERVE_HAPROXY_RETRY_ON": (
        "conn-failure\n    timeout http-request 10s\n    default-server on-marked-down shutdown-sessions"
    ),
}
# HAProxy's own pages: with Serve's fixed ports, two sessions on one machine would keep each other from starting.
_PORTS = ("RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT")


def set_environment() -> None:
    """Set what Ray reads when it is imported: for those who import a part of it before they have a session."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(workers: int = 1, wait_for_nodes: float = 0.0, **each: float) -> Iterator[None]:
    """Make Ray ready for workers that need so much each: CPU, GPU, or other resources by their names.

    Inside a Ray job, or where RAY_ADDRESS is set, that cluster is used and left running; so is a session
    that the caller has open. Otherwise an embedded one is started, and stopped at the end. It has as many
    logical CPUs as the work asks for, even where the machine has fewer, so that nothing waits for ever.

    Args:
        workers: how many.
        wait_for_nodes: seconds to wait for nodes that the cluster's autoscaler adds.
        each: what each worker needs.

    Raises:
        InputError: there is less of a resource than the work needs, Ray's sockets cannot be where TMPDIR says, or no
            cluster is reached where RAY_ADDRESS says.
        RaycolError: no session can be started here, or the cluster has no room in that time.
    """
    set_environment()
    ours = not os.environ.get("RAY_ADDRESS")
    if ours:
        # Where RAY_AUTH_MODE does not say otherwise, `ray.init` turns token mode on for a new local cluster,
        # and would write a token of its own making into the home folder if there were none.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        for name, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True):
            os.environ.setdefault(name, str(port))
        keep_haproxy_private()

    import ray

    if ray.is_initialized():
        make_room(workers, each, wait_for_nodes)
        yield
        return
    if ours:
        _start(max(math.ceil(workers * each.get("CPU", 1)), os.cpu_count() or 1))
    else:
        _connect(os.environ["RAY_ADDRESS"])
    try:
        make_room(workers, each, wait_for_nodes)
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int) -> None:
    """Start a session of one node."""
    import ray

    check_socket_folder()
    for attempt in range(1, _STARTS + 1):
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
        except Exception as error:  # a node that is late is a plain one
            ray.shutdown()
            late = "timed out" in str(error)
            if attempt < _STARTS and late:
                continue
            advice = "; this machine is busy, or short of memory: try again" if late else ""
            raise RaycolError(f"Ray cannot be started here: {_first_line(error)}{advice}") from error


def _connect(address: str) -> None:
    """Connect to the cluster that RAY_ADDRESS names, where anything listens there: Ray tries for many minutes."""
    import ray

    try:
        host, port = _host_and_port(address)
        if host:
            socket.create_connection((host, port), timeout=_REACHED_S).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else " ".join(str(error).split())
        raise InputError(
            f"RAY_ADDRESS is {address!r}, and no cluster of Ray is reached there ({reason}); correct it, or unset it "
            "to run on this machine"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    """Where to connect to; no host where Ray looks for a cluster itself (auto, local)."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    # Of Ray's client the port may be left out.
    port = parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    return (parts.hostname, port) if parts.hostname and port else ("", 0)


def check_socket_folder() -> None:
    """Raise `InputError` where the sockets of a session of Ray would have longer paths than a socket can."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    folder = os.environ.get(name) or tempfile.gettempdir()
    size = len(os.fsencode(folder))
    if size > _MOST_FOLDER_BYTES:
        raise InputError(
            f"{name} is {folder!r}, {size} bytes: the paths of Ray's sockets there are too long; set RAY_TMPDIR to a "
            f"folder of at most {_MOST_FOLDER_BYTES} bytes, such as /tmp"
        )


@contextmanager
def _node_on_loopback() -> Iterator[None]:
    """Have a node that starts take the loopback address, and its servers listen there alone.

    `ray.init` replaces a loopback address that it is given by the machine's own, but not where clusters are turned off
    (`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`), which is read when Ray is imported, perhaps long before.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _free_ports(n: int) -> list[int]:
    with ExitStack() as probes:
        found = [probes.enter_context(socket.socket()) for _ in range(n)]
        for probe in found:
            probe.bind(("", 0))
        return [int(probe.getsockname()[1]) for probe in found]


@contextmanager
def ray_errors(doing: str) -> Iterator[None]:
    """Turn what Ray raises for a failed worker into the error that raycol's own code raised there.

    Raises:
        RaycolError: that error; or, where the failure was another, one that says what was being done.
    """
    try:
        yield
    except Exception as error:
        cause = unwrap_ray_error(error)
        if isinstance(cause, RaycolError):
            raise cause from None
        raise RaycolError(f"{doing} failed: {_first_line(cause)}") from error


def _first_line(error: BaseException) -> str:
    """What an error says, without the advice and the traceback that Ray writes below and above it."""
    while isinstance(inner := _inner(error), BaseException):
        error = inner
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def _inner(error: BaseException) -> object:
    """What an error of Ray Core's tasks, or of Ray Train's controller, is about."""
    return getattr(error, "cause", None) or getattr(error, "controller_failure", None)


def unwrap_ray_error(error: BaseException) -> BaseException:
    """The error that raycol's own code raised in a worker, where Ray wrapped one; else the error itself."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if type(current).__module__ == RaycolError.__module__:
            return current
        inner = [_inner(current), current.__cause__, current.__context__]
        inner += list((getattr(current, "worker_failures", None) or {}).values())
        waiting += [item for item in inner if isinstance(item, BaseException)]
    return error
