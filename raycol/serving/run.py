"""`raycol serve`: the application on this machine, from start to end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from raycol.client.sync_client import check_health
from raycol.distributed.session import ray_errors, ray_session, set_environment
from raycol.errors import InputError
from raycol.index import Index
from raycol.index.format.manifest import Manifest
from raycol.serving.config import LOOPBACK, ServeConfig
from raycol.serving.served_version import starting_version
from raycol.storage import open_store

_APP = "raycol"
# Serve takes about a second to end.
_END_S = 30.0


@dataclass(frozen=True)
class RunningEndpoint:
    """A running endpoint."""

    url: str
    manifest: Manifest
    shards: int


@contextmanager
def serving(config: ServeConfig) -> Iterator[RunningEndpoint]:
    """Serve an index while the block runs; every shard is loaded when it begins.

    Raises:
        InputError: no index or model there, another model than the index's, more shards than partitions, or the
            port is taken.
        IndexCorruptError: the index's files are not as its manifest promises.
    """
    # Handles are made in this process: how their calls travel is settled when Serve is imported here.
    set_environment()
    from raycol.serving.app import build_app, cpus_needed

    # What a replica would find wrong is found here first, where it can still be said plainly.
    index = Index.open(config.index, starting_version(open_store(config.index), config.version)[0])
    if index.manifest.model or config.model:
        # torch is imported only where there is something to encode with.
        from raycol.models.encoder import load_index_encoder

        load_index_encoder(index.manifest.model, config.model, device="cpu")
    config = config.model_copy(update={"host": config.host or LOOPBACK})
    host = str(config.host)
    app = build_app(config)
    port = _free_port(host, config.port)
    url = f"http://{_reachable(host)}:{port}"
    import ray

    ray_is_ours = not (ray.is_initialized() or os.environ.get("RAY_ADDRESS"))
    with ray_session(CPU=cpus_needed(config)):
        from ray import serve
        from ray.serve.context import _disconnect

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        # Gateways write their own line of each request.
        quiet = {"log_level": "INFO", "enable_access_log": False}
        with ray_errors("starting the endpoint"):
            serve_is_ours = not serve.status().proxies
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
            if _APP in serve.status().applications:
                raise InputError(f"Ray serves an application {_APP!r} here already; use serve deploy, or delete it")
        try:
            with ray_errors("starting the endpoint"):
                serve.run(app, name=_APP, route_prefix="/", logging_config=quiet)
                check_health(url)
            yield RunningEndpoint(url, index.manifest, config.shards)
        finally:
            serve.delete(_APP)
            # In another's session, what was there before must go on. With one of our own Serve ends anyway, and only
            # its client must be forgotten: to shut Serve down first would print an error of Ray's at every end.
            if ray_is_ours:
                _disconnect()
            elif serve_is_ours:
                _end_serve()


def _end_serve() -> None:
    """End Serve's controller and proxies in a session that goes on.

    `serve.shutdown` waits for that within a call of the controller's, which Ray tries again as it finds the controller
    gone: an error on the terminal at every end.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve.context import _disconnect, _get_global_client

    client = _get_global_client()
    client.shutdown_cached_handles()
    ray.get(client._controller.graceful_shutdown.remote(wait=False))
    until = time.monotonic() + _END_S
    with suppress(ValueError):  # there is no such actor any more
        while time.monotonic() < until and ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE):
            time.sleep(0.1)
    _disconnect()


def wait_for_interrupt() -> None:
    """Return on Ctrl-C or SIGTERM."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asked.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reachable(host: str) -> str:
    """An address of this machine's own by which an endpoint bound to `host` is reached."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _free_port(host: str, wanted: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            taken = "is taken; pass another --port, or 0 for a free one"
            reason = taken if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise InputError(f"port {wanted} on {host} {reason}") from None
        return int(probe.getsockname()[1])
