"""More replicas for more load."""

import socket

import pytest

from raycol.index import Index
from raycol.serving.client import check_health
from tests.serving.load import clients, heavy

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_shards_get_more_replicas_together(index: Index, ray_local: None) -> None:
    """By the policy that serve/config.yaml names, which Serve takes from configurations only."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    application = {
        "name": "raycol",
        "route_prefix": "/",
        "import_path": "raycol.serving.app:build_app",
        "args": {"index": index.uri, "host": "127.0.0.1", "shards": 2, "max_replicas": 2, "timeout_s": 10},
        "autoscaling_policy": {"policy_function": "raycol.serving.scaling:together"},
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        client = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=True)

        def counts() -> list[int]:
            deployments = serve.status().applications["raycol"].deployments
            return [deployments[f"shard-{n:04d}"].replica_states.get("RUNNING", 0) for n in range(2)]

        assert counts() == [1, 1]
        check_health(f"http://127.0.0.1:{port}")
        with clients(f"http://127.0.0.1:{port}", heavy, 8) as load:
            load.wait(lambda answers: counts() == [2, 2], timeout=90)
        assert set(load.statuses) <= {200, 429}
    finally:
        serve.shutdown()
