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
from raycol.doctor.facts import NodeFacts, Room, SharedFacts
from raycol.doctor.run import check
from tests.doctor.made_up import NAMES, VERSIONS, node, plan


@given(NAMES)
def test_a_cluster_that_is_well_is_found_so(names: list[str]) -> None:
    findings = check([node(name) for name in names], plan())
    assert {finding.state for finding in findings} <= {"ok", "not checked"}
    assert not [finding for finding in findings if finding.mend]


@given(NAMES, st.sampled_from(list(VERSIONS)), st.data())
def test_versions_differ_exactly_where_one_of_them_does(names: list[str], package: str, data: st.DataObject) -> None:
    versions = {name: data.draw(st.sampled_from(["1.0", "1.0+cu128", "2.0", ""])) for name in names}
    nodes = []
    for name, version in versions.items():
        rest = {other: value for other, value in VERSIONS.items() if other != package}
        nodes.append(node(name, versions={**rest, package: version} if version else rest))
    public = {version.partition("+")[0] for version in versions.values()}
    found = check_versions(nodes)
    assert (found.state == "wrong") == (len(public) > 1)
    if len(public) > 1:
        assert found.found.startswith(f"{package}: ")
        assert "constraints.txt" in found.mend


def test_a_difference_says_which_node_has_what() -> None:
    nodes = [node("a"), node("b", versions={**VERSIONS, "ray": "2.59.0"}), node("c")]
    assert check_versions(nodes).found == "ray: 2.60.0 on a, c, 2.59.0 on b"
    without = {name: value for name, value in VERSIONS.items() if name != "raycol"}
    assert check_versions([node("a"), node("b", versions=without)]).found == "raycol: 0.1.0 on a, none on b"


def test_a_node_that_says_nothing_is_named_and_the_others_are_checked() -> None:
    silent = NodeFacts(node="b", problem="ModuleNotFoundError: No module named 'raycol'")
    assert check_nodes([node("a"), silent]).found == "b: ModuleNotFoundError: No module named 'raycol'"
    states = [finding.state for finding in check([node("a"), silent], None)]
    assert states.count("wrong") == 1
    assert len(check([silent], plan())) == 1


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "ok"),
        ({"python": None}, "wrong"),
        ({"python": "/usr/bin/python"}, "wrong"),
        ({"is_head": False}, "not checked"),
    ],
)
def test_python_on_the_head_is_the_one_ray_runs_with(changed: dict, state: str) -> None:
    assert check_python([node("a", **changed), node("b", python=None)]).state == state


@given(NAMES, st.sets(st.sampled_from("abcdefgh")))
def test_one_open_node_leaves_a_cluster_open(names: list[str], open_: set[str]) -> None:
    found = check_authentication([node(name, token=name not in open_) for name in names])
    assert (found.state == "wrong") == bool(open_ & {*names})


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_clocks_may_be_off_by_two_seconds(off: list[float]) -> None:
    found = check_clocks([node(str(number), clock_off=seconds) for number, seconds in enumerate(off)])
    assert (found.state == "wrong") == (max(off) > 2)


@pytest.mark.parametrize(
    ("changed", "needed", "state", "said"),
    [
        ({}, 0, "ok", "none"),
        ({"gpus": 2}, 0, "ok", "0 (2 more that Ray does not give out)"),
        ({"gpus": 2, "usable_gpus": 2, "resources": {"GPU": 2.0}}, 2, "ok", "2"),
        ({"gpus": 2, "usable_gpus": 8, "resources": {"GPU": 2.0}}, 0, "ok", "2"),
        ({"gpus": 2, "usable_gpus": 0, "resources": {"GPU": 2.0}}, 0, "wrong", "a: Ray gives out 2, torch sees 0"),
        ({"usable_gpus": None, "gpu_problem": "no torch", "resources": {"GPU": 1.0}}, 0, "wrong", "a: no torch"),
        ({}, 4, "wrong", "the plan's workers need 4 at a time, Ray has 0"),
    ],
)
def test_gpus_are_those_that_ray_gives_out(changed: dict, needed: float, state: str, said: str) -> None:
    found = check_gpus([node("a", **changed)], needed)
    assert (found.state, found.found) == (state, said)
    assert bool(found.mend) == (state == "wrong")


@given(st.lists(st.tuples(st.integers(1, 10**13), st.floats(0, 1)), min_size=1, max_size=8))
def test_rooms_are_full_where_ray_takes_them_for_full(rooms: list[tuple[int, float]]) -> None:
    made = [Room(total=total, free=int(total * part)) for total, part in rooms]
    full = any(room.free < room.total * (1 - 0.95) for room in made)
    for name, run in (("memory", check_memory), ("disk", check_disk)):
        found = run([node(str(number), **{name: room}) for number, room in enumerate(made)])
        assert (found.state == "wrong") == full


def test_what_no_node_knows_is_not_checked() -> None:
    assert check_memory([node(memory=None)]).state == "not checked"
    assert check_shared([node(shared={})])[0].state == "not checked"


@given(NAMES, st.sets(st.sampled_from("abcdefgh")))
def test_a_place_is_shared_where_every_node_finds_it_so(names: list[str], without: set[str]) -> None:
    here = {name: SharedFacts(problem="no such folder" if name in without else "") for name in names}
    (found,) = check_shared([node(name, shared={"/s": shared}) for name, shared in here.items()])
    assert (found.state == "wrong") == bool(without & {*names})
    if found.state == "wrong":
        assert found.found.startswith("no such folder: ")
        assert "mount it" in found.mend


def test_of_a_bucket_credentials_are_what_is_amiss() -> None:
    (found,) = check_shared([node(shared={"s3://b": SharedFacts(problem="denied")})])
    assert (found.check, found.found) == ("shared storage s3://b", "denied: a")
    assert "credentials" in found.mend
