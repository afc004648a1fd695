"""Deploy an endpoint on hosts with `serve deploy`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import TIMEOUT_S, Hosts

_SERVE = Path(sys.executable).parent / "serve"


@contextmanager
def deployed(
    hosts: Hosts,
    folder: Path,
    app: Mapping[str, Any],
    deployments: Sequence[Mapping[str, Any]] = (),
    **options: object,
) -> Iterator[None]:
    """Run the application, with these arguments and options, on port 8000 of every host during the block."""
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [
            {
                "name": "raycol",
                "route_prefix": "/",
                "import_path": "raycol.serving.app:build_app",
                "args": dict(app),
                "deployments": list(map(dict, deployments)),
                **options,
            }
        ],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    hosts.run(1, _SERVE, "deploy", "serve.yaml", "--address", hosts.dashboard, cwd=folder)
    try:
        wait_until_healthy(hosts, folder)
        yield
    finally:
        hosts.run(1, _SERVE, "shutdown", "--yes", "--address", hosts.dashboard, cwd=folder)


def wait_until_healthy(hosts: Hosts, folder: Path) -> None:
    """Wait until every deployment has all its replicas and every host a healthy proxy."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            status = status_of(hosts, folder)
            if _is_healthy(status):
                return
        except AssertionError as error:  # a restarted head refuses connections for a moment
            status = {"refused": str(error)}
        assert time.monotonic() < deadline, status
        time.sleep(1)


def status_of(hosts: Hosts, folder: Path) -> dict[str, Any]:
    """The output of `serve status`."""
    status: dict[str, Any] = yaml.safe_load(hosts.run(1, _SERVE, "status", "--address", hosts.dashboard, cwd=folder))
    return status


def _is_healthy(status: Mapping[str, Any]) -> bool:
    app = status["applications"].get("raycol", {})
    return app.get("status") == "RUNNING" and set(status["proxies"].values()) == {"HEALTHY"}
