"""Concurrent processes change one index and some are killed; a history must explain all acknowledged changes."""

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
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["problems"] == [], "\n".join(report["problems"])
    return report


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [6, pytest.param(600, marks=pytest.mark.long)], ids=["seconds", "ten minutes"])
def test_a_history_explains_all_acknowledged_changes_and_reads(tmp_path: Path, seconds: int) -> None:
    report = run(str(tmp_path / "i"), tmp_path, seconds, seed=int.from_bytes(os.urandom(4)))
    assert min(report["acknowledged"], report["seen"]) >= 5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_history_explains_an_index_in_an_object_store(s3: str, tmp_path: Path) -> None:
    report = run(f"{s3}/i", tmp_path, 120, seed=int.from_bytes(os.urandom(4)))
    assert min(report["acknowledged"], report["seen"]) > 10
