"""KubeRay and Kubernetes accept the manifests, and refuse copies with a misspelt field."""

import stat
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

import raycol
from raycol.distributed.listening import PATHS
from raycol.distributed.session import _ENVIRONMENT
from raycol.errors import InputError
from raycol.serving.deploy_config import check_deploy_config
from tests.cluster import kuberay
from tests.cluster.documents import (
    CLUSTER,
    CUSTOM,
    MANIFESTS,
    changed,
    keys_of,
    load,
    manifest,
    misspelt,
    pod_templates,
)
from tests.conftest import PROJECT

# Path of the RayClusterSpec in each kind.
CLUSTERS = {
    "RayCluster": ("spec",),
    "RayJob": ("spec", "rayClusterSpec"),
    "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
    "RayService": ("spec", "rayClusterConfig"),
}


def cluster(kind: str) -> dict[str, Any]:
    found = manifest(kind)
    for key in CLUSTERS[kind]:
        found = found[key]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_and_kuberay_accept_every_manifest(path: Path) -> None:
    kuberay.check(load(path))


def test_each_kind_has_one_manifest() -> None:
    assert {load(path)["kind"] for path in MANIFESTS} == {*CUSTOM, "PersistentVolumeClaim", "NetworkPolicy"}


@pytest.mark.slow
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_misspelt_field_is_refused_at_every_level(path: Path) -> None:
    document = load(path)
    key_paths = list(keys_of(document))
    assert len(key_paths) > 9
    for key_path in key_paths:
        with pytest.raises(kuberay.ValidationError):
            kuberay.check(misspelt(document, key_path))


@pytest.mark.parametrize(
    ("kind", "key_path", "value"),
    [
        ("RayCluster", ("spec", "authOptions", "mode"), "tokens"),
        ("RayCluster", ("spec", "autoscalerOptions", "version"), "v3"),
        ("RayCluster", ("spec", "workerGroupSpecs", 0, "maxReplicas"), "8"),
        ("RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayCluster", ("apiVersion",), "ray.io/v1alpha1"),
        ("RayJob", ("spec", "submissionMode"), "HttpMode"),
        ("RayJob", ("spec", "backoffLimit"), "2"),
        ("RayCronJob", ("spec", "schedule"), None),
        ("RayService", ("spec", "upgradeStrategy", "type"), "Incremental"),
        ("RayService", ("spec", "serveConfigV2"), {}),
    ],
)
def test_a_wrong_value_is_refused(kind: str, key_path: tuple[Any, ...], value: object) -> None:
    with pytest.raises(kuberay.ValidationError):
        kuberay.check(changed(manifest(kind), key_path, value))


@pytest.mark.parametrize("kind", CUSTOM)
def test_every_cluster_has_a_token_an_idle_head_and_probed_pods(kind: str) -> None:
    spec = cluster(kind)
    assert spec["authOptions"]["mode"] == "token"
    assert spec["rayVersion"] == ray.__version__
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert spec["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
    for template in pod_templates(spec):
        (container,) = template["spec"]["containers"]
        assert container["image"].endswith(f":{raycol.__version__}")
        assert {"livenessProbe", "readinessProbe"} <= container.keys()
        # Ray counts a pod's limits, not its requests.
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("kind", ["RayCluster", "RayService"])
def test_standing_clusters_scale_and_survive_their_head(kind: str) -> None:
    spec = cluster(kind)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
    # Serve's settings must be the same on every node, and the same as raycol serve's.
    wanted = {name: value for name, value in _ENVIRONMENT.items() if name.startswith("RAY_SERVE_")}
    for template in pod_templates(spec):
        (container,) = template["spec"]["containers"]
        assert {entry["name"]: entry["value"] for entry in container["env"]} == wanted


def test_the_launchers_environment_matches_raycol_serve() -> None:
    import subprocess

    shown = subprocess.run(
        ["env", "-i", "sh", "-c", "set -a; . cluster/serve.env; env -0"], cwd=PROJECT, capture_output=True, check=True
    )
    found = dict(line.split("=", 1) for line in shown.stdout.decode().split("\0") if line.startswith("RAY_"))
    folder = Path(found["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
    try:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        folder.rmdir()
    paths = {name: found.pop(name) for name in PATHS}
    assert paths == {name: str(folder / file) for name, file in PATHS.items()}
    assert found == {name: value for name, value in _ENVIRONMENT.items() if name.startswith("RAY_SERVE_")}


def test_only_job_pods_use_spot_nodes() -> None:
    wants = {kind: [_wants_spot(group["template"]) for group in cluster(kind)["workerGroupSpecs"]] for kind in CUSTOM}
    assert wants == {"RayCluster": [True, True], "RayJob": [True], "RayCronJob": [True], "RayService": [False]}
    assert not any(_wants_spot(cluster(kind)["headGroupSpec"]["template"]) for kind in CUSTOM)
    groups = {
        group["groupName"]: group["template"]["spec"]["containers"][0]
        for group in cluster("RayCluster")["workerGroupSpecs"]
    }
    assert groups["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in groups["cpu"]["resources"]["limits"]


def _wants_spot(template: dict[str, Any]) -> bool:
    affinity = template["spec"]["affinity"]["nodeAffinity"]
    if "preferredDuringSchedulingIgnoredDuringExecution" in affinity:
        return True
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {expression["operator"] for expression in term["matchExpressions"]} == {"NotIn"}
    return False


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_a_jobs_workers_fit_on_its_pods(kind: str) -> None:
    """A build is refused if its workers do not all fit on the cluster."""
    spec = manifest(kind)["spec"]
    job = spec.get("jobTemplate", spec)
    (group,) = cluster(kind)["workerGroupSpecs"]
    room = group["replicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    words = job["entrypoint"].split()
    assert int(words[words.index("--num-workers") + 1]) <= room
    assert group["replicas"] == group["maxReplicas"]
    assert "enableInTreeAutoscaling" not in cluster(kind)
    assert job["shutdownAfterJobFinishes"] is True


def test_the_nightly_job_ends_before_the_next() -> None:
    assert manifest("RayCronJob")["spec"]["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600
    assert len(manifest("RayCronJob")["spec"]["schedule"].split()) == 5


def test_serve_and_raycol_accept_the_endpoint() -> None:
    text = manifest("RayService")["spec"]["serveConfigV2"]
    config = yaml.safe_load(text)
    check_deploy_config(config, "rayservice.yaml: serveConfigV2")
    assert config == load(PROJECT / "serve" / "config.yaml")
    with pytest.raises(InputError, match="unknown key 'shrads'"):
        check_deploy_config(yaml.safe_load(text.replace("shards:", "shrads:")), "rayservice.yaml")


def test_the_endpoint_fits_in_its_pods() -> None:
    from raycol.serving.app import cpus_needed
    from raycol.serving.config import ServeConfig

    (group,) = cluster("RayService")["workerGroupSpecs"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    (application,) = load(PROJECT / "serve" / "config.yaml")["applications"]
    config = ServeConfig(**application["args"])
    more_gateways = application["deployments"][0]["num_replicas"] - 1
    at_rest = config.model_copy(update={"max_replicas": None})
    assert cpus_needed(at_rest) + more_gateways <= group["minReplicas"] * cpus
    assert cpus_needed(config) + more_gateways <= group["maxReplicas"] * cpus


def test_an_upgrade_adds_capacity_before_it_moves_traffic() -> None:
    strategy = manifest("RayService")["spec"]["upgradeStrategy"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    options = strategy["clusterUpgradeOptions"]
    assert 0 < options["stepSizePercent"] < options["maxSurgePercent"] <= 100


def test_every_pod_mounts_the_claim_that_storage_makes() -> None:
    claim = load(CLUSTER / "kuberay" / "storage.yaml")["metadata"]["name"]
    for kind in CUSTOM:
        for template in pod_templates(manifest(kind)):
            (volume,) = template["spec"]["volumes"]
            assert volume["persistentVolumeClaim"]["claimName"] == claim
            mounts = template["spec"]["containers"][0]["volumeMounts"]
            assert mounts == [{"name": volume["name"], "mountPath": "/shared"}]
