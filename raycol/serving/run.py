"""`raycol serve`: the application on this machine, from start to end."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raycol.errors import InputError
from raycol.index import Index
from raycol.index.manifest import Manifest
from raycol.ray_session import ray_errors, ray_session
from raycol.serving.client import check_health
from raycol.serving.config import ServeConfig

HOST = "127.0.0.1"
_APP = "raycol"


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    manifest: Manifest
    shards: int


@contextmanager
def serving(config: ServeConfig) -> Iterator[Endpoint]:
    """Serve an index on 127.0.0.1 while the block runs; every shard is loaded when it begins.

    Raises:
        InputError: no index or model there, another model than the index's, more shards than partitions, or the
            port is taken.
        IndexCorruptError: the index's files are not as its manifest promises.
    """
    from raycol.models import load_encoder_of
    from raycol.serving.app import build_app, cpus_needed

    # What a replica would find wrong is found here first, where it can still be said plainly.
    index = Index.open(config.index)
    load_encoder_of(index.manifest.model, config.model, device="cpu")
    app = build_app(config)
    port = _free_port(config.port)
    url = f"http://{HOST}:{port}"
    with ray_session(CPU=cpus_needed(config)):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = {"log_level": "WARNING"}
        with ray_errors("starting the endpoint"):
            serve.start(proxy_location="HeadOnly", http_options={"host": HOST, "port": port}, logging_config=quiet)
            if _APP in serve.status().applications:
                raise InputError(f"Ray serves an application {_APP!r} here already; use serve deploy, or delete it")
        try:
            with ray_errors("starting the endpoint"):
                serve.run(app, name=_APP, route_prefix="/", logging_config=quiet)
                check_health(url)
            yield Endpoint(url, index.manifest, config.shards)
        finally:
            # The application alone: where the Ray session is not ours, others' must go on.
            serve.delete(_APP)


def wait_for_interrupt() -> None:
    """Return on Ctrl-C or SIGTERM."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asked.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            raise InputError(f"port {wanted} on {HOST} is taken; pass another --port, or 0 for a free one") from None
        return int(probe.getsockname()[1])
