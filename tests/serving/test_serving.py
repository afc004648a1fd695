"""An endpoint in this process, through its clients and over HTTP."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from raycol.client.sync_client import Client, search_endpoint
from raycol.errors import InputError, RaycolError
from raycol.index import Index
from raycol.models.encoder import load_encoder
from raycol.retrieval import Retriever, SearchConfig, search
from raycol.serving.config import ServeConfig
from raycol.serving.run import RunningEndpoint, serving
from tests.conftest import PROJECT
from tests.serving.in_process import on_a_socket, served_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def index(first_version: Index) -> Index:
    return first_version


@pytest.fixture(scope="module")
def endpoint(index: Index) -> Iterator[RunningEndpoint]:
    with served_here(ServeConfig(index=index.uri, shards=3, port=0)) as here, on_a_socket(here) as running:
        yield running


QUERIES = ["violin and piano", "rain", "bread butter oven", "ship in the fog"]


def test_the_endpoint_matches_index_search(endpoint: RunningEndpoint, index: Index, tiny_colbert: Path) -> None:
    encoder = load_encoder(tiny_colbert, device="cpu")
    answer = search_endpoint(endpoint.url, QUERIES, k=10)
    queries = [encoder.encode_query([query], convert_to_numpy=True)[0] for query in QUERIES]
    for hits, expected in zip(answer.results, index.search(queries, k=10), strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
        kept = index.metadata([hit.id for hit in expected])
        assert [{**hit.metadata, "text": hit.text} for hit in hits] == kept
    assert (answer.version, answer.shards.total, answer.shards.answered) == (1, 3, 3)
    assert set(answer.took_ms) == {"encode", "centroids", "candidates", "scores", "total"}


def test_the_example_of_an_endpoint_runs(endpoint: RunningEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    path = PROJECT / "docs" / "examples" / "query_endpoint.py"
    runpy.run_path(str(path))["main"](endpoint.url, "violin and piano")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "index: version 1, 80 documents"
    assert lines[1].split()[1].startswith("music-")
    assert lines[4].startswith("3 of 3 shards, ")
    assert any("violin -> violin" in line for line in lines[5:])


def test_an_index_and_its_endpoint_answer_alike(endpoint: RunningEndpoint, index: Index) -> None:
    by_target = [
        search(SearchConfig(target=target, queries=["violin and piano"], k=5)) for target in (endpoint.url, index.uri)
    ]
    assert [[hit.id for hit in hits] for hits in by_target[0]] == [[hit.id for hit in hits] for hits in by_target[1]]
    ids = [hit.id for hit in by_target[0][0]][::-1]
    with Retriever(endpoint.url) as remote:
        reranked, expected = remote.rerank("rain", ids), Retriever(index).rerank("rain", ids)
    assert [(hit.id, hit.metadata) for hit in reranked] == [(hit.id, hit.metadata) for hit in expected]
    assert [hit.score for hit in reranked] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_k_beyond_the_index_returns_all_documents(endpoint: RunningEndpoint) -> None:
    assert len(search_endpoint(endpoint.url, ["rain"], k=1000).results[0]) == 80


def test_the_index_is_described(endpoint: RunningEndpoint, index: Index) -> None:
    described = httpx2.get(f"{endpoint.url}/v1/index").json()
    assert described["documents"] == 80
    assert described["shards"] == 3
    assert httpx2.get(f"{endpoint.url}/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 50_000, 400),
        (b'{"query": "a", "k": 1000000000}', 422),
        (b'{"queries": []}', 422),
        (b'{"query": "' + b"a" * 9_000_000 + b'"}', 413),
    ],
)
def test_hostile_bodies_get_a_problem(endpoint: RunningEndpoint, content: bytes, status: int) -> None:
    answer = httpx2.post(
        f"{endpoint.url}/v1/search", content=content, headers={"content-type": "application/json"}, timeout=20
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert search_endpoint(endpoint.url, ["rain"], k=1).results[0]


def test_other_paths_and_methods_are_problems(endpoint: RunningEndpoint) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/v1/search", 405), ("POST", "/v1/index", 405)):
        answer = httpx2.request(method, endpoint.url + path)
        assert answer.status_code == status
        assert answer.json()["status"] == status


def test_client_errors_name_the_field(endpoint: RunningEndpoint) -> None:
    with pytest.raises(InputError, match="422: k: "):
        search_endpoint(endpoint.url, ["rain"], k=0)
    with pytest.raises(RaycolError, match="is the endpoint running"):
        search_endpoint("http://127.0.0.1:9", ["rain"])
    with pytest.raises(InputError, match="`n_probe=`: an endpoint sets this itself"):
        search(SearchConfig(target=endpoint.url, queries=["rain"], n_probe=3))


def test_invalid_serve_configs_are_rejected(endpoint: RunningEndpoint, index: Index, tmp_path: Path) -> None:
    taken = int(endpoint.url.rsplit(":", 1)[1])
    file = tmp_path / "file"
    file.touch()
    for config, message in (
        (ServeConfig(index=index.uri, shards=9), "9 shards for 5 partitions"),
        (ServeConfig(index=tmp_path), "not an index"),
        (ServeConfig(index=file), "is a file; expected the folder of an index"),
        (ServeConfig(index=index.uri, port=taken), f"port {taken} on 127.0.0.1 is in use"),
    ):
        with pytest.raises(InputError, match=message), serving(config):
            pass


def test_reranking_ids_matches_index_rerank(endpoint: RunningEndpoint, index: Index, tiny_colbert: Path) -> None:
    (query,) = load_encoder(tiny_colbert, device="cpu").encode_query(["rain"], convert_to_numpy=True)
    ids = [hit.id for hit in index.search([query], k=30)[0]][::-1]
    with Client(endpoint.url) as client:
        answer = client.rerank("rain", ids=[*ids, "nobody"], k=20)
    expected = index.rerank([query], [ids])[0][:20]
    assert [result.id for result in answer.results] == [hit.id for hit in expected]
    assert [result.score for result in answer.results] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert answer.unknown == ["nobody"]


def test_texts_are_reranked_by_maxsim(endpoint: RunningEndpoint, tiny_colbert: Path) -> None:
    texts = ["rain and snow", "violin", "bread in the oven", ""]
    encoder = load_encoder(tiny_colbert, device="cpu")
    (query_QD,) = encoder.encode_query(["violin"], convert_to_numpy=True)
    scores = [
        float((query_QD @ array.T).max(1).sum()) for array in encoder.encode_document(texts, convert_to_numpy=True)
    ]
    with Client(endpoint.url) as client:
        results = client.rerank("violin", documents=texts).results
    assert [result.index for result in results] == sorted(range(4), key=lambda place: -scores[place])
    assert [result.score for result in results] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_embeddings_match_the_encoder(endpoint: RunningEndpoint, tiny_colbert: Path) -> None:
    encoder = load_encoder(tiny_colbert, device="cpu")
    with Client(endpoint.url) as client:
        for is_query, encode in ((True, encoder.encode_query), (False, encoder.encode_document)):
            found = client.embeddings(["rain", "a violin"], is_query=is_query)
            expected = encode(["rain", "a violin"], convert_to_numpy=True)
            for array, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(array, wanted, atol=1e-5)


def test_a_hit_is_explained_by_its_tokens(endpoint: RunningEndpoint, index: Index, tiny_colbert: Path) -> None:
    (query,) = load_encoder(tiny_colbert, device="cpu").encode_query(["rain"], convert_to_numpy=True)
    with Client(endpoint.url) as client:
        hit = client.search("rain", k=1).results[0][0]
        answer = client.explain("rain", hit.id)
        document = client.document(hit.id)
    matches = index.explain(query, hit.id)
    assert [match.document_token for match in answer.matches] == [match.document_token for match in matches]
    assert answer.score == pytest.approx(hit.score, abs=1e-4)
    assert answer.document_tokens is not None
    assert len(answer.document_tokens) == len(index.reconstruct(hit.id))
    assert len(answer.query_tokens) == len(query)
    words = [answer.text[token.start : token.end] for token in answer.document_tokens if token.end]
    assert all(
        token.text.removeprefix("##") == word.lower()
        for token, word in zip([token for token in answer.document_tokens if token.end], words, strict=True)
    )
    assert (document.text, document.metadata) == (hit.text, hit.metadata)


def test_unknown_documents_and_paths(endpoint: RunningEndpoint) -> None:
    with Client(endpoint.url) as client:
        with pytest.raises(InputError, match="404"):
            client.document("../nobody")
        with pytest.raises(InputError, match="'nobody' is not in version 1"):
            client.explain("rain", "nobody")


def test_the_page_the_probes_and_the_metrics(endpoint: RunningEndpoint) -> None:
    page = httpx2.get(f"{endpoint.url}/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert httpx2.get(f"{endpoint.url}/page.js").headers["content-type"].startswith("text/javascript")
    ready = httpx2.get(f"{endpoint.url}/readyz")
    assert (ready.status_code, ready.json()["shards"]) == (200, {"total": 3, "answered": 3})
    search_endpoint(endpoint.url, ["rain"])
    counted = httpx2.get(f"{endpoint.url}/metrics").text
    # Each gateway has its own series.
    (gateway,) = set(re.findall(r'gateway="(\w+)"', counted))
    assert f'raycol_requests_total{{gateway="{gateway}",path="/v1/search",status="200"}}' in counted
    assert f'raycol_shard_work_seconds_count{{gateway="{gateway}",shard="2",step="candidates"}}' in counted
    assert f'raycol_index_version{{gateway="{gateway}"}} 1.0' in counted
