"""An endpoint on hosts, by `serve deploy`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import PATIENCE_S, Hosts

_SERVE = Path(sys.executable).parent / "serve"


@contextmanager
def deployed(
    hosts: Hosts,
    folder: Path,
    app: Mapping[str, Any],
    deployments: Sequence[Mapping[str, Any]] = (),
    **options: object,
) -> Iterator[None]:
    """The application with these arguments and options, its and its deployments', on port 8000 of every host."""
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
        wait_until_whole(hosts, folder)
        yield
    finally:
        hosts.run(1, _SERVE, "shutdown", "--yes", "--address", hosts.dashboard, cwd=folder)


def wait_until_whole(hosts: Hosts, folder: Path) -> None:
    """Until every deployment has all its replicas, and every host its proxy."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = status_of(hosts, folder)
            if _is_whole(found):
                return
        except AssertionError as error:  # a head that was started again refuses connections for a moment
            found = {"refused": str(error)}
        assert time.monotonic() < deadline, found
        time.sleep(1)


def status_of(hosts: Hosts, folder: Path) -> dict[str, Any]:
    """What Serve says of itself."""
    said: dict[str, Any] = yaml.safe_load(hosts.run(1, _SERVE, "status", "--address", hosts.dashboard, cwd=folder))
    return said


def _is_whole(status: Mapping[str, Any]) -> bool:
    app = status["applications"].get("raycol", {})
    return app.get("status") == "RUNNING" and set(status["proxies"].values()) == {"HEALTHY"}
