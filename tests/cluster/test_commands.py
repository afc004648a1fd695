"""Every command in a YAML file, its comments or docs/cluster.md has known verbs, options and files."""

import re

import pytest

from tests.cluster import commands, launchers
from tests.cluster.documents import CLUSTER, CUSTOM, LAUNCHERS, launcher, manifest
from tests.conftest import PROJECT

FILES = sorted([*CLUSTER.rglob("*.yaml"), CLUSTER / "Containerfile", *(PROJECT / "serve").glob("*.yaml")])


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_in_comments_parse(path) -> None:
    found = list(commands.in_comments(path.read_text()))
    assert found or path.name == "alerts.yaml"
    for line in found:
        commands.check(line)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_of_launchers_parse(name: str) -> None:
    found = launchers.commands(launcher(name))
    assert len(found) >= 6
    for line in found:
        commands.check(line)


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_entrypoints_parse(kind: str) -> None:
    spec = manifest(kind)["spec"]
    entrypoint = spec.get("jobTemplate", spec)["entrypoint"]
    assert entrypoint.startswith("raycol index ")
    commands.check(entrypoint)


def test_commands_in_the_docs_parse() -> None:
    text = (PROJECT / "docs" / "cluster.md").read_text()
    found = re.findall(r"^ {4}(\w.*)$", text, re.MULTILINE)
    assert len(found) > 10
    for line in found:
        commands.check(line)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_named_file_exists(path) -> None:
    """Also in prose: files of docs/, cluster/, serve/ and jobs/."""
    for name in re.findall(r"\b(?:docs|cluster|serve|jobs)/[\w./-]*\w", path.read_text()):
        if not name.startswith("serve/cluster"):
            assert (PROJECT / name).exists(), name


@pytest.mark.parametrize(
    "line",
    [
        "ray upp cluster/aws.yaml",
        "ray up cluster/aw.yaml",
        "ray start --haed",
        "ray job submit --addres x -- python jobs/train.py",
        "ray job submit -- python jobs/indx.py",
        "ray job submit -- python jobs/mine.py i d --out o --wait-for-node 3",
        "ray job submit -- python jobs/index.py c --model m --out i --num-worker 3",
        "serve deploy serve/confg.yaml",
        "raycol index biuld c --out i",
        "raycol index build c --out i --resources CPU=none",
        "raycol index append /shared/index /shared/new --upsertt",
        "ray job submit -- python jobs/index.py c --model m --out i --resources CPU=1,spot=1",
        "true && ~/raycol/venv/bin/pip install -c ~/raycol/constraint.txt raycol",
        "pip instal raycol",
        "pip install --constrain-to x raycol",
        ". ~/raycol/server.env",
        "kubectl apply -f cluster/kuberay/raycluste.yaml",
        "podman build --file cluster/Dockerfile .",
        "raycoll key list keys.json",
    ],
)
def test_an_invalid_command_is_detected(line: str) -> None:
    with pytest.raises(commands.CommandError):
        commands.check(line)


def test_kubectl_get_names_the_manifests_kind() -> None:
    """`kubectl get KIND NAME` at the top of a manifest names its own resource."""
    for kind in CUSTOM:
        document = manifest(kind)
        (path,) = [path for path in FILES if f"\nkind: {kind}\n" in path.read_text()]
        for asked, name in re.findall(r"kubectl get (\w+) ([\w-]+)", path.read_text()):
            assert (asked, name) == (kind.lower(), document["metadata"]["name"])
