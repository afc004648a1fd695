from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.errors import InputError, RaycolError
from raycol.jobs.follow import follow
from raycol.jobs.job import SubmittedJob


class Scripted:
    """A scripted job: how many characters of the log each connection delivers, and the reply to each request."""

    def __init__(self, whole: str, connections: list[int], answers: list[str | Exception]) -> None:
        self._whole = whole
        self._connections = iter(connections)
        self._answers: Iterator[str | Exception] = iter(answers)
        self.requests = 0

    def job(self, submission_id: str) -> SubmittedJob:
        self.requests += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return SubmittedJob(submission_id, answer, driver_code=3 if answer == "FAILED" else None)

    def logs(self, _: str) -> str:
        return self._whole

    async def tail(self, _: str) -> AsyncIterator[str]:
        delivered = self._whole[: next(self._connections, 0)]
        for start in range(0, len(delivered), 3):
            yield delivered[start : start + 3]
        raise ConnectionError("lost")


@pytest.mark.slow
@given(st.text(), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 5))
def test_every_character_is_written_once_after_reconnecting(whole: str, connections: list[int], running: int) -> None:
    source = Scripted(whole, connections, ["RUNNING"] * running + ["SUCCEEDED"])
    written: list[str] = []
    assert follow(source, "x", written.append, poll_s=0).status == "SUCCEEDED"
    assert "".join(written) == whole


def test_requests_to_an_unreachable_cluster_are_retried() -> None:
    source = Scripted(
        "log\n", [4], [RaycolError("away"), RaycolError("away"), "RUNNING", RaycolError("away"), "FAILED"]
    )
    written: list[str] = []
    job = follow(source, "x", written.append, poll_s=0)
    assert (job.status, job.exit_code, "".join(written)) == ("FAILED", 3, "log\n")


def test_following_ends_after_the_timeout_and_at_once_for_an_unknown_job() -> None:
    with pytest.raises(RaycolError, match=r"job x: stopped following it \(away\); the job may still be running"):
        follow(Scripted("", [], [RaycolError("away")] * 9), "x", print, poll_s=0, timeout_s=0)
    unknown = Scripted("", [], [InputError("no job 'x'")])
    with pytest.raises(InputError, match="no job 'x'"):
        follow(unknown, "x", print, poll_s=0)
    assert unknown.requests == 1
