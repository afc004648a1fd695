"""Exact scores on a torch device. Uses the CPU path of late-interaction-kernels: test machines may lack a GPU."""

from pathlib import Path

import numpy as np
import pytest

from raycol.errors import InputError
from raycol.index import Document, Index
from raycol.index.codec.codebook import BITS


@pytest.mark.parametrize("bits", BITS)
def test_device_scores_equal_those_of_the_cpu_kernel(tmp_path: Path, clustered: list[np.ndarray], bits: int) -> None:
    pytest.importorskip("late_interaction_kernels")
    from raycol.index.search.device import DeviceScorer
    from raycol.index.search.query import Query
    from raycol.index.search.scoring import MaxSim

    documents = (Document(str(number), tokens) for number, tokens in enumerate(clustered))
    index = Index.create(tmp_path / "i", documents, bits=bits, partition_tokens=1000)
    query = Query.prepare(clustered[0][:7])
    for partition in index.partitions:
        chosen = np.arange(partition.info.documents)[::2]
        on_device = DeviceScorer(index.codebook, "cpu").score(query, partition, chosen)
        assert np.allclose(on_device, MaxSim().score(query, partition, chosen), atol=1e-4)


def test_errors_name_the_unavailable_device(tmp_path: Path, clustered: list[np.ndarray]) -> None:
    index = Index.create(tmp_path / "i", [Document("a", clustered[0])])
    for device in ("cuda:99", "toaster"):
        with pytest.raises(InputError, match=device):
            index.search([clustered[0]], device=device)
