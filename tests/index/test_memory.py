"""Memory of a build is bounded by the partition size and the sample, not by the corpus."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycol.index import Document, Index

BUILD = """
import sys, tempfile
import numpy as np
from raycol.index import Document, Index
from raycol.core.memory import peak_memory

n_tokens, dim = int(sys.argv[1]), 8
rng = np.random.default_rng(0)
centres = rng.standard_normal((4096, dim), dtype=np.float32)

def documents():
    for number in range(n_tokens // 100):
        tokens = centres[rng.integers(0, 4096, 100)] + 0.5 * rng.standard_normal((100, dim), dtype=np.float32)
        yield Document(f"document-{number}", tokens, {"number": number, "text": f"text {number} " * 20})

with tempfile.TemporaryDirectory() as folder:
    index = Index.create(folder + "/i", documents(), n_centroids=32, partition_tokens=1 << 19)
    assert index.stats().tokens == n_tokens
print(peak_memory())
"""


def peak_bytes(n_tokens: int) -> int:
    command = [sys.executable, "-c", BUILD, str(n_tokens)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to see a process's peak")
def test_build_memory_does_not_grow_with_the_corpus() -> None:
    small, large = peak_bytes(2_500_000), peak_bytes(10_000_000)
    assert large < 1.2 * small
    assert large < 2 << 30


READ = """
import sys
import pyarrow as pa
from raycol.index import Index

index = Index.open(sys.argv[1], trust=True)
(row,) = index.metadata(["d300"])
assert (row["n"], len(row["text"])) == (300, 1 << 17)
again = index.metadata(["d511", "d0", "d300"])
assert [row["n"] for row in again] == [511, 0, 300]
print(pa.default_memory_pool().max_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("texts", ["different", "equal"])
def test_the_metadata_of_one_document_is_read_in_batches(tmp_path: Path, texts: str) -> None:
    """A row group has 512 documents of 128 KB each; equal texts take almost no space in the file."""
    token = np.eye(1, 8, dtype=np.float32)
    documents = [
        Document(f"d{n}", token, {"n": n, "text": f"{n if texts == 'different' else 0:08d}".ljust(1 << 17, "x")})
        for n in range(512)
    ]
    index = Index.create(tmp_path / "index", documents)
    command = [sys.executable, "-c", READ, index.uri]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 48 << 20
