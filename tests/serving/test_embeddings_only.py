"""An index without a model accepts embeddings as queries."""

import base64
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

import raycol
from raycol.index import Document, Index
from raycol.index.search.effort import EFFORTS
from raycol.index.search.plan import plan_search
from raycol.index.shard import whole_size
from raycol.serving.config import ServeConfig
from raycol.serving.probing import probe_in_gateway
from tests.conftest import make_clustered
from tests.serving.in_process import on_a_socket, served_here

pytestmark = pytest.mark.slow

ARRAYS = make_clustered(2500, 16, seed=4)


def packed(query: np.ndarray) -> dict:
    return {"tokens": len(query), "data": base64.b64encode(query.tobytes()).decode()}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Has enough centroids for the gateway to probe for five shards."""
    documents = [Document(f"d{n}", array) for n, array in enumerate(ARRAYS)]
    folder = tmp_path_factory.mktemp("embeddings") / "index"
    return Index.create(folder, documents, partition_tokens=sum(map(len, ARRAYS)) // 7, n_centroids=1 << 14)


@pytest.fixture(scope="module")
def url(index: Index) -> Iterator[str]:
    with served_here(ServeConfig(index=index.uri, shards=5, port=0)) as here, on_a_socket(here) as running:
        yield running.url


def test_five_shards_match_index_search(index: Index, url: str) -> None:
    """Probes found by the gateway."""
    assert probe_in_gateway(5, index.stats().n_centroids)
    queries = [array + np.float32(0.05) for array in ARRAYS[::100]]
    size, settings = whole_size(index.manifest), EFFORTS["fast"]
    plans = [plan_search(len(query), size, index.stats().n_centroids, k=5, settings=settings) for query in queries]
    assert all(plan.n_probe and not plan.exact for plan in plans)
    expected = [[(hit.id, hit.score) for hit in hits] for hits in index.search(queries, k=5, effort="fast")]
    with raycol.Client(url) as client:
        together = client.search(embeddings=queries, k=5, effort="fast")
        alone = [client.search(embeddings=[query], k=5, effort="fast") for query in queries[:5]]
    found = [[(hit.id, hit.score) for hit in hits] for hits in together.results]
    assert found == expected
    assert [[(hit.id, hit.score) for hit in answer.results[0]] for answer in alone] == expected[:5]
    assert min(answer.took_ms["centroids"] for answer in (together, *alone)) > 0.1


def test_embeddings_are_accepted_and_texts_rejected(index: Index, url: str) -> None:
    queries = ARRAYS[:600:100]
    expected = [[hit.id for hit in hits] for hits in index.search(queries, k=5)]
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200
        for embeddings in ([packed(query) for query in queries], [query.tolist() for query in queries]):
            answer = client.post("/v1/search", json={"embeddings": embeddings, "k": 5})
            assert answer.status_code == 200
            assert [[hit["id"] for hit in hits] for hits in answer.json()["results"]] == expected
        for path, body in (
            ("search", {"query": "rain"}),
            ("rerank", {"query": "rain", "documents": ["wind"]}),
            ("rerank", {"query": "rain", "ids": ["d1"]}),
            ("embeddings", {"input": "rain"}),
            ("explain", {"query": "rain", "id": "d1"}),
        ):
            answer = client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 422
            assert "names no model" in answer.json()["detail"]
        assert client.get("/v1/index").json()["model"] is None
        assert client.get("/v1/documents/d1").json()["id"] == "d1"
