"""Ray and the clouds accept the launchers, and refuse copies with a misspelt key."""

import copy
import shlex

import pytest

from tests.cluster import launchers
from tests.cluster.documents import CLUSTER, LAUNCHERS, changed, keys_of, launcher, misspelt
from tests.conftest import PROJECT

CLOUDS = ("aws", "gcp")
# Ray's and the clouds' schemas take seconds to load.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ray_and_the_cloud_accept_every_launcher(name: str) -> None:
    launchers.check(launcher(name))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_misspelt_key_is_refused_at_every_level(name: str) -> None:
    config = launcher(name)
    launchers.check(config)
    # Names of node types are free; head_node_type must name one.
    own = {("available_node_types", kind) for kind in config.get("available_node_types", ()) if kind != "head"}
    taken = []
    for key_path in keys_of(config):
        try:
            launchers.check(misspelt(config, key_path))
        except (Exception, SystemExit):
            continue
        taken.append(key_path)
    assert {*taken} == own


def test_ray_itself_accepts_a_misspelt_provider_key() -> None:
    """The reason for our own check. If this fails, Ray has added one."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = misspelt(launcher("aws"), ("provider", "availability_zone"))
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(launchers.LauncherError, match="availability_zoen"):
        launchers.check(config)


def test_the_keys_that_ray_reads_are_found_in_its_sources() -> None:
    known = {kind: launchers.provider_keys(kind) for kind in ("aws", "gcp", "local")}
    assert {"type", "region", "availability_zone", "security_group", "cache_stopped_nodes"} <= known["aws"]
    assert {"type", "region", "project_id", "gcp_credentials"} <= known["gcp"]
    assert {"type", "head_ip", "worker_ips", "coordinator_address"} <= known["local"]
    assert "project_id" not in known["aws"]
    assert "head_ip" not in known["gcp"]


@pytest.mark.parametrize(
    ("name", "key_path", "value"),
    [
        ("aws", ("serving", "node_config", "InstanceType"), "m7i.huge"),
        ("aws", ("cpu-spot", "node_config", "InstanceMarketOptions", "MarketType"), "cheap"),
        ("aws", ("serving", "node_config", "BlockDeviceMappings"), {}),
        ("aws", ("gpu-spot", "resources", "GPU"), 2),
        ("gcp", ("serving", "node_config", "disks"), {}),
        ("gcp", ("cpu-spot", "node_config", "scheduling", "provisioningModel"), "CHEAP"),
        ("gcp", ("gpu-spot", "resources", "CPU"), 12),
    ],
)
def test_a_wrong_value_is_refused(name: str, key_path: tuple[str, ...], value: object) -> None:
    with pytest.raises(launchers.LauncherError):
        launchers.check(changed(launcher(name), ("available_node_types", *key_path), value))


@pytest.mark.parametrize("name", CLOUDS)
def test_only_job_nodes_are_spot(name: str) -> None:
    config = launcher(name)
    for kind, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        market = node.get("InstanceMarketOptions", {}).get("MarketType") or node.get("scheduling", {}).get(
            "provisioningModel"
        )
        spot = kind.endswith("-spot")
        assert (market or "").lower() == ("spot" if spot else "")
        assert node_type["labels"] == {"market": "spot" if spot else "on-demand"}
        assert ("spot" in node_type["resources"]) == spot
        if spot:
            assert node_type["min_workers"] == 0
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert config["available_node_types"]["serving"]["min_workers"] >= 1
    assert sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values()) == config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_node_requires_the_token_and_the_dashboard_listens_on_loopback(name: str) -> None:
    config = launcher(name)
    for role in ("head", "worker"):
        (start,) = [command for command in config[f"{role}_start_ray_commands"] if " start " in command]
        assert "export RAY_AUTH_MODE=token;" in start
        assert "serve.env;" in start
    assert "--dashboard-host=127.0.0.1" in shlex.split(config["head_start_ray_commands"][-1])


@pytest.mark.parametrize("name", LAUNCHERS)
def test_raycol_is_installed_with_the_tested_set(name: str) -> None:
    (install,) = [command for command in launcher(name)["setup_commands"] if "pip install" in command]
    words = shlex.split(install)
    assert words[words.index("-c") + 1].endswith("/constraints.txt")
    assert "ray[default]" in words
    assert any("raycol-*.whl" in word or word == "/shared/raycol" for word in words)


@pytest.mark.parametrize("name", CLOUDS)
def test_files_copied_to_nodes_exist_or_are_created_first(name: str) -> None:
    text = (CLUSTER / f"{name}.yaml").read_text()
    made = {"dist": "--wheel-dir dist", "keys.json": "raycol key add keys.json", "~/.ray/auth_token": "get-auth-token"}
    for local in launcher(name)["file_mounts"].values():
        assert (PROJECT / local).is_file() or made[local] in text
