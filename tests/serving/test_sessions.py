"""Consecutive endpoints of one process, each with its own Ray session."""

import subprocess
import sys
from pathlib import Path

import pytest

from raycol.index import Document, Index
from tests.conftest import make_clustered

SERVE_TWICE = """
import sys, time
import raycol
from raycol.serving.config import ServeConfig
from raycol.serving.run import serving

for _ in range(2):
    with serving(ServeConfig(index=sys.argv[1], version=1, port=0)) as running, raycol.Client(running.url) as client:
        time.sleep(3)  # longer than a gateway's poll interval
        before = client.index().version
        client.set_version(None)
        print(before, client.index().version, flush=True)
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_second_endpoint_of_a_process_starts_with_its_version(tmp_path: Path) -> None:
    arrays = make_clustered(40, 16, seed=3)
    index = Index.create(tmp_path / "index", [Document(f"d{n}", array) for n, array in enumerate(arrays)])
    index.delete(["d1"])
    done = subprocess.run(
        [sys.executable, "-c", SERVE_TWICE, index.uri],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2\n1 2\n", "")
