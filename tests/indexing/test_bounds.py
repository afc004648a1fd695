"""What a build holds in memory does not depend on how large the corpus is."""

from pathlib import Path

import numpy as np
import pytest

from raycol.index import Index
from raycol.indexing import IndexConfig, build_index
from tests.conftest import unit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]

TOKENS, DIM = 120, 64


def peak_of_a_worker(folder: Path, documents: int) -> int:
    rng = np.random.default_rng(documents)
    tokens = unit(rng.standard_normal((documents, TOKENS, DIM), dtype=np.float32))
    np.savez(folder / f"{documents}.npz", ids=np.arange(documents).astype(str), embeddings=tokens)
    settings = {"docs_per_partition": 128, "num_workers": 2, "n_centroids": 32, "sample_documents": 64}
    config = IndexConfig(corpus=str(folder / f"{documents}.npz"), out=str(folder / f"i-{documents}"), **settings)
    report = build_index(config)
    index = Index.open(folder / f"i-{documents}")
    assert (len(index), report.partitions, index.verify()) == (documents, 8, [])
    return report.peak_worker_bytes


def test_a_worker_takes_no_more_for_a_larger_corpus(tmp_path: Path) -> None:
    small, large = (peak_of_a_worker(tmp_path, documents) for documents in (1024, 4096))
    corpus = (4096 - 1024) * TOKENS * DIM * 4
    assert large - small < corpus / 3 < small
