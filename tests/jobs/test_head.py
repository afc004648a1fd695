"""Jobs on a real head: submitted, reattached, failed, retried, listed, read, stopped; and `raycol doctor`."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from raycol.index import Index
from raycol.jobs.cluster import Cluster, DuplicateJobError
from tests.conftest import make_clustered, save_encoded
from tests.jobs.head import Head, running_head

# Stands in for a command that takes long.
SLEEPER = "import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n"


@pytest.mark.slow
@pytest.mark.long
def test_a_job_from_its_submission_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    save_encoded(tmp_path / "corpus.npz", make_clustered(60, 16, seed=0))
    build = f"corpus: {tmp_path / 'corpus.npz'}\nout: {tmp_path / 'index'}\n"
    (folder / "build.yaml").write_text(build)
    with running_head() as head:
        submit = ("submit", "index", "build.yaml", "--address", head.address)
        first = head.raycol(*submit, "--num-workers", 1, folder=folder)
        assert first.returncode == 0, first.stderr
        assert "Indexing: done in" in first.stdout
        assert f"{tmp_path / 'index'}: version 1, 60 documents" in first.stdout
        assert len(Index.open(tmp_path / "index")) == 60
        name = re.search(r"^job (raycol-index-\w{16})$", first.stderr, re.MULTILINE)[1]

        second = head.raycol(*submit, "--num-workers", 1, folder=folder)
        assert (second.returncode, second.stdout) == (0, first.stdout)
        assert f"job {name} exists (SUCCEEDED): nothing is submitted" in second.stderr
        assert head.raycol("jobs", "logs", name, "--address", head.address, folder=folder).stdout == first.stdout

        # The job fails as the command does, in one line, with its exit code: the index exists now.
        failed = head.raycol(*submit, "--num-workers", 1, "--again", folder=folder)
        assert failed.returncode == 2
        assert "already holds an index (version 1)" in failed.stdout
        assert f"job {name}-2 failed with exit code 2" in failed.stderr

        with pytest.raises(DuplicateJobError):
            Cluster(head.address, {"Authorization": f"Bearer {head.token}"}).submit("true", name, {}, {})

        _check_detaching_and_stopping(head, folder, name)
        _check_tokens(head, folder)
        _check_doctor(head, tmp_path)


def _check_detaching_and_stopping(head: Head, folder: Path, name: str) -> None:
    # A checkout: the job runs the raycol of that.
    checkout = folder.parent / "checkout"
    (checkout / "raycol").mkdir(parents=True)
    (checkout / "raycol" / "__init__.py").touch()
    (checkout / "raycol" / "__main__.py").write_text(SLEEPER)
    shutil.copy(folder / "build.yaml", checkout)
    file = checkout / "build.yaml"
    submit = ("submit", "index", file, "--working-dir", checkout, "--num-workers", 1, "--address", head.address)
    following = head.start(*submit, folder=folder)
    assert following.stdout
    output = ""
    while "sleeping" not in output:
        line = following.stdout.readline()
        assert line, following.communicate()[1]
        output += line
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=30)
    assert following.returncode == 130
    assert f"the previous attempt, {name}-2, failed with exit code 2\njob {name}-3\n" in err
    assert (
        f"detached; the job keeps running. Reattach with the same command, or with: raycol jobs logs {name}-3" in err
    )

    # A follower sees the end of a job that another client stops.
    other = head.start("jobs", "logs", f"{name}-3", "--follow", "--address", head.address, folder=folder)
    assert other.stdout
    while "sleeping" not in other.stdout.readline():
        assert other.poll() is None
    stopped = head.raycol("jobs", "stop", f"{name}-3", "--address", head.address, folder=folder)
    assert (stopped.returncode, stopped.stdout) == (0, f"{name}-3: STOPPED\n")
    _, err = other.communicate(timeout=30)
    assert other.returncode == 1
    assert f"job {name}-3 was stopped" in err

    listed = head.raycol("jobs", "list", "--address", head.address, folder=folder).stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        [name, "SUCCEEDED"],
        [f"{name}-2", "FAILED"],
        [f"{name}-3", "STOPPED"],
    ]
    assert all(line.endswith(str(folder.parent / "index")) for line in listed[1:])


def _check_tokens(head: Head, folder: Path) -> None:
    listing = ("jobs", "list", "--address", head.address)
    for variables, message in (
        ({"RAY_AUTH_TOKEN": "another"}, "the cluster refuses the token"),
        ({"RAY_AUTH_MODE": "disabled"}, "this cluster requires a token"),
    ):
        refused = head.raycol(*listing, folder=folder, **variables)
        assert refused.returncode == 2
        assert message in refused.stderr


def _check_doctor(head: Head, shared: Path) -> None:
    before = sorted(shared.iterdir())
    # A token in the environment is used, whether or not the mode is set.
    for address, variables in ((head.address, {}), (head.gcs, {"RAY_AUTH_MODE": ""})):
        done = head.raycol("doctor", "--address", address, "--shared", shared, folder=shared, **variables)
        rows = [line.split()[:2] for line in done.stdout.splitlines()]
        for check in ("nodes", "versions", "python", "authentication", "clocks", "GPUs", "shared"):
            assert ["ok", check] in rows, done.stdout + done.stderr
        assert done.returncode == (["FAILED"] in [row[:1] for row in rows])
        assert sorted(shared.iterdir()) == before
