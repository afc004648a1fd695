"""`raycol serve`: run an endpoint on this machine."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Self

from raycol.client.sync_client import check_health
from raycol.distributed.session import ray_errors, ray_session, set_environment
from raycol.errors import InputError
from raycol.index import Index
from raycol.index.format.manifest import Manifest
from raycol.serving.config import LOOPBACK, ServeConfig
from raycol.serving.served_version import starting_version
from raycol.storage import open_store

_APP = "raycol"
# Shutting Serve down takes about a second.
_SHUTDOWN_S = 30.0


@dataclass(frozen=True, repr=False)
class RunningEndpoint:
    """URL, served manifest and number of shards of a running endpoint; as a context manager, it stops at the end."""

    url: str
    manifest: Manifest
    shards: int
    _running: ExitStack = field(default_factory=ExitStack)

    def stop(self) -> None:
        """Stop the endpoint, if it runs."""
        self._running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<endpoint {self.url}: version {self.manifest.version}, {self.manifest.documents} documents>"

    def _repr_html_(self) -> str:
        manifest = self.manifest
        return f"<a href='{self.url}'>{self.url}</a>: version {manifest.version}, {manifest.documents} documents"


def start(config: ServeConfig) -> RunningEndpoint:
    """Serve an index until `stop` or the end of this process. Raises as `serving` does."""
    stack = ExitStack()
    endpoint = stack.enter_context(serving(config))
    atexit.register(stack.close)
    stack.callback(atexit.unregister, stack.close)
    return replace(endpoint, _running=stack)


@contextmanager
def serving(config: ServeConfig) -> Iterator[RunningEndpoint]:
    """Serve an index while the block runs. Every shard is loaded when the block starts.

    Raises:
        InputError: the index or model does not exist, the model is not the index's, there are more shards than
            partitions, or the port is in use.
        IndexCorruptError: the index's files do not match its manifest.
    """
    # Before Serve is imported, which reads the transport of handles from the environment.
    set_environment()
    from raycol.serving.app import build_app, cpus_needed

    # Open index and model here first: an error in a replica would be harder to read.
    index = Index.open(config.index, starting_version(open_store(config.index), config.version)[0])
    if index.manifest.model or config.model:
        # Imports torch.
        from raycol.models.encoder import load_index_encoder

        load_index_encoder(index.manifest.model, config.model, device="cpu")
    config = config.model_copy(update={"host": config.host or LOOPBACK})
    host = str(config.host)
    app = build_app(config)
    port = _free_port(host, config.port)
    url = f"http://{_client_host(host)}:{port}"
    import ray

    ray_is_ours = not (ray.is_initialized() or os.environ.get("RAY_ADDRESS"))
    with ray_session(CPU=cpus_needed(config)):
        from ray import serve
        from ray.serve.context import _disconnect

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        # The gateway writes the access log.
        quiet = {"log_level": "INFO", "enable_access_log": False}
        with ray_errors("starting the endpoint"):
            serve_is_ours = not serve.status().proxies
            serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
            if _APP in serve.status().applications:
                raise InputError(f"Serve already runs an application {_APP!r}; use serve deploy, or delete it first")
        try:
            with ray_errors("starting the endpoint"):
                serve.run(app, name=_APP, route_prefix="/", logging_config=quiet)
                check_health(url)
            yield RunningEndpoint(url, index.manifest, config.shards)
        finally:
            serve.delete(_APP)
            # Our Ray session takes Serve down with it: only drop Serve's client, since `serve.shutdown` makes Ray
            # print an error. In a session that we joined, stop Serve if we started it.
            if ray_is_ours:
                _disconnect()
            elif serve_is_ours:
                _shut_down_serve()


def _shut_down_serve() -> None:
    """Stop Serve's controller and proxies in a Ray session that keeps running.

    `serve.shutdown` waits in a call of the controller, which Ray retries when the controller exits, and prints an
    error.
    """
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
    from ray.serve.context import _disconnect, _get_global_client

    client = _get_global_client()
    client.shutdown_cached_handles()
    ray.get(client._controller.graceful_shutdown.remote(wait=False))
    deadline = time.monotonic() + _SHUTDOWN_S
    with suppress(ValueError):  # the actor does not exist: shut down
        while time.monotonic() < deadline and ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE):
            time.sleep(0.1)
    _disconnect()


def wait_for_interrupt() -> None:
    """Block until SIGINT (Ctrl-C) or SIGTERM."""
    interrupted = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: interrupted.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        interrupted.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _client_host(host: str) -> str:
    """The host part of a URL by which this machine reaches an endpoint bound to `host`."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _free_port(host: str, port: int) -> int:
    """`port` if it is free, or any free port if it is 0. Raises `InputError` if it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            in_use = "is in use; pass another `port=`, or 0 for a free one"
            reason = in_use if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise InputError(f"port {port} on {host} {reason}") from None
        return int(probe.getsockname()[1])
