import asyncio
import socket

import pytest

from raycol.errors import InputError, RaycolError
from raycol.jobs.cluster import Cluster, DuplicateJobError
from tests.jobs.dashboard import Dashboard, dashboard

TOKEN = {"Authorization": "Bearer good"}


def test_jobs_are_listed_oldest_first(served: Dashboard) -> None:
    served.add("b", "RUNNING", start_time=2000, metadata={"writes": "/o"}, runtime_env={"working_dir": "gcs://p.zip"})
    served.add("a", "FAILED", start_time=1000, end_time=3500, driver_exit_code=2, message="why")
    served.jobs["c"] = {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING", "entrypoint": ""}
    cluster = Cluster(served.address, {})
    assert cluster.unauthenticated
    a, b = cluster.jobs()
    assert (a.id, a.exit_code, a.seconds, a.message, a.active) == ("a", 2, 2.5, "why", False)
    assert (b.id, b.metadata, b.package, b.active) == ("b", {"writes": "/o"}, "gcs://p.zip", True)
    assert cluster.job("a") == a
    with pytest.raises(InputError, match=r"no job 'x' on http://.*; `raycol jobs list` lists its jobs"):
        cluster.job("x")


def test_a_job_is_submitted_once(served: Dashboard) -> None:
    cluster = Cluster(served.address, {})
    cluster.submit("python x.py", "x", {"env_vars": {"A": "b"}}, {"verb": "x"})
    assert served.jobs["x"]["entrypoint"] == "python x.py"
    assert served.jobs["x"]["runtime_env"] == {"env_vars": {"A": "b"}}
    with pytest.raises(DuplicateJobError, match="already exists"):
        cluster.submit("python x.py", "x", {}, {})


def test_a_server_error_is_reported_in_one_line(served: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(served.address, {})
    monkeypatch.setattr(served, "answer", lambda *_: (500, "Traceback ...\n  File x\nOSError: the disk is full.\n"))
    with pytest.raises(RaycolError, match=r"OSError: the disk is full$") as error:
        cluster.jobs()
    assert not isinstance(error.value, InputError)


def test_rays_variables_do_not_override_the_address(served: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert Cluster(served.address, {}).jobs() == []


@pytest.mark.sockets
def test_a_missing_or_wrong_token_is_refused() -> None:
    with dashboard(token="good") as served:
        assert not Cluster(served.address, TOKEN).unauthenticated
        served.requests.clear()
        with pytest.raises(InputError, match="this cluster requires a token, and none is set; set RAY_AUTH_MODE"):
            Cluster(served.address, {})
        assert served.requests == ["GET /api/authentication_mode"]
        with pytest.raises(InputError, match="the cluster refuses the token; set RAY_AUTH_MODE=token") as error:
            Cluster(served.address, {"Authorization": "Bearer hidden"})
        assert "hidden" not in str(error.value)


def test_an_address_without_ray_is_refused(served: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"cannot be reached \(.*refused\); expected a Ray cluster's dashboard"):
            Cluster(f"http://127.0.0.1:{probe.getsockname()[1]}", {})
        probe.listen()
        monkeypatch.setattr("raycol.jobs.cluster._TIMEOUT_S", 0.2)
        with pytest.raises(InputError, match=r"no answer within 0.2 seconds; expected a Ray"):
            Cluster(f"http://127.0.0.1:{probe.getsockname()[1]}", {})
    for answer, message in (
        ((200, "<html>"), "answers, but not as Ray does"),
        ((200, []), "answers, but not as Ray does"),
        ((502, "bad gateway"), "answers 502; expected"),
        ((404, "not here"), "404"),
    ):
        monkeypatch.setattr(served, "answer", lambda *_, answer=answer: answer)
        with pytest.raises(InputError, match=message):
            Cluster(served.address, {})


def test_a_log_stream_that_fails_is_a_connection_error(served: Dashboard) -> None:
    served.add("x", "RUNNING")

    async def read() -> None:
        async for _ in Cluster(served.address, {}).tail("x"):
            pass

    with pytest.raises(ConnectionError):
        asyncio.run(read())
