"""Several processes change one index at once, and some are killed: every acknowledged change is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT


def run(uri: str, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.index.histories", uri, str(folder / "logs"), str(seconds), str(seed)]
    done = subprocess.run(
        command, cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == [], "\n".join(found["problems"])
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [6, pytest.param(600, marks=pytest.mark.long)], ids=["seconds", "ten minutes"])
def test_a_history_explains_what_is_acknowledged_and_seen(tmp_path: Path, seconds: int) -> None:
    found = run(str(tmp_path / "i"), tmp_path, seconds, seed=int.from_bytes(os.urandom(4)))
    assert min(found["acknowledged"], found["seen"]) >= 5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_so_it_does_in_an_object_store(s3: str, tmp_path: Path) -> None:
    found = run(f"{s3}/i", tmp_path, 120, seed=int.from_bytes(os.urandom(4)))
    assert min(found["acknowledged"], found["seen"]) > 10
