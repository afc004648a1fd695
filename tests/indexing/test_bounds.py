"""The memory of a build does not depend on the size of the corpus."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycol.index import Index
from raycol.indexing import IndexConfig
from tests.conftest import unit

pytestmark = [pytest.mark.slow, pytest.mark.long]

# A build in a separate process, whose peak memory includes planning and merging.
BUILD = """
import sys
from raycol.distributed.executor import IN_PROCESS
from raycol.indexing import IndexConfig, build_index
report = build_index(IndexConfig.model_validate_json(sys.argv[1]), executor=IN_PROCESS)
print(report.partitions, report.peak_worker_bytes)
"""

TOKENS, DIM = 120, 64


def save(path: Path, tokens: np.ndarray) -> None:
    ids = np.arange(len(tokens)).astype(str)
    if path.suffix == ".npz":
        np.savez(path, ids=ids, embeddings=tokens)
        return
    rows = pa.FixedSizeListArray.from_arrays(tokens.ravel(), DIM).cast(pa.list_(pa.float32()))
    documents = pa.FixedSizeListArray.from_arrays(rows, TOKENS).cast(pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({"id": ids, "embeddings": documents}), path, row_group_size=256)


def peak_of_a_worker(path: Path, documents: int) -> int:
    rng = np.random.default_rng(documents)
    save(path, unit(rng.standard_normal((documents, TOKENS, DIM), dtype=np.float32)))
    settings = {"docs_per_partition": 128, "n_centroids": 32, "sample_documents": 64}
    out = path.parent / f"i-{documents}"
    config = IndexConfig(corpus=str(path), out=str(out), **settings)
    command = [sys.executable, "-c", BUILD, json.dumps(config.effective())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    partitions, peak = map(int, done.stdout.split())
    index = Index.open(out)
    assert (len(index), partitions, index.verify()) == (documents, 8, [])
    return peak


@pytest.mark.parametrize("format_", ["npz", "parquet"])
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path: Path, format_: str) -> None:
    small, large = (peak_of_a_worker(tmp_path / f"{documents}.{format_}", documents) for documents in (1024, 4096))
    corpus = (4096 - 1024) * TOKENS * DIM * 4
    assert large - small < corpus / 3 < small
