"""The wheel, installed in an empty environment, runs the README's Python."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.test_readme import blocks

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "HF_"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_wheel_runs_the_first_lines_in_an_empty_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, PROJECT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("raycol-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "raycol/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"raycol"}
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-c", PROJECT / "constraints.txt", f"{wheel}[demo]", cwd=tmp_path)
    (tmp_path / "first.py").write_text(blocks("python")[0])
    lines = run(python, "first.py", cwd=tmp_path).splitlines()
    assert lines[0].endswith("A date from an ISO 8601 string.")
    assert "raycol 0" in run(tmp_path / "venv" / "bin" / "raycol", "--version", cwd=tmp_path)
    code = "import raycol; raycol.Retriever('first-index').search('date'); print(raycol.submit.__name__)"
    assert run(python, "-c", code, cwd=tmp_path) == "submit\n"
