"""Serve's config files are read strictly: of a key that Serve would pass over it is said where, and what was meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from raycol.errors import InputError
from raycol.serving.deploy_config import check_deploy_config, read_deploy_config
from tests.cluster.documents import keys_of, misspelt
from tests.conftest import PROJECT

FILES = sorted((PROJECT / "serve").glob("*.yaml"))

FULL = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 30.0},
    "grpc_options": {"port": 9000},
    "logging_config": {"log_level": "INFO", "encoding": "JSON"},
    "applications": [
        {
            "name": "raycol",
            "route_prefix": "/",
            "import_path": "raycol.serving.app:build_app",
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
            "autoscaling_policy": {"policy_function": "raycol.serving.scaling:scale_together"},
            "args": {"index": "/shared/index", "shards": 2, "host": "0.0.0.0", "keys": "/shared/keys.json"},
            "deployments": [
                {
                    "name": "shard-0001",
                    "max_ongoing_requests": 100,
                    "backpressure_config": {"status_code": 429, "retry_after_s": 1},
                    "autoscaling_config": {
                        "min_replicas": 1,
                        "max_replicas": 4,
                        "policy": {"policy_function": "raycol.serving.scaling:scale_alone"},
                    },
                    "request_router_config": {"request_routing_stats_period_s": 5.0},
                    "ray_actor_options": {"num_cpus": 1, "label_selector": {"market": "on-demand"}},
                }
            ],
        }
    ],
}
# Mappings with free keys: environment variables and labels.
OPEN = {"OMP_NUM_THREADS", "market"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_in_serve_are_valid(path: Path) -> None:
    config = read_deploy_config(path)
    assert [application.name for application in config.applications] == ["raycol"]


@pytest.mark.parametrize("document", [*(yaml.safe_load(path.read_text()) for path in FILES), FULL])
def test_misspelt_keys_are_rejected_at_every_level(document: dict[str, Any]) -> None:
    check_deploy_config(document, "serve.yaml")
    for place in keys_of(document):
        if place[-1] in OPEN:
            continue
        with pytest.raises(InputError, match=r"^serve\.yaml: "):
            check_deploy_config(misspelt(document, place), "serve.yaml")


def test_serve_itself_ignores_misspelt_keys() -> None:
    """The reason for `deploy_config`. If this fails, Serve has become strict."""
    from ray.serve.schema import ServeDeploySchema

    wrong = copy.deepcopy(FULL)
    wrong["applications"][0]["deployments"][0]["num_replcas"] = 3
    wrong["proxy_locaton"] = "HeadOnly"
    ServeDeploySchema.model_validate(wrong)


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ((), "aplications", [], "unknown key 'aplications'; the nearest known key is 'applications'"),
        (("http_options",), "prot", 1, "unknown key 'prot' in http_options; the nearest known key is 'port'"),
        (
            ("applications", 0),
            "arg",
            {},
            "unknown key 'arg' in applications[0]; the nearest known key is 'args'",
        ),
        (
            ("applications", 0, "args"),
            "max_replica",
            4,
            "unknown key 'max_replica' in applications[0].args; the nearest known key is 'max_replicas'",
        ),
        (
            ("applications", 0, "deployments", 0),
            "num_replcas",
            2,
            "unknown key 'num_replcas' in applications[0].deployments[0]; the nearest known key is 'num_replicas'",
        ),
        (
            ("applications", 0, "deployments", 0, "ray_actor_options"),
            "num_cpu",
            2,
            "unknown key 'num_cpu' in applications[0].deployments[0].ray_actor_options; the nearest known key "
            "is 'num_cpus'",
        ),
        (
            ("applications", 0, "runtime_env"),
            "env_var",
            {},
            "unknown key 'env_var' in applications[0].runtime_env; the nearest known key is 'env_vars'",
        ),
        (("http_options",), "port", "many", "http_options.port is 'many': "),
        (("applications", 0, "args"), "shards", 0, "applications[0].args.shards is 0: input should be greater than"),
        (
            ("applications", 0, "args"),
            "replicas",
            9,
            "applications[0].args: max_replicas is 8; expected at least replicas, 9",
        ),
        (
            ("applications", 0, "args"),
            "port",
            8000,
            "applications[0].args.port has no effect; set http_options.port and remove applications[0].args.port",
        ),
        (
            ("applications", 0, "deployments", 0),
            "name",
            "shard-0002",
            "applications[0].deployments[0].name is 'shard-0002'; raycol has no such deployment with 2 shards; the "
            "nearest is 'shard-000",
        ),
        (
            ("applications", 0),
            "import_path",
            "raycol.serving.app:build",
            "applications[0].import_path is 'raycol.serving.app:build'; raycol has no such function",
        ),
        (
            ("applications", 0, "autoscaling_policy"),
            "policy_function",
            "raycol.serving.scaling:scale_togther",
            "applications[0].autoscaling_policy.policy_function is 'raycol.serving.scaling:scale_togther'; raycol has",
        ),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config", "policy"),
            "policy_function",
            "raycol.serving.scalling:scale_alone",
            "applications[0].deployments[0].autoscaling_config.policy.policy_function is 'raycol.serving.scalling:",
        ),
    ],
)
def test_errors_name_the_key_path_and_the_expectation(
    place: tuple[Any, ...], key: str, value: object, message: str, tmp_path: Path
) -> None:
    document = copy.deepcopy(FULL)
    document["applications"][0]["args"]["max_replicas"] = 8
    inner: Any = document
    for step in place:
        inner = inner[step]
    inner[key] = value
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError) as raised:
        read_deploy_config(path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


def test_missing_settings_are_named() -> None:
    document = copy.deepcopy(FULL)
    del document["applications"][0]["args"]["index"]
    with pytest.raises(InputError, match=r"^serve\.yaml: applications\[0\]\.args\.index is missing$"):
        check_deploy_config(document, "serve.yaml")


@pytest.mark.parametrize(
    ("content", "message"), [("- 1", "expected a mapping"), ("a: [", "not YAML"), ("{}", "applications is missing")]
)
def test_files_that_are_not_configs_are_rejected(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_deploy_config(path)
    with pytest.raises(InputError, match="no such file"):
        read_deploy_config(tmp_path / "missing.yaml")


def test_other_applications_are_not_checked() -> None:
    """Their code may be installed on the cluster only, and their args are unknown."""
    document = {"applications": [{"name": "other", "import_path": "their.module:app", "args": {"anything": 1}}]}
    check_deploy_config(document, "serve.yaml")
