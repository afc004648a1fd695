from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.doctor.config import DoctorConfig
from raycol.doctor.facts import SharedFacts, Usage
from raycol.doctor.plan import check_plan_disk, check_plan_memory, check_workers, existing_folder, workers_on
from raycol.doctor.run import plan_facts
from tests.conftest import make_clustered, save_encoded
from tests.doctor.samples import node, plan


def test_a_node_fits_workers_by_its_scarcest_resource() -> None:
    one = node(resources={"CPU": 8.0, "GPU": 1.0})
    assert workers_on(one, plan()) == 8
    assert workers_on(one, plan(num_workers=3)) == 3
    assert workers_on(one, plan(resources={"CPU": 1.0, "GPU": 0.1})) == 8
    assert workers_on(one, plan(resources={"CPU": 1.0, "GPU": 0.3})) == 3
    assert workers_on(one, plan(resources={"CPU": 1.0, "TPU": 1.0})) == 0


@given(st.lists(st.integers(0, 16), min_size=1, max_size=5), st.integers(1, 40))
def test_every_worker_must_fit(cpus: list[int], needed: int) -> None:
    nodes = [node(str(number), resources={"CPU": float(cpu)}) for number, cpu in enumerate(cpus)]
    assert (check_workers(nodes, plan(num_workers=needed)).state == "ok") == (sum(cpus) >= needed)
    assert (check_workers(nodes, plan()).state == "ok") == (sum(cpus) >= 1)
    assert check_workers(nodes, plan(num_workers=needed, waits=True)).state != "failed"


@given(st.integers(0, 8), st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**11), st.booleans())
def test_memory_counts_workers_and_on_the_head_the_driver(
    cpus: int, worker: int, driver: int, free: int, is_head: bool
) -> None:
    one = node("a", is_head=is_head, resources={"CPU": float(cpus)}, memory=Usage(total=10**12, free=free))
    finding = check_plan_memory([one], plan(worker_bytes=worker, driver_bytes=driver))
    assert (finding.state == "failed") == (cpus * worker + is_head * driver > free)


@pytest.mark.parametrize(("free", "state"), [(2 * 10**9, "ok"), (2 * 10**9 - 1, "failed")])
def test_the_disk_must_hold_the_index_twice(tmp_path: Path, free: int, state: str) -> None:
    out = tmp_path / "not" / "there" / "yet"
    nodes = [node(shared={str(tmp_path): SharedFacts(usage=Usage(total=10**12, free=free))})]
    assert check_plan_disk(nodes, plan(out=str(out), index_bytes=10**9)).state == state


def test_the_free_space_of_a_bucket_is_unknown() -> None:
    finding = check_plan_disk([node(shared={"s3://bucket/index": SharedFacts()})], plan())
    assert (finding.state, finding.detail) == (
        "not checked",
        "2 GB needed at s3://bucket/index; its free space is unknown",
    )


def test_the_storage_of_a_new_path_is_its_nearest_existing_folder(tmp_path: Path) -> None:
    assert existing_folder(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert existing_folder(str(tmp_path)) == str(tmp_path)
    assert existing_folder("s3://b/i") == "s3://b/i"


def test_a_plan_is_estimated_as_by_index_plan(tmp_path: Path) -> None:
    save_encoded(tmp_path / "c.npz", make_clustered(40, 16, seed=0))
    (tmp_path / "build.yaml").write_text(f"corpus: {tmp_path / 'c.npz'}\nout: {tmp_path / 'i'}\nresources: CPU=2\n")
    facts = plan_facts(DoctorConfig(plan=tmp_path / "build.yaml"))
    assert (facts.out, facts.num_workers, facts.resources) == (str(tmp_path / "i"), None, {"CPU": 2.0})
    assert min(facts.index_bytes, facts.worker_bytes, facts.driver_bytes) > 0
