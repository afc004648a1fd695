import io
import zipfile
from pathlib import Path

import pytest

from raycol.errors import InputError, RaycolError
from raycol.jobs.submit import SubmitConfig, prepare, submit
from tests.conftest import PROJECT
from tests.jobs.dashboard import Dashboard

BUILD = Path("build.yaml")


def send(served: Dashboard, verb: str = "index", file: Path = BUILD, settings: dict | None = None, **sending: object):
    return submit(verb, file, settings or {}, SubmitConfig(address=served.address, **sending))


def test_entrypoint_metadata_and_environment_are_submitted(served: Dashboard, checkout: Path) -> None:
    sent = send(served, settings={"num_workers": 4, "store_text": False, "metadata": ["a", "b:int64"]}, env=("A=b c",))
    job = served.jobs[sent.submission_id]
    assert job["entrypoint"] == (
        "python -m raycol index build --config build.yaml --num-workers=4 --no-store-text "
        "--metadata=a --metadata=b:int64"
    )
    assert job["metadata"] == {"raycol": "0.1.0", "verb": "index", "config": "build.yaml", "writes": "/shared/index"}
    assert job["runtime_env"]["env_vars"] == {"A": "b c"}
    assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    # A checkout runs its own raycol: nothing else is uploaded.
    assert [f"gcs://{name}" for name in served.packages] == [job["runtime_env"]["working_dir"]]
    assert "py_modules" not in job["runtime_env"]
    assert (sent.existing, sent.previous, sent.changed) == (None, None, False)
    assert sent.package.folder == checkout


def test_the_entry_point_parses_its_options(served: Dashboard, checkout: Path) -> None:
    """The command that the entry point runs parses a submitted job's options."""
    import shlex

    import typer.main

    from raycol.cli.commands import app

    sent = send(served, settings={"num_workers": 4, "store_text": False, "resources": "CPU=2", "metadata": ["a"]})
    words = shlex.split(served.jobs[sent.submission_id]["entrypoint"])[5:]
    command = typer.main.get_command(app).commands["index"].commands["build"]  # type: ignore[attr-defined]
    options = command.make_context("build", words).params
    assert (options["num_workers"], options["store_text"], options["resources"]) == (4, False, "CPU=2")
    assert (options["metadata"], str(options["config"])) == (["a"], "build.yaml")


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_an_existing_job_is_returned(served: Dashboard, status: str) -> None:
    first = send(served)
    served.jobs[first.submission_id]["status"] = status
    second = send(served)
    assert second.submission_id == first.submission_id
    assert second.existing
    assert (second.existing.status, second.changed) == (status, False)
    assert len(served.submitted) == 1
    Path("another.py").touch()
    assert send(served).changed


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_failed_or_stopped_job_gets_a_next_attempt(served: Dashboard, status: str) -> None:
    first = send(served)
    for attempt in (2, 3):
        served.jobs[served.submitted[-1]]["status"] = status
        again = send(served)
        assert again.submission_id == f"{first.submission_id}-{attempt}"
        assert again.previous
        assert again.previous.status == status
    assert len(served.submitted) == 3


@pytest.mark.usefixtures("checkout")
def test_a_succeeded_job_runs_again_with_again(served: Dashboard) -> None:
    first = send(served)
    with pytest.raises(InputError, match=f"job {first.submission_id} is PENDING; stop it first, or leave out --again"):
        send(served, again=True)
    served.jobs[first.submission_id]["status"] = "SUCCEEDED"
    assert send(served, again=True).submission_id == f"{first.submission_id}-2"


@pytest.mark.usefixtures("checkout")
def test_of_two_concurrent_submissions_one_attaches(served: Dashboard) -> None:
    name = send(served).submission_id
    served.jobs.clear()
    served.concurrent = [{"submission_id": name, "status": "RUNNING"}]
    attached = send(served)
    assert attached.submission_id == name
    assert attached.existing
    assert not served.submitted
    # The other client's job fails at once: this one is the next attempt.
    served.jobs.clear()
    served.concurrent = [{"submission_id": name, "status": "FAILED"}]
    assert send(served).submission_id == f"{name}-2"


@pytest.mark.usefixtures("checkout")
def test_submission_gives_up_after_repeated_conflicts(served: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    def conflict(request: dict) -> tuple[int, str]:
        served.add(request["submission_id"], "FAILED")
        return 500, f"Job with submission_id {request['submission_id']} already exists."

    monkeypatch.setattr(served, "_submit", conflict)
    with pytest.raises(RaycolError, match=r"other clients submit raycol-index-.* at the same time"):
        send(served)


@pytest.mark.usefixtures("checkout")
def test_two_jobs_do_not_write_to_one_output(served: Dashboard) -> None:
    first = send(served)
    with pytest.raises(InputError, match=f"/shared/index: job {first.submission_id}, of other settings, is PENDING"):
        send(served, settings={"bits": 2})
    Path("compact.yaml").write_text("index: /shared/index\n")
    with pytest.raises(InputError, match="of other settings, is PENDING and writes there"):
        send(served, "compact", Path("compact.yaml"))
    Path("evaluate.yaml").write_text("data: /shared/beir\nindex: /shared/index\n")
    assert not send(served, "evaluate", Path("evaluate.yaml")).existing
    served.jobs[first.submission_id]["status"] = "FAILED"
    assert send(served, settings={"bits": 2}).submission_id != first.submission_id


@pytest.mark.usefixtures("checkout")
def test_two_jobs_may_append_to_one_index(served: Dashboard) -> None:
    for number in range(2):
        file = Path(f"append-{number}.yaml")
        file.write_text(f"index: /shared/index\ncorpus: /shared/{number}.jsonl\n")
        assert not send(served, "append", file).existing
    Path("compact.yaml").write_text("index: /shared/index\n")
    with pytest.raises(InputError, match="of other settings, is PENDING and writes there"):
        send(served, "compact", Path("compact.yaml"))


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    ("verb", "yaml", "sending", "message"),
    [
        ("index", "corpus: /c\nout: /o\nbitts: 2\n", {}, "unknown key 'bitts'; the nearest known key is 'bits'"),
        ("index", "corpus: /c\n", {}, "'out' is missing"),
        ("index", "corpus: /c\nout: here\n", {}, "out is 'here', a relative path"),
        ("index", "corpus: gone\nout: /o\n", {}, "corpus is 'gone': no such file or folder in the working directory"),
        ("train", "model: m\ndata: hf:x/y\nout: /o\nbatch_size: 3\nnum_workers: 2\n", {}, "must be a multiple of"),
        ("index", "corpus: /c\nout: /o\n", {"exclude": ("bad.yaml",)}, "bad.yaml: excluded from the upload"),
        ("index", "corpus: /c\nout: /o\n", {"exclude": ("*.yaml",)}, "bad.yaml: excluded from the upload"),
        (
            "index",
            "corpus: /c\nout: /o\n",
            {"working_dir": Path("jobs")},
            "bad.yaml: outside of the working directory",
        ),
        ("index", "corpus: /c\nout: /o\n", {"working_dir": Path("gone")}, "gone: no such folder"),
        ("index", "corpus: /c\nout: /o\n", {"env": ("GONE",)}, "--env GONE: not set in this process"),
        ("index", "corpus: /c\nout: /o\n", {"runtime_env": Path("gone.yaml")}, "gone.yaml: no such file"),
    ],
)
def test_a_failed_check_submits_nothing(served: Dashboard, verb: str, yaml: str, sending: dict, message: str) -> None:
    Path("bad.yaml").write_text(yaml)
    with pytest.raises(InputError) as error:
        send(served, verb, Path("bad.yaml"), **sending)
    assert message in str(error.value)
    assert not served.requests


@pytest.mark.usefixtures("checkout")
def test_raycols_recipes_can_be_submitted() -> None:
    order = prepare("train", Path("jobs/configs/gte-moderncolbert.yaml"), {"out": "/shared/gte"}, SubmitConfig())
    assert order.entrypoint == "python -m raycol train --config jobs/configs/gte-moderncolbert.yaml --out=/shared/gte"


def test_a_configuration_outside_the_working_directory_is_refused(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text("corpus: /c\nout: /o\n")
    with pytest.raises(InputError, match=r"elsewhere\.yaml: outside of the working directory"):
        prepare("index", elsewhere, {}, SubmitConfig(working_dir=Path()))


def test_an_installation_is_uploaded_from_any_folder(
    served: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkout is needed: the folder of the configuration and the installed raycol are uploaded."""
    file = tmp_path / "mine" / "build.yaml"
    file.parent.mkdir()
    file.write_text("corpus: /shared/corpus.jsonl\nout: /shared/index\n")
    (tmp_path / "other").mkdir()
    # An index in the working directory is left out; raycol's own raycol/index is not.
    (file.parent / "index" / "partitions").mkdir(parents=True)
    (file.parent / "index" / "manifests").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    sent = send(served, file=file, exclude=("data",))
    assert sent.package.folder == file.parent
    job = served.jobs[sent.submission_id]
    assert job["entrypoint"] == "python -m raycol index build --config build.yaml"
    (uri,) = job["runtime_env"]["py_modules"]
    names = zipfile.ZipFile(io.BytesIO(served.packages[uri.removeprefix("gcs://")])).namelist()
    source = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "raycol").rglob("*.py")}
    assert source <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert {name.partition("/")[0] for name in names} == {"raycol"}


def test_a_package_above_the_limit_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycol.jobs.submit.size_limit", lambda: 1000)
    with pytest.raises(InputError, match=r"expected at most 1\.0 KiB, Ray's limit"):
        prepare("index", BUILD, {}, SubmitConfig())
