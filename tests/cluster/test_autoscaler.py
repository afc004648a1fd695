"""Ray's autoscaler adds nodes for an index build that waits for them, and removes them afterwards."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raycol.index import Index
from tests.conftest import make_clustered, save_encoded

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Ray's fake provider for tests: nodes are processes of this machine.
HEAD = "f" * 51 + "00000"
COMMANDS = (
    "initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray",
)  # fmt: skip
LAUNCHER = {
    "cluster_name": "test",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "ray.head.default",
    **{f"{name}_commands": [] for name in COMMANDS},
    "cluster_synced_files": [],
    "auth": {},
    "file_mounts": {},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "spot": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD,
    },
}
NODES = """
import os, ray, time
ray.init(log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 60
while (alive := sum(node["Alive"] for node in ray.nodes())) > 1 and time.monotonic() < deadline:
    time.sleep(0.5)
print(alive)
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Environment of a process that connects to a cluster with a head without CPUs, which scales from zero."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = clean | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    testing = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    # Unix socket paths are limited to 107 bytes; pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="raycol-head-") as folder, (Path(folder) / "log").open("w") as log:
        launcher = Path(folder) / "launcher.json"
        launcher.write_text(json.dumps(LAUNCHER | {"provider": LAUNCHER["provider"] | {"gcs_address": address}}))
        head = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
             f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false",
             f"--temp-dir={folder}", f"--object-store-memory={100 << 20}", f"--autoscaling-config={launcher}"],
            env=ours | testing, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while "started" not in Path(log.name).read_text():
                assert head.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.3)
            yield ours | {"RAY_ADDRESS": address}
        finally:
            below = psutil.Process(head.pid).children(recursive=True)
            head.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs([*below, psutil.Process(head.pid)], timeout=5)
            for process in left:
                process.kill()
            head.wait(30)


def build(
    environment: dict[str, str], corpus: Path, out: Path, wait_s: int, workers: int = 2
) -> subprocess.CompletedProcess:
    command = ["index", "build", corpus, "--out", out, "--num-workers", workers, "--docs-per-partition", 10,
               "--resources", "CPU=1,spot=1", "--wait-for-nodes", wait_s]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "raycol", *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_nodes_are_added_for_a_build_and_released_afterwards(environment: dict[str, str], tmp_path: Path) -> None:
    arrays = make_clustered(40, 16, seed=2)
    corpus = save_encoded(tmp_path / "corpus.npz", arrays, [f"d{n}" for n in range(len(arrays))])
    # The head has no CPUs, and this build does not wait for nodes.
    refused = build(environment, corpus, tmp_path / "refused", 0)
    assert refused.returncode == 2
    assert "the Ray cluster has 0 CPU, the workers need 2" in refused.stderr
    assert "--wait-for-nodes" in refused.stderr
    built = build(environment, corpus, tmp_path / "index", 120)
    assert built.returncode == 0, built.stderr
    assert len(Index.open(tmp_path / "index")) == 40
    left = subprocess.run(
        [sys.executable, "-c", NODES], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert left.stdout.split() == ["1"], left.stdout


def test_waiting_for_nodes_times_out(environment: dict[str, str], tmp_path: Path) -> None:
    arrays = make_clustered(10, 16, seed=2)
    corpus = save_encoded(tmp_path / "corpus.npz", arrays, [f"d{n}" for n in range(len(arrays))])
    done = build(environment, corpus, tmp_path / "index", 15, workers=3)
    assert done.returncode == 1
    assert "still lacks" in done.stderr
    assert not (tmp_path / "index").exists()
