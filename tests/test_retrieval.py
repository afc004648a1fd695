"""`Retriever`: over an index with its encoder, over one with an encoder of one's own, and over an endpoint."""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import raycol
from raycol.client.schema import ExplainResponse, SearchResponse
from raycol.errors import InputError
from raycol.index.format.manifest import ModelInfo
from raycol.indexing import IndexConfig
from raycol.models.protocol import Encoder, Tokenizing
from tests.conftest import unit
from tests.indexing.in_process import build_index


class HashEncoder:
    """An encoder without torch: a word's vector is drawn from its hash."""

    dimension = 16
    fingerprint = "words of 16 dimensions"

    def encode_query(self, texts: Sequence[str], /) -> list[np.ndarray]:
        return [np.stack([self._vector(word) for word in text.split()]) for text in texts]

    encode_document = encode_query

    def _vector(self, word: str) -> np.ndarray:
        return unit(np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self.dimension))


TEXTS = {"1": "copy a whole directory tree", "2": "a date from a string", "3": "rain in the harbour"}


@pytest.fixture(scope="module")
def own_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "index"
    encoder = HashEncoder()
    documents = (
        raycol.Document(id_, tokens_TD, {"text": text, "lang": "de" if id_ == "3" else "en"})
        for (id_, text), tokens_TD in zip(TEXTS.items(), encoder.encode_document(list(TEXTS.values())), strict=True)
    )
    raycol.Index.create(folder, documents, bits=8, model=ModelInfo(name="words", fingerprint=encoder.fingerprint))
    return folder


def test_an_encoder_of_ones_own(own_index: Path) -> None:
    encoder = HashEncoder()
    assert isinstance(encoder, Encoder)
    retriever = raycol.Retriever(own_index, model=encoder)
    results = retriever.search(["date string", "directory"], k=2)
    assert [hits[0].id for hits in results] == ["2", "1"]
    assert results[0][0].text == TEXTS["2"]
    assert results[0][0].metadata["lang"] == "en"
    assert [hit.id for hit in retriever.search("rain", filter="lang = 'de'")] == ["3"]
    assert [hit.id for hit in retriever.search("rain", ids=["1"])] == ["1"]
    assert [hit.id for hit in retriever.rerank("tree", ["3", "1"])] == ["1", "3"]
    assert [len(array) for array in retriever.encode(["two words", "one"])] == [2, 1]
    explained = retriever.explain("date", "2")
    assert explained.matches[0].query_token == "token 0"  # an encoder without token strings
    assert explained.matches[0].document_token is None
    assert np.isclose(explained.score, retriever.rerank("date", ["2"])[0].score, atol=1e-5)


def test_another_encoder_is_refused(own_index: Path) -> None:
    other, wide = HashEncoder(), HashEncoder()
    other.fingerprint = "other words"
    wide.dimension = 32
    with pytest.raises(InputError, match="not the one the index was built with"):
        raycol.Retriever(own_index, model=other)
    with pytest.raises(InputError, match="the encoder has 32 dimensions; the index has 16"):
        raycol.Retriever(own_index, model=wide)


def test_wrong_arguments_are_refused_by_name(own_index: Path) -> None:
    retriever = raycol.Retriever(raycol.Index(own_index), model=HashEncoder())
    for call, message in (
        (lambda: retriever.search(["date"], top_k=3), "no argument 'top_k'; the nearest is 'k'"),
        (lambda: retriever.search(["date", " "]), "an empty query"),
        (lambda: retriever.search([np.ones((2, 16))]), "text 0 is a ndarray; expected a string"),
        (lambda: retriever.search("date", ids="1"), "ids is '1'; expected a list"),
        (lambda: retriever.rerank(["date"], [["1"], ["2"]]), "1 texts and 2 lists of ids"),
        (lambda: retriever.rerank("date", ["9"]), "'9'"),
        (lambda: raycol.Retriever("http://127.0.0.1:1", model="m"), "model: an endpoint sets this itself"),
        (lambda: raycol.Retriever(own_index, api_key="k"), "api_key: it is for an endpoint"),
        (lambda: raycol.search(own_index, "date"), "queries is 'date'; expected a list"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            call()


def test_hits_are_shown(own_index: Path) -> None:
    results = raycol.Retriever(own_index, model=HashEncoder()).search(["date <b>"], k=1)
    assert repr(results).splitlines()[0] == "date <b>"
    assert "2  a date from a string" in repr(results)
    assert "date &lt;b&gt;" in results._repr_html_()
    assert "<td style='text-align:left'>en</td>" in results._repr_html_()


@pytest.mark.slow
def test_tokens_of_an_explanation(tiny_colbert: Path, tmp_path: Path, corpus: Path) -> None:
    build_index(IndexConfig(corpus=str(corpus), model=str(tiny_colbert), out=str(tmp_path / "index")))
    with raycol.Retriever(tmp_path / "index") as retriever:
        hit = retriever.search("storm at the dock", k=1)[0]
        explained = retriever.explain("storm at the dock", hit.id)
    assert np.isclose(explained.score, hit.score, atol=1e-4)
    assert "storm" in [match.query_token for match in explained.matches]
    assert explained.text == f"{hit.title} {hit.text}"
    for match in explained.matches:
        assert match.document_token is not None
        if match.end:
            assert explained.text[match.start : match.end] == match.document_token.removeprefix("##")
    assert raycol.search(tmp_path / "index", ["storm"], 2)[0][0].text
    assert isinstance(retriever._backend._encoder, Tokenizing)


def test_an_endpoint_answers_in_the_same_types() -> None:
    """Bodies as `docs/serving.md` shows them, without a socket."""
    import httpx2

    from raycol.client.sync_client import Client
    from raycol.retrieval.retriever import Retriever, _Endpoint

    hit = {"id": "2", "score": 3.5, "text": "a date", "metadata": {"title": "t", "lang": "en"}, "omitted": []}
    search = SearchResponse.model_validate(
        {"results": [[hit]], "version": 1, "partial": False, "shards": {"total": 1, "answered": 1}, "took_ms": {}}
    )
    token = {"text": "date", "start": 2, "end": 6}
    explain = ExplainResponse.model_validate(
        {"id": "2", "score": 0.5, "text": "a date", "query_tokens": [token], "document_tokens": [token], "version": 1,
         "matches": [{"query_token": 0, "document_token": 0, "score": 0.5}]}
    )  # fmt: skip
    answers = {
        "/v1/search": search.model_dump_json(),
        "/v1/explain": explain.model_dump_json(),
    }
    bodies = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, text=answers[request.url.path])

    retriever = Retriever("http://127.0.0.1:1")
    retriever._backend = _Endpoint(Client("http://127.0.0.1:1", transport=httpx2.MockTransport(answer)))
    (found,) = retriever.search("date")
    assert found == raycol.Hit("2", 3.5)
    assert (found.text, found.title, found.metadata["lang"]) == ("a date", "t", "en")
    assert retriever.rerank("date", ["2"])[0].text == "a date"
    assert bodies[-1] == {"query": "date", "ids": ["2"], "k": 1, "effort": "default", "allow_partial": False}
    with pytest.raises(InputError, match="document '7' is not in the index of http"):
        retriever.rerank("date", ["2", "7", "8"])
    assert len(bodies) == 3
    assert retriever.rerank(["date"], [[]]) == [[]]
    explained = retriever.explain("date", "2")
    assert (explained.matches[0].document_token, explained.matches[0].start) == ("date", 2)
    with pytest.raises(InputError, match="search has no argument 'top_k'; the nearest is 'k'; an endpoint"):
        retriever.search("date", top_k=3)
