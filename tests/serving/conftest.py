"""Fixtures: indexes with one and two versions, their expected results, and a shared endpoint."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raycol.index import Document, Index
from raycol.models.encoder import load_encoder
from raycol.storage import Store, open_store
from tests.conftest import make_clustered, make_passages
from tests.serving.indexes import index_of_texts
from tests.serving.load import QUERIES
from tests.serving.on_serve import OnServe, large_endpoint


@pytest.fixture(scope="package")
def on_serve(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[OnServe]:
    """One endpoint on Ray Serve for all tests that only send requests."""
    with large_endpoint(tmp_path_factory.mktemp("on-serve"), tiny_backbone) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Store of an index with versions 1 to 3, without a model."""
    arrays = make_clustered(20, 16, seed=1)
    index = Index.create(tmp_path / "index", [Document(f"d{n}", array) for n, array in enumerate(arrays)])
    index.delete(["d1"])
    index.delete(["d2"])
    return open_store(index.uri)


@pytest.fixture(scope="module")
def first_version(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """80 passages in five partitions."""
    return index_of_texts(tmp_path_factory.mktemp("served") / "index", tiny_colbert, make_passages(80))


@pytest.fixture(scope="module")
def index(tiny_colbert: Path, first_version: Index) -> Index:
    """Two versions: all documents; then every third document replaced by ten new ones."""
    made = first_version
    ids = [id_ for partition in made.partitions for id_ in partition.ids.take(np.arange(partition.info.documents))]
    made.delete(ids[::3])
    encoder = load_encoder(tiny_colbert, device="cpu")
    texts = [f"violin rain bread ship {number}" for number in range(10)]
    embeddings = encoder.encode_document(texts, convert_to_numpy=True)
    made.append(
        [
            Document(f"new-{n}", array, {"title": "", "text": text})
            for n, (text, array) in enumerate(zip(texts, embeddings, strict=True))
        ]
    )
    return made


@pytest.fixture(scope="module")
def expected(index: Index, tiny_colbert: Path) -> dict[int, list[list[str]]]:
    """The ids that each query returns, by version."""
    encoder = load_encoder(tiny_colbert, device="cpu")
    queries = [encoder.encode_query([query], convert_to_numpy=True)[0] for query in QUERIES]
    return {
        version: [[hit.id for hit in hits] for hits in Index.open(index.uri, version).search(queries, k=10)]
        for version in (1, index.version)
    }
