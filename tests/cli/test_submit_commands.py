"""Output and exit codes of `raycol submit`, `jobs` and `doctor`, with a fake dashboard."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raycol.cli.doctor import show
from raycol.cli.submit import follow_and_exit
from raycol.doctor.checks import Finding
from raycol.jobs import cluster
from raycol.jobs.job import SubmittedJob
from tests.cli.test_bad_input import run
from tests.conftest import PROJECT
from tests.jobs.conftest import checkout, served  # noqa: F401
from tests.jobs.dashboard import Dashboard, dashboard

pytestmark = pytest.mark.usefixtures("checkout")


@pytest.mark.slow
def test_the_command_line_starts_without_heavy_imports() -> None:
    heavy = {"torch", "ray", "sentence_transformers", "numba", "pandas"}
    code = f"import raycol.cli, sys; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_submission_is_reported(served: Dashboard, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (checkout / "model").mkdir()
    (checkout / "model" / "modules.json").touch()
    words = ("submit", "index", "build.yaml", "--address", served.address, "--num-workers", 4, "--detach")
    assert run(*words) == 0
    out, err = capsys.readouterr()
    (job,) = served.submitted
    assert out == f"{job}\n"
    assert "uploaded " in err
    assert f"files of {checkout}\n" in err
    assert "not uploaded: model (a checkpoint)\n" in err
    assert f"raycol jobs logs {job} --follow --address {served.address}" in err
    assert "requires no token: anyone who can connect can run code on it" in err
    assert served.jobs[job]["entrypoint"].endswith("--config build.yaml --num-workers=4")

    assert run(*words) == 0
    out, err = capsys.readouterr()
    assert out == f"{job}\n"
    assert f"job {job} exists (PENDING): nothing is submitted" in err
    (checkout / "build.yaml").write_text("# a remark\n" + (checkout / "build.yaml").read_text())
    run(*words)
    assert "warning: the working directory has changed since that job was submitted" in capsys.readouterr().err
    served.jobs[job]["status"] = "STOPPED"
    run(*words)
    assert f"the previous attempt, {job}, was stopped\njob {job}-2\n" in capsys.readouterr().err


class Ended:
    """A cluster whose job has ended, or whose requests raise an exception."""

    address = "http://head:8265"

    def __init__(self, job: SubmittedJob | BaseException) -> None:
        self._job = job

    def job(self, _: str) -> SubmittedJob:
        if isinstance(self._job, BaseException):
            raise self._job
        return self._job

    def logs(self, _: str) -> str:
        return "line one\nline two\n"

    async def tail(self, _: str) -> Any:
        yield "line one\n"
        raise ConnectionError


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        (SubmittedJob("x", "SUCCEEDED"), 0, "job x succeeded"),
        (SubmittedJob("x", "FAILED", driver_code=7), 7, "job x failed with exit code 7"),
        (SubmittedJob("x", "FAILED", message="no node\nmore"), 1, "job x failed: no node\n"),
        (SubmittedJob("x", "STOPPED"), 1, "job x was stopped"),
    ],
)
def test_exit_code_is_the_jobs(job: SubmittedJob, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    with pytest.raises(typer.Exit) as stopped:
        follow_and_exit(Ended(job), "x")  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert (stopped.value.exit_code, out) == (code, "line one\nline two\n")
    assert message in err


def test_an_interruption_detaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("raycol.cli.submit.follow", interrupted)
    with pytest.raises(typer.Exit) as stopped:
        follow_and_exit(Ended(SubmittedJob("x", "RUNNING")), "x")  # type: ignore[arg-type]
    assert stopped.value.exit_code == 130
    err = capsys.readouterr().err
    assert "detached; the job keeps running" in err
    assert "raycol jobs logs x --follow --address http://head:8265" in err


def test_jobs_are_listed(served: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert run("jobs", "list", "--address", served.address) == 0
    assert capsys.readouterr().out == "no jobs\n"
    long = "/shared/" + "x" * 100
    served.add("raycol-index-1", "FAILED", start_time=10**12, end_time=10**12 + 5000, metadata={"writes": long})
    served.add("another", "RUNNING", start_time=10**12 + 1)
    assert run("jobs", "list", "--address", served.address) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["job", "status", "started", "took", "writes", "to"]
    assert line.split()[:2] == ["raycol-index-1", "FAILED"]
    assert line.split()[-2:] == ["0:00:05", long]
    assert run("jobs", "list", "--all", "--address", served.address) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["raycol-index-1", "another"]


def test_text_from_a_cluster_cannot_control_the_terminal(
    served: Dashboard,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "\x1b]0;owned\x07"
    served.add(f"raycol-{evil}", "FAILED", metadata={"writes": f"/x/{evil}"})
    assert run("jobs", "list", "--address", served.address) == 0
    show([Finding(f"check {evil}", "failed", f"found [red]{evil}", f"fix [link=x]{evil}\\[")])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err
    assert out.count(r"\x1b]0;owned\x07") == 6
    assert "fix [link=x]" in out


class Evil(Ended):
    """A cluster whose job has printed terminal escapes."""

    def logs(self, _: str) -> str:
        return "\x1b[36m(pid=7)\x1b[0m \x1b]0;owned\x07\n"

    async def tail(self, _: str) -> Any:
        yield self.logs(_)
        raise ConnectionError


def test_the_log_of_a_job_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    job = SubmittedJob("x", "FAILED", message="\x1b]0;owned\x07")
    with pytest.raises(typer.Exit):
        follow_and_exit(Evil(job), "x")  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert out == "(pid=7) \\x1b]0;owned\\x07\n"
    assert r"job x failed: \x1b]0;owned\x07" in err


def test_an_ended_job_is_not_stopped(served: Dashboard, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    served.add("x", "SUCCEEDED")
    assert run("jobs", "stop", "x", "--address", served.address) == 0
    assert capsys.readouterr().out == "x: has already ended (SUCCEEDED)\n"
    assert "POST" not in " ".join(served.requests)


BAD = [
    (["submit", "index", "gone.yaml"], "gone.yaml: no such file"),
    (["submit", "index", "typo.yaml"], "typo.yaml: unknown key 'bitts'; the nearest known key is 'bits'"),
    (["submit", "index", "build.yaml", "--bits", "3"], "the command line: bits is 3"),
    (["submit", "index", "build.yaml", "--out", "here"], "out is 'here', a relative path"),
    (["submit", "index", "build.yaml", "--corpus-column", "x"], None),
    (["submit", "index", "build.yaml", "--working-dir", "gone"], "gone: no such folder"),
    (["submit", "index"], None),
    (["submit", "serve", "build.yaml"], None),
    (["submit", "index", "build.yaml"], "no cluster to submit to: pass --address, or set RAY_API_SERVER_ADDRESS"),
    (["submit", "index", "build.yaml", "--address", "auto"], "--address is 'auto'; expected the address of the"),
    (["submit", "index", "build.yaml", "--address", "http://127.0.0.1:1"], "http://127.0.0.1:1: cannot be reached"),
    (["jobs", "list"], "no cluster to submit to"),
    (["jobs", "list", "--address", "http://127.0.0.1:1"], "cannot be reached"),
    (["jobs", "logs", "x", "--address", "SERVED"], "no job 'x' on http://127.0.0.1"),
    (["jobs", "stop", "x", "--address", "SERVED"], "no job 'x' on http://127.0.0.1"),
    (["doctor", "--address", "http://127.0.0.1:1"], "cannot be reached"),
    (["doctor", "--address", "127.0.0.1:1"], "127.0.0.1:1: nothing listens there (Connection refused); is the"),
    (["doctor", "--address", "ray://head:10001"], "'ray://head:10001' is not the address of a cluster; expected its"),
    (["doctor", "--address", "head"], "'head' is not the address of a cluster"),
    (["doctor", "--address", "SERVED", "--shared", "here"], "--shared here: a relative path, which the cluster's"),
    (["doctor", "--address", "SERVED", "--plan", "build.yaml"], "--plan build.yaml: a relative path"),
    (["doctor", "--wait-s", "0"], "wait_s is 0"),
    (["doctor", "--plan", "gone.yaml"], "gone.yaml: no such file"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_input_exits_with_2_and_one_line_and_submits_nothing(
    served: Dashboard,  # noqa: F811
    checkout: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str | None,
) -> None:
    (checkout / "typo.yaml").write_text("bitts: 2\n")
    assert run(*(word.replace("SERVED", served.address) for word in words)) == 2
    errors = capsys.readouterr().err
    if message:
        assert [line for line in errors.splitlines() if message in line and line.startswith("error: ")], errors
    assert "Traceback" not in errors
    assert not served.submitted


@pytest.mark.sockets
def test_a_wrong_token_exits_with_2_and_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with dashboard(token="good") as closed:
        for token, message in (("hidden", "refuses the token"), ("good", None)):
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            assert run("submit", "index", "build.yaml", "--detach", "--address", closed.address) == (
                2 if message else 0
            )
            out, err = capsys.readouterr()
            assert (message or "uploaded ") in err
            assert token not in out + err
            assert "requires no token" not in err
        assert len(closed.submitted) == 1
    assert cluster.DuplicateJobError.exit_code == 1


def test_findings_are_a_table_followed_by_the_fixes(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        [
            Finding("nodes", "ok", "2 answer"),
            Finding("clocks", "failed", "a [b] is off", "run [an] NTP client"),
            Finding("shared storage", "not checked", "name it with --shared"),
        ]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["check", "result"],
        ["ok", "nodes", "2", "answer"],
        ["FAILED", "clocks", "a", "[b]", "is", "off"],
        ["-", "shared", "storage", "name", "it", "with", "--shared"],
        ["clocks:", "run", "[an]", "NTP", "client"],
    ]


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("not checked", 0), ("failed", 1)])
def test_a_failed_finding_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch, state: str, code: int) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    findings = [Finding("nodes", "ok", ""), Finding("disk", state, "", "")]  # type: ignore[arg-type]
    monkeypatch.setattr("raycol.doctor.run.examine", lambda _: findings)
    assert run("doctor") == code
