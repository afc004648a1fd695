"""Requests and responses at the documented maxima, over Ray Serve."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from raycol.client.schema import (
    MAX_BODY_BYTES,
    MAX_DOCUMENT_CHARACTERS,
    MAX_DOCUMENTS,
    MAX_HITS,
    MAX_IDS,
    MAX_INPUTS,
    MAX_K,
    MAX_QUERIES,
    MAX_QUERY_CHARACTERS,
)
from tests.conftest import unit
from tests.serving.on_serve import DIM, ID, OnServe

pytestmark = pytest.mark.slow


@pytest.fixture
def client(on_serve: OnServe) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {on_serve.keys['read']}"}
    with httpx2.Client(base_url=on_serve.url, headers=headers, timeout=150, trust_env=False) as client:
        yield client


def post(client: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()


def packed(tokens: int) -> dict[str, Any]:
    content = unit(np.random.default_rng(1).standard_normal((tokens, DIM))).astype("<f4").tobytes()
    return {"tokens": tokens, "data": base64.b64encode(content).decode()}


def test_maximum_hits_with_long_texts(client: httpx2.Client) -> None:
    queries = MAX_HITS // MAX_K
    body = {"queries": ["rain"] * queries, "k": MAX_K, "filter": "n < 2000"}
    answer = post(client, "/v1/search", body)
    assert [len(hits) for hits in answer["results"]] == [MAX_K] * queries
    assert sum(len(hit["text"]) for hits in answer["results"] for hit in hits if hit["text"]) > 4 << 20


@pytest.mark.long
def test_maximum_queries_over_all_documents(client: httpx2.Client) -> None:
    """Few centroids and one-token documents: the plan visits no lists, and all documents are candidates."""
    body = {"queries": ["rain"] * MAX_QUERIES, "k": MAX_HITS // MAX_QUERIES, "effort": "thorough"}
    answer = post(client, "/v1/search", body)
    assert [len(hits) for hits in answer["results"]] == [MAX_HITS // MAX_QUERIES] * MAX_QUERIES


def test_queries_of_maximum_length(client: httpx2.Client) -> None:
    body = {"queries": ["a" * MAX_QUERY_CHARACTERS] * MAX_QUERIES, "k": 1}
    assert len(post(client, "/v1/search", body)["results"]) == MAX_QUERIES


@pytest.mark.long
def test_packed_queries_that_fill_a_body(client: httpx2.Client) -> None:
    query = packed(1024)
    number = (MAX_BODY_BYTES - 1000) // (len(query["data"]) + 100)
    assert number * 4 * DIM * 1024 > 4 << 20
    answer = post(client, "/v1/search", {"embeddings": [query] * number, "k": 1})
    assert len(answer["results"]) == number


@pytest.mark.parametrize("path", ["/v1/search", "/v1/rerank"])
def test_maximum_ids(client: httpx2.Client, path: str) -> None:
    ids = [ID.format(n) for n in range(3000, 3000 + MAX_IDS)]
    answer = post(client, path, {"query": "rain", "ids": ids, "k": MAX_K})
    hits = answer["results"] if path == "/v1/rerank" else answer["results"][0]
    assert len(hits) == MAX_K


def test_maximum_texts_to_encode(client: httpx2.Client) -> None:
    texts = [f"{n} " + "rain storm " * (MAX_DOCUMENT_CHARACTERS // 11 - 1) for n in range(MAX_INPUTS)]
    answer = post(client, "/v1/embeddings", {"input": texts, "is_query": False, "packed": True})
    assert sum(4 * DIM * array["tokens"] for array in answer["embeddings"]) > 4 << 20


def test_maximum_documents_to_rerank(client: httpx2.Client) -> None:
    length = min(MAX_DOCUMENT_CHARACTERS, (MAX_BODY_BYTES - 10_000) // MAX_DOCUMENTS)
    documents = ["rain " * (length // 5)] * MAX_DOCUMENTS
    assert len(post(client, "/v1/rerank", {"query": "rain", "documents": documents})["results"]) == MAX_DOCUMENTS


def test_texts_too_large_for_a_response_are_omitted_and_named(client: httpx2.Client) -> None:
    id_ = ID.format(7)
    (hits,) = post(client, "/v1/search", {"query": "rain", "filter": "n < 10"})["results"]
    assert len(hits) == 10
    assert {hit["id"]: hit["omitted"] for hit in hits if hit["omitted"]} == {id_: ["text"]}
    assert next(hit for hit in hits if hit["id"] == id_)["metadata"] == {"n": 7, "title": ""}
    document = client.get(f"/v1/documents/{id_}").json()
    assert (document["text"], document["omitted"]) == (None, ["text"])
    assert post(client, "/v1/explain", {"query": "rain", "id": id_})["text"] is None
