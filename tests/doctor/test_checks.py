import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.doctor.checks import (
    check_authentication,
    check_clocks,
    check_disk,
    check_gpus,
    check_memory,
    check_nodes,
    check_python,
    check_shared,
    check_versions,
)
from raycol.doctor.facts import NodeFacts, SharedFacts, Usage
from raycol.doctor.run import check
from tests.doctor.samples import NAMES, VERSIONS, node, plan


@given(NAMES)
def test_a_healthy_cluster_passes(names: list[str]) -> None:
    findings = check([node(name) for name in names], plan())
    assert {finding.state for finding in findings} <= {"ok", "not checked"}
    assert not [finding for finding in findings if finding.fix]


@given(NAMES, st.sampled_from(list(VERSIONS)), st.data())
def test_versions_fail_iff_a_public_version_differs(names: list[str], package: str, data: st.DataObject) -> None:
    versions = {name: data.draw(st.sampled_from(["1.0", "1.0+cu128", "2.0", ""])) for name in names}
    nodes = []
    for name, version in versions.items():
        rest = {other: value for other, value in VERSIONS.items() if other != package}
        nodes.append(node(name, versions={**rest, package: version} if version else rest))
    public = {version.partition("+")[0] for version in versions.values()}
    finding = check_versions(nodes)
    assert (finding.state == "failed") == (len(public) > 1)
    if len(public) > 1:
        assert finding.detail.startswith(f"{package}: ")
        assert "constraints.txt" in finding.fix


def test_a_version_mismatch_lists_the_nodes_of_each_version() -> None:
    nodes = [node("a"), node("b", versions={**VERSIONS, "ray": "2.59.0"}), node("c")]
    assert check_versions(nodes).detail == "ray: 2.60.0 on a, c, 2.59.0 on b"
    without = {name: value for name, value in VERSIONS.items() if name != "raycol"}
    assert check_versions([node("a"), node("b", versions=without)]).detail == "raycol: 0.1.0 on a, none on b"


def test_a_silent_node_is_named_and_the_others_are_checked() -> None:
    silent = NodeFacts(node="b", problem="ModuleNotFoundError: No module named 'raycol'")
    assert check_nodes([node("a"), silent]).detail == "b: ModuleNotFoundError: No module named 'raycol'"
    states = [finding.state for finding in check([node("a"), silent], None)]
    assert states.count("failed") == 1
    assert len(check([silent], plan())) == 1


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"python": None}, "failed"),
        ({"python": "/usr/bin/python"}, "failed"),
        ({"is_head": False}, "not checked"),
    ],
)
def test_python_on_the_head_is_rays_interpreter(changes: dict, state: str) -> None:
    assert check_python([node("a", **changes), node("b", python=None)]).state == state


@given(NAMES, st.sets(st.sampled_from("abcdefgh")))
def test_authentication_fails_if_one_node_has_no_token(names: list[str], unprotected: set[str]) -> None:
    finding = check_authentication([node(name, token=name not in unprotected) for name in names])
    assert (finding.state == "failed") == bool(unprotected & {*names})


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_clocks_may_differ_by_two_seconds(skews: list[float]) -> None:
    finding = check_clocks([node(str(number), clock_skew_s=seconds) for number, seconds in enumerate(skews)])
    assert (finding.state == "failed") == (max(skews) > 2)


@pytest.mark.parametrize(
    ("changes", "needed", "state", "detail"),
    [
        ({}, 0, "ok", "none"),
        ({"gpus": 2}, 0, "ok", "0 (2 more that Ray does not schedule)"),
        ({"gpus": 2, "usable_gpus": 2, "resources": {"GPU": 2.0}}, 2, "ok", "2"),
        ({"gpus": 2, "usable_gpus": 8, "resources": {"GPU": 2.0}}, 0, "ok", "2"),
        ({"gpus": 2, "usable_gpus": 0, "resources": {"GPU": 2.0}}, 0, "failed", "a: Ray schedules 2, torch sees 0"),
        ({"usable_gpus": None, "gpu_problem": "no torch", "resources": {"GPU": 1.0}}, 0, "failed", "a: no torch"),
        ({}, 4, "failed", "the plan's workers need 4 at a time, Ray has 0"),
    ],
)
def test_torch_must_see_the_gpus_that_ray_schedules(changes: dict, needed: float, state: str, detail: str) -> None:
    finding = check_gpus([node("a", **changes)], needed)
    assert (finding.state, finding.detail) == (state, detail)
    assert bool(finding.fix) == (state == "failed")


@given(st.lists(st.tuples(st.integers(1, 10**13), st.floats(0, 1)), min_size=1, max_size=8))
def test_memory_and_disk_fail_above_rays_thresholds(sizes: list[tuple[int, float]]) -> None:
    usages = [Usage(total=total, free=int(total * part)) for total, part in sizes]
    full = any(usage.free < usage.total * (1 - 0.95) for usage in usages)
    for name, run in (("memory", check_memory), ("disk", check_disk)):
        finding = run([node(str(number), **{name: usage}) for number, usage in enumerate(usages)])
        assert (finding.state == "failed") == full


def test_unknown_facts_are_not_checked() -> None:
    assert check_memory([node(memory=None)]).state == "not checked"
    assert check_shared([node(shared={})])[0].state == "not checked"


@given(NAMES, st.sets(st.sampled_from("abcdefgh")))
def test_storage_must_be_shared_by_every_node(names: list[str], without: set[str]) -> None:
    facts = {name: SharedFacts(problem="no such folder" if name in without else "") for name in names}
    (finding,) = check_shared([node(name, shared={"/s": shared}) for name, shared in facts.items()])
    assert (finding.state == "failed") == bool(without & {*names})
    if finding.state == "failed":
        assert finding.detail.startswith("no such folder: ")
        assert "mount it" in finding.fix


def test_a_bucket_that_fails_is_a_matter_of_credentials() -> None:
    (finding,) = check_shared([node(shared={"s3://b": SharedFacts(problem="denied")})])
    assert (finding.check, finding.detail) == ("shared storage s3://b", "denied: a")
    assert "credentials" in finding.fix
