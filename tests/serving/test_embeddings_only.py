"""An index without a model is served to those who bring embeddings."""

import base64
from pathlib import Path

import httpx2
import numpy as np
import pytest

from raycol.index import Document, Index
from raycol.serving.config import ServeConfig
from raycol.serving.run import serving
from tests.conftest import make_clustered

pytestmark = pytest.mark.slow


def packed(query: np.ndarray) -> dict:
    return {"tokens": len(query), "data": base64.b64encode(query.tobytes()).decode()}


def test_embeddings_are_answered_and_texts_refused(ray_local: None, tmp_path: Path) -> None:
    arrays = make_clustered(60, 16, seed=3)
    index = Index.create(tmp_path / "index", [Document(f"d{n}", array) for n, array in enumerate(arrays)])
    queries = arrays[::10]
    expected = [[hit.id for hit in hits] for hits in index.search(queries, k=5)]
    with (
        serving(ServeConfig(index=index.uri, port=0)) as running,
        httpx2.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
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
            assert "no model is known" in answer.json()["detail"]
        assert client.get("/v1/index").json()["model"] is None
        assert client.get("/v1/documents/d1").json()["id"] == "d1"
