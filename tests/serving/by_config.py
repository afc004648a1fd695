"""An endpoint started as by `serve deploy`, on this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raycol.client.sync_client import check_health


@contextmanager
def deployed_by_config(args: Mapping[str, Any], **options: object) -> Iterator[str]:
    """Deploy the application with these `args` and options on the running Ray; yields its URL."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    application = {"name": "raycol", "route_prefix": "/", "import_path": "raycol.serving.app:build_app",
                   "args": {"host": "127.0.0.1", **args}, **options}  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        client = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=True)
        check_health(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.delete("raycol")
        serve.shutdown()
