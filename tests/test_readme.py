"""The README and docs/python.md are executable: their Python runs, and the commands run on a small demo's data."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycol.demo.config import DemoConfig
from raycol.demo.data import gather, save
from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ").split(" #")[0].strip() for line in block.splitlines() if line.startswith("$ ")]


def environment() -> dict[str, str]:
    """A new user's environment: none of the tests' variables, and this interpreter's scripts first on the PATH."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HF_"))}
    return {**clean, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: str, folder: Path) -> str:
    done = subprocess.run(shlex.split(command), cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_first_screen_has_the_first_commands() -> None:
    first_screen = README.split("\n## ")[0]
    assert commands(blocks("console")[0]) == ["make demo", "make test"]
    assert first_screen.count("```python") == 1
    assert len(blocks("python")[0].splitlines()) <= 11
    verbs = [command.split()[1] for command in commands(blocks("console")[1]) if command.startswith("raycol")]
    assert verbs == ["train", "index", "serve", "search"]
    assert blocks("console")[1] in first_screen


def test_the_two_commands_are_make_targets() -> None:
    for command, runs in (("make demo", "raycol demo"), ("make test", "pytest")):
        planned = subprocess.run([*command.split(), "-n"], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert runs in planned.stdout


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b(?:TODO|TBD|FIXME|XXX|DEMO_TABLE|CRANFIELD)\b", README)


def test_links_resolve() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None\n" + "".join(blocks("python"))  # any import of Ray would fail
    (tmp_path / "first.py").write_text(code)
    out = run(f"{sys.executable} first.py", tmp_path)
    assert out.splitlines()[0].endswith("A date from an ISO 8601 string.")
    assert len(out.splitlines()) == 2


@pytest.mark.slow
def test_the_page_on_python_runs(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "python.md").read_text()
    (tmp_path / "page.py").write_text("import sys; sys.modules['ray'] = None\n" + "".join(blocks("python", page)))
    run(f"{sys.executable} page.py", tmp_path)


@pytest.fixture
def demo_folder(tmp_path: Path) -> Path:
    out = run("raycol demo --documents 120 --queries 10 --steps 2 --batch-size 8", tmp_path)
    assert "2 of 2 shards answered" in out
    for part in ("parse a date from a string", "BM25", "before training", "after training", "nDCG@10"):
        assert part in out
    return tmp_path


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.long
def test_the_demo_and_then_the_commands_run(demo_folder: Path, background: list[subprocess.Popen]) -> None:
    train, index, serve, search = (line for line in commands(blocks("console")[1]) if line.startswith("raycol"))
    assert "trained" in run(train, demo_folder)
    assert "my-index: version 1, 120 documents" in run(index, demo_folder)

    assert serve.endswith("&")
    words = shlex.split(serve.removesuffix("&"))
    log = demo_folder / "serve.out"
    with log.open("w") as out:
        background.append(subprocess.Popen(words, cwd=demo_folder, env=environment(), stdout=out))
    wait_until_it_serves(background[0], log)
    hits = run(search, demo_folder)
    assert hits.splitlines()[0] == "parse a date from a string"
    assert len(hits.splitlines()) == 4


@pytest.mark.slow
@pytest.mark.long
def test_a_model_trained_by_hand_finds_what_a_reader_expects(tmp_path: Path) -> None:
    config = DemoConfig()
    save(gather(config), tmp_path / config.out)
    train, index, _, search = (line for line in commands(blocks("console")[1]) if line.startswith("raycol"))
    run(train, tmp_path)
    run(index, tmp_path)
    hits = run(search.replace("http://127.0.0.1:8000", "my-index"), tmp_path).splitlines()[1:4]
    parsers = r"(datetime|_strptime|time|email\.utils|dateutil\.parser)\..*(fromisoformat|strptime|parse)"
    assert any(re.search(parsers, hit.split()[2]) for hit in hits), hits


def wait_until_it_serves(process: subprocess.Popen, log: Path) -> None:
    """Wait for its line. It answers a little earlier, when an interruption would still abort its start."""
    deadline = time.monotonic() + 120
    while "at http://127.0.0.1:8000 (" not in log.read_text():
        assert process.poll() is None, "the endpoint ended"
        assert time.monotonic() < deadline, "the endpoint did not start in time"
        time.sleep(0.2)
