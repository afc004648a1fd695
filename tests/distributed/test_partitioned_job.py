"""A job over parts: what is resumed, refused and computed again, and how errors arrive from workers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from raycol.core.progress import no_report
from raycol.distributed.executor import IN_PROCESS, ON_RAY, Executor, WorkersConfig
from raycol.distributed.part_progress import PartProgress
from raycol.distributed.partitioned_job import PartitionedJob, PartRecord, PartWorker, differences, fingerprint
from raycol.errors import InputError, RaycolError
from raycol.storage import Store, StoredFolder, open_store
from raycol.storage.checked_files import describe_bytes


class Square(PartRecord):
    """The square of the part's input, which is also the content of its file."""

    value: int
    output: StoredFolder

    @property
    def wrote(self) -> Sequence[StoredFolder]:
        return [self.output]


class Squares(PartWorker[int, Square]):
    """Fails on negative numbers."""

    def open(self) -> None:
        self.opened = True

    def describe(self, number: int, input_: int) -> str:
        return f"{input_}"

    def compute(self, number: int, input_: int) -> Square:
        assert self.opened
        if input_ == -1:
            raise InputError("-1: below zero\nexpected a positive number")
        content = str(input_**2 // (input_ + 2)).encode()
        name = f"part-{number}"
        self.job.store.write(f"{self.job.folder}/{name}", content)
        return Square(value=input_, output=StoredFolder(folder=self.job.folder, files={name: describe_bytes(content)}))


def job_in(store: Store, prefix: str = "jobs/00000000-", **settings: Any) -> PartitionedJob[Square]:
    return PartitionedJob(store, prefix, settings, Square)


def run(
    job: PartitionedJob[Square], inputs: list[int], executor: Executor = IN_PROCESS, workers: int = 1
) -> tuple[list[int], list[int]]:
    """Return the values of all parts, and the numbers of those computed."""
    job.begin()
    finished = job.finished_parts(len(inputs))
    config, progress = WorkersConfig(num_workers=workers), Computed(no_report, inputs, finished, workers)
    records = job.run(Squares, config, inputs, finished, {}, "squaring", executor, progress)
    return [record.value for record in records], sorted(progress.numbers)


class Computed(PartProgress):
    """Keeps the numbers of the parts that were computed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.numbers: list[int] = []

    def add(self, number: int, record: Square) -> None:
        self.numbers.append(number)
        super().add(number, record)


@pytest.mark.parametrize("prefix", ["", "jobs/00000000-"])
def test_finished_parts_are_reused_and_damaged_ones_computed_again(tmp_path: Path, prefix: str) -> None:
    job = job_in(open_store(tmp_path), prefix, bits=4)
    with pytest.raises(InputError, match=r"^-1: below zero\nexpected"):
        run(job, [5, 6, -1, 7])
    assert run(job, [5, 6, 8, 7]) == ([5, 6, 8, 7], [2, 3])
    folder = tmp_path / job.folder
    (folder / "part-1").write_bytes(b"9")
    (folder / "00000002.json").write_bytes((folder / "00000002.json").read_bytes().replace(b'"value":8', b'"value":9'))
    (folder / "part-3").unlink()
    assert run(job, [5, 6, 8, 7]) == ([5, 6, 8, 7], [1, 2, 3])
    assert run(job, [5, 6, 8, 7]) == ([5, 6, 8, 7], [])


@pytest.mark.parametrize("prefix", ["", "jobs/00000000-"])
def test_a_job_with_other_settings_is_refused_once_it_has_finished_parts(tmp_path: Path, prefix: str) -> None:
    store = open_store(tmp_path)
    first, second = job_in(store, prefix, bits=4, seed=0), job_in(store, prefix, bits=8, seed=0)
    first.begin()
    second.refuse_others("out")
    run(first, [1])
    message = rf"^out: .* differs in bits \(4 there, 8 here\); .* remove {tmp_path}/{first.folder} to"
    with pytest.raises(InputError, match=message):
        second.refuse_others("out")
    first.refuse_others("out")
    if prefix:
        job_in(store, "jobs/00000001-", bits=8, seed=0).refuse_others("out")
    first.remove()
    second.refuse_others("out")


def test_the_fingerprint_does_not_depend_on_the_order_of_settings() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    assert differences({"a": (1,), "b": 2}, {"a": [1], "c": None}) == "b (2 there, None here)"


def test_an_unexpected_error_names_the_part(tmp_path: Path) -> None:
    with pytest.raises(RaycolError, match=r"^a worker failed on -2: ZeroDivisionError: ") as failed:
        run(job_in(open_store(tmp_path)), [1, -2])
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.long
def test_errors_of_workers_on_ray_arrive_unchanged_and_unannounced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = job_in(open_store(tmp_path))
    with pytest.raises(InputError, match=r"^-1: below zero\nexpected a positive number$"):
        run(job, [5, -1, *range(6)], ON_RAY, 2)
    with pytest.raises(RaycolError, match=r"^a worker failed on -2: ZeroDivisionError: ") as failed:
        run(job, [5, -2], ON_RAY, 2)
    assert type(failed.value) is RaycolError
    output = capfd.readouterr()
    assert "Traceback" not in output.out + output.err
    assert "below zero" not in output.out + output.err
    assert run(job, [5, 6, *range(6)], ON_RAY, 2)[0] == [5, 6, *range(6)]


def running_times() -> tuple[float, float, float]:
    """The memory that a call was given, when it began, and when it ended."""
    import ray

    began = time.monotonic()
    time.sleep(0.5)
    return ray.get_runtime_context().get_assigned_resources().get("memory", 0), began, time.monotonic()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_calls_that_do_not_fit_into_memory_together_run_one_after_the_other() -> None:
    """Merges would otherwise fill a node: each holds its partitions. More than a node has is all of it."""
    import ray

    most = int(max(node["Resources"]["memory"] for node in ray.nodes()))
    memory = {0: 3 * most // 5, 1: 3 * most // 5, 2: 100 * most}
    called = dict(ON_RAY.call(running_times, dict.fromkeys(memory, ()), "the test", WorkersConfig(), memory))
    assert [called[key][0] for key in memory] == pytest.approx([memory[0], memory[1], most], rel=1e-3)
    times = sorted((began, ended) for _, began, ended in called.values())
    assert all(ended <= began for (_, ended), (began, _) in pairwise(times))


class Slow(Squares):
    """Takes longer than Ray Data waits for progress."""

    def compute(self, number: int, input_: int) -> Square:
        time.sleep(5)
        return super().compute(number, input_)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_a_part_may_take_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    monkeypatch.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 1)
    job = job_in(open_store(tmp_path))
    (record,) = run_on_ray(job, [6], Slow)
    assert record.value == 6


class Reporting(Squares):
    """Reports progress until a file says that the driver has seen some."""

    def compute(self, number: int, input_: int) -> Square:
        seen = Path(self.job.store.location("seen"))
        for done in range(1, 1000):
            self.on_progress(done)
            if seen.exists():
                return super().compute(number, input_)
            time.sleep(0.1)
        raise AssertionError("the driver has seen no progress")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_driver_sees_progress_within_parts_on_ray(tmp_path: Path) -> None:
    job, amounts = job_in(open_store(tmp_path)), []
    job.begin()

    def report(done: float, total: float | None, note: str) -> None:
        amounts.append(done)
        if len(amounts) == 4:  # the first is of the start
            (tmp_path / "seen").touch()

    config, progress = WorkersConfig(num_workers=2), PartProgress(report, [1000, 1000], (), 2)
    job.run(Reporting, config, [6, 7], {}, {}, "the test", ON_RAY, progress)
    assert amounts[:4] == sorted(amounts[:4])
    assert amounts[0] == 0 < amounts[1] < amounts[3]


class Dying(Squares):
    """Ends its process at 7: once if there is a file for it, which it then deletes, otherwise every time."""

    def compute(self, number: int, input_: int) -> Square:
        once = Path(self.job.store.location("once"))
        if input_ == 7 and (once.exists() or not Path(self.job.store.location("survives")).exists()):
            once.unlink(missing_ok=True)
            os._exit(1)
        return super().compute(number, input_)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_local")
def test_a_worker_that_dies_on_this_machine_is_replaced_a_few_times(tmp_path: Path) -> None:
    job = job_in(open_store(tmp_path))
    with pytest.raises(RaycolError, match=r"^the test failed: ActorDiedError"):
        run_on_ray(job, [5, 7], Dying)
    (tmp_path / "once").touch()
    (tmp_path / "survives").touch()
    assert [record.value for record in run_on_ray(job, [5, 7, 8], Dying)] == [5, 7, 8]


def run_on_ray(job: PartitionedJob[Square], inputs: list[int], worker: type[Squares]) -> list[Square]:
    job.begin()
    progress = PartProgress(no_report, [1] * len(inputs), (), 1)
    return job.run(worker, WorkersConfig(num_workers=1), inputs, {}, {}, "the test", ON_RAY, progress)
