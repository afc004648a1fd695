from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from raycol.indexing.config import IndexConfig
from raycol.jobs.job import SubmittedJob, attempt_id, attempt_of, choose_attempt, job_name


def build(**settings: object) -> IndexConfig:
    return IndexConfig.load(None, {"corpus": "/c", "model": "m", "out": "/o", **settings})


def test_a_name_depends_on_the_verb_and_on_settings_that_differ_from_defaults() -> None:
    name = job_name("index", build())
    assert name == job_name("index", build(bits=4, resources="CPU=1")) == "raycol-index-27e198eb6e336202"
    assert (
        len({name, job_name("append", build()), job_name("index", build(bits=2)), job_name("index", build(seed=1))})
        == 4
    )


def test_the_same_settings_in_another_file_are_the_same_job(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("corpus: /c\nout: /o\nmodel: m\n")
    (tmp_path / "b.yaml").write_text("# a remark\nmodel: m\nout: /o\ncorpus: /elsewhere\n")
    one = IndexConfig.load(tmp_path / "a.yaml")
    other = IndexConfig.load(tmp_path / "b.yaml", {"corpus": "/c"})
    assert job_name("index", one) == job_name("index", other) == job_name("index", build())


@given(st.integers(1, 10**6))
def test_an_id_holds_the_number_of_the_attempt(attempt: int) -> None:
    assert attempt_of("raycol-index-1", attempt_id("raycol-index-1", attempt)) == attempt
    assert attempt_of("raycol-index-2", attempt_id("raycol-index-1", attempt)) is None


def test_similar_ids_are_not_attempts() -> None:
    for other in ("raycol-index-1-1", "raycol-index-1-0", "raycol-index-1-02", "raycol-index-1-x", "raycol-index-12"):
        assert attempt_of("raycol-index-1", other) is None


STATUSES = st.sampled_from(["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"])


@given(st.lists(STATUSES, max_size=6), st.booleans(), st.randoms(use_true_random=False))
def test_the_last_attempt_is_followed_or_retried(statuses: list[str], again: bool, order: object) -> None:
    jobs = [SubmittedJob(attempt_id("raycol-x-1", n), status) for n, status in enumerate(statuses, start=1)]
    shuffled = [*jobs, SubmittedJob("somebody-else", "RUNNING"), SubmittedJob("raycol-x-12", "RUNNING")]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    attempt = choose_attempt(shuffled, "raycol-x-1", again=again)
    last = jobs[-1] if jobs else None
    if last and (last.active or (last.status == "SUCCEEDED" and not again)):
        assert (attempt.existing, attempt.submission_id, attempt.previous) == (last, last.id, None)
    else:
        assert (attempt.existing, attempt.previous) == (None, last)
        assert attempt.submission_id == attempt_id("raycol-x-1", len(jobs) + 1)


def test_exit_codes_follow_the_shells_convention() -> None:
    codes = {("SUCCEEDED", 0): 0, ("FAILED", 2): 2, ("FAILED", -9): 137, ("FAILED", None): 1, ("STOPPED", None): 1}
    for (status, driver_code), code in codes.items():
        assert SubmittedJob("x", status, driver_code=driver_code).exit_code == code
