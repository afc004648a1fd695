from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.doctor.config import DoctorConfig
from raycol.doctor.facts import Room, SharedFacts
from raycol.doctor.places import storage_of
from raycol.doctor.room import check_plan_disk, check_plan_memory, check_workers, workers_on
from raycol.doctor.run import plan_facts
from tests.conftest import make_clustered, save_encoded
from tests.doctor.made_up import node, plan


def test_workers_go_where_there_is_enough_of_everything() -> None:
    one = node(resources={"CPU": 8.0, "GPU": 1.0})
    assert workers_on(one, plan()) == 8
    assert workers_on(one, plan(num_workers=3)) == 3
    assert workers_on(one, plan(resources={"CPU": 1.0, "GPU": 0.1})) == 8
    assert workers_on(one, plan(resources={"CPU": 1.0, "GPU": 0.3})) == 3
    assert workers_on(one, plan(resources={"CPU": 1.0, "TPU": 1.0})) == 0


@given(st.lists(st.integers(0, 16), min_size=1, max_size=5), st.integers(1, 40))
def test_every_worker_has_a_place(cpus: list[int], wanted: int) -> None:
    nodes = [node(str(number), resources={"CPU": float(cpu)}) for number, cpu in enumerate(cpus)]
    assert (check_workers(nodes, plan(num_workers=wanted)).state == "ok") == (sum(cpus) >= wanted)
    assert (check_workers(nodes, plan()).state == "ok") == (sum(cpus) >= 1)
    assert check_workers(nodes, plan(num_workers=wanted, waits=True)).state != "wrong"


@given(st.integers(0, 8), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**11), st.booleans())
def test_memory_is_for_the_workers_and_on_the_head_for_the_driver(
    cpus: int, worker: int, driver: int, free: int, is_head: bool
) -> None:
    one = node("a", is_head=is_head, resources={"CPU": float(cpus)}, memory=Room(total=10**12, free=free))
    found = check_plan_memory([one], plan(worker_bytes=worker, driver_bytes=driver))
    assert (found.state == "wrong") == (cpus * worker + is_head * driver > free)


@pytest.mark.parametrize(("free", "state"), [(2 * 10**9, "ok"), (2 * 10**9 - 1, "wrong")])
def test_the_disk_holds_an_index_twice(tmp_path: Path, free: int, state: str) -> None:
    out = tmp_path / "not" / "there" / "yet"
    nodes = [node(shared={str(tmp_path): SharedFacts(room=Room(total=10**12, free=free))})]
    assert check_plan_disk(nodes, plan(out=str(out), index_bytes=10**9)).state == state


def test_the_room_of_a_bucket_is_not_known() -> None:
    found = check_plan_disk([node(shared={"s3://bucket/index": SharedFacts()})], plan())
    assert (found.state, found.found) == ("not checked", "2 GB at s3://bucket/index, whose room is not known")


def test_the_storage_of_a_result_is_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert storage_of(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert storage_of(str(tmp_path)) == str(tmp_path)
    assert storage_of("s3://b/i") == "s3://b/i"


def test_a_plan_is_estimated_as_index_plan_does_it(tmp_path: Path) -> None:
    save_encoded(tmp_path / "c.npz", make_clustered(40, 16, seed=0))
    (tmp_path / "build.yaml").write_text(f"corpus: {tmp_path / 'c.npz'}\nout: {tmp_path / 'i'}\nresources: CPU=2\n")
    facts = plan_facts(DoctorConfig(plan=tmp_path / "build.yaml"))
    assert (facts.out, facts.num_workers, facts.resources) == (str(tmp_path / "i"), None, {"CPU": 2.0})
    assert min(facts.index_bytes, facts.worker_bytes, facts.driver_bytes) > 0
