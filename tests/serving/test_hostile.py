"""Hostile requests get a problem, never a 500, and the endpoint keeps working.

In this process, over ASGI; attacks at the level of bytes and connections are in test_wire.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycol.client.schema import MAX_K, SearchRequest, SearchResponse
from raycol.index.format.manifest import read_manifest
from raycol.serving import gateway
from raycol.serving.http.page import HEADERS, page_files
from raycol.storage import open_store
from tests.serving.checked_client import CheckedClient as Served
from tests.serving.checked_client import guarded
from tests.serving.in_process import on_a_socket, served_here

pytestmark = pytest.mark.slow

DIM = 16
OPERATIONS = [(method.upper(), path) for path, item in gateway.api.openapi()["paths"].items() for method in item]
PUBLIC = {"/healthz", "/readyz"}
HALF = '"a\\ud800b"'


@pytest.fixture(scope="module")
def served(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    config, keys = guarded(folder, tiny_colbert)
    with served_here(config) as here, on_a_socket(here) as running, here.client() as client:
        yield Served(running.url, client, folder, keys)


@pytest.fixture(autouse=True)
def _alive_afterwards(served: Served) -> Iterator[None]:
    yield
    served.check_alive()


# Bodies


def packed(values: bytes, tokens: int = 1) -> dict[str, Any]:
    return {"embeddings": [{"tokens": tokens, "data": base64.b64encode(values).decode()}]}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"null", 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"\xff", 400),
        (b'{"query": "\xff\xfe"}', 400),
        (b'{"query": "\xed\xa0\x80"}', 400),
        (b"[" * 100_000, 400),
        (b'{"query": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"a": ' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b'{"query": "a", "k": ' + b"9" * 5000 + b"}", 400),
        (b'{"query": "a", "k": 1000000000}', 422),
        (b'{"query": "a", "k": 1e309}', 422),
        (b'{"query": "a", "k": -1}', 422),
        (b'{"query": "a", "timeout_ms": 1000000000000}', 422),
        (b'{"query": "rain", "query": "wind", "k": 2000, "k": 1}', 200),
        (b'{"query": "rain", "__proto__": {"k": 1}}', 422),
        ('{"query": "rain", "k": 1}'.encode("utf-16"), 400),
        (b'\xef\xbb\xbf{"query": "rain", "k": 1}', 200),
        (b'{"query": "\\u0000", "k": 1}', 200),
        (b'{"query": "rain", "ids": ["\\u0000"]}', 200),
        (b'{"embeddings": [[[NaN]]]}', 422),
        (b'{"embeddings": [[[Infinity]]]}', 422),
        (b'{"embeddings": [[[-Infinity]]]}', 422),
        (b'{"embeddings": [[[1e999]]]}', 422),
        (b'{"embeddings": [[[1], [1, 2]]]}', 422),
        (b'{"embeddings": [[[]]]}', 422),
        (b'{"embeddings": [[]]}', 422),
        (b'{"embeddings": [[[0.5]]]}', 422),
        ({"embeddings": [[DIM * [1e300]]]}, 422),
        ({"embeddings": [[DIM * [1e30]]]}, 422),
        ({"embeddings": [[DIM * [0.0]]]}, 200),
        ({"embeddings": [100_000 * [[0.1]]]}, 422),
        ({"embeddings": 65 * [[DIM * [0.1]]]}, 422),
        ({"embeddings": [[65_537 * [0.1]]]}, 422),
        (packed(DIM * b"\x00\x00\xc0\x7f"), 422),
        (packed(DIM * b"\x00\x00\x80\x7f"), 422),
        (packed(DIM * b"\xff\xff\x7f\x7f"), 422),
        (packed(b"abc"), 422),
        (packed(4 * DIM * b"\x00", tokens=100_000), 422),
        (packed(8193 * 4 * DIM * b"\x00", tokens=8193), 422),
        ({"embeddings": [{"tokens": 1, "data": "é"}]}, 422),
        ({"embeddings": [{"tokens": 1, "data": "!!!!"}]}, 422),
        ({"query": "rain " * 100_000}, 422),
        ({"query": "rain " * 3200, "k": 1}, 200),
        ({"query": "x" * 16_384, "k": 1}, 200),
        ({"query": "\u0301" * 16_384, "k": 1}, 200),
        ({"query": "\U0001f469\u200d" * 8000, "k": 1}, 200),
        ({"queries": 64 * ["rain"], "k": MAX_K}, 422),
        ({"queries": 10_000 * ["rain"]}, 422),
        ({"query": "rain", "ids": 10_001 * ["a"]}, 422),
        ({"query": "rain", "ids": ["a" * 1025]}, 422),
        ({"query": "rain", "ids": 1000 * ["é" * 500]}, 422),
        ({"query": "rain", "ids": []}, 200),
        ({"query": "rain", "effort": "most"}, 422),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, int) else None,
)
def test_bodies(served: Served, body: Any, status: int) -> None:
    answer = served.post(body)
    assert answer.status_code == status, answer.text[:300]
    if status == 200:
        SearchResponse.model_validate_json(answer.content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/search", '{"query": %s}'),
        ("/v1/search", '{"queries": ["a", %s]}'),
        ("/v1/search", '{"query": "a", "filter": %s}'),
        ("/v1/search", '{"query": "a", "filter": "lang = \'\\udfff\'"}'),
        ("/v1/search", '{"query": "a", "ids": [%s]}'),
        ("/v1/search", '{"query": "a", "effort": %s}'),
        ("/v1/search", '{"query": "a", "k": %s}'),
        ("/v1/search", '{"query": "a", %s: 1}'),
        ("/v1/search", '{"embeddings": [{"tokens": 1, "data": %s}]}'),
        ("/v1/search", '{"embeddings": [{"tokens": 1, "data": "a", %s: 1}]}'),
        ("/v1/search", '{"embeddings": [%s]}'),
        ("/v1/rerank", '{"query": %s, "documents": ["a"]}'),
        ("/v1/rerank", '{"query": "a", "documents": [%s]}'),
        ("/v1/rerank", '{"query": "a", "ids": [%s]}'),
        ("/v1/embeddings", '{"input": %s}'),
        ("/v1/embeddings", '{"input": [%s]}'),
        ("/v1/explain", '{"query": %s, "id": "a"}'),
        ("/v1/explain", '{"query": "a", "id": %s}'),
        ("/v1/admin/version", '{"version": %s}'),
        ("/v1/admin/version", "%s"),
    ],
)
def test_lone_surrogates_are_rejected(served: Served, path: str, body: str) -> None:
    answer = served.post(body.replace("%s", HALF).encode(), path)
    assert answer.status_code == 400, answer.text


def test_a_large_body_is_searched(served: Served) -> None:
    # The maximum number of vectors and bytes.
    body = {"embeddings": 16 * [1024 * [[0.25] * DIM]], "k": 1}
    answer = served.post(body)
    assert answer.status_code == 200
    assert len(SearchResponse.model_validate_json(answer.content).results) == 16


def test_a_long_query_is_searched(served: Served) -> None:
    query = np.random.default_rng(0).standard_normal((8192, DIM)).astype("<f4")
    answer = served.post({**packed(query.tobytes(), tokens=8192), "k": 2})
    assert answer.status_code == 200
    (hits,) = SearchResponse.model_validate_json(answer.content).results
    assert len(hits) == 2


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/xml",
        "application/json; charset=utf-7",
        "application/json;" + "a=b;" * 500,
        "APPLICATION/JSON",
        "application/",
        "/",
        "",
        b"application/json\xff",
        b"\xff\xfe",
    ],
)
def test_content_types(served: Served, kind: str | bytes) -> None:
    for content in (
        b'{"query": "rain", "k": 1}',
        b"query=rain&k=1",
        b'--x\r\nContent-Disposition: form-data; name="q"',
    ):
        answer = served.ask("POST", "/v1/search", content, **{"content-type": kind})
        assert answer.status_code in (200, 400, 422)
        assert answer.status_code != 200 or content.startswith(b"{")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_that_is_not_declared_as_json_gets_advice(served: Served, kind: str) -> None:
    answer = served.ask("POST", "/v1/search", b'{"query": "rain"}', **{"content-type": kind})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "the body is not declared as JSON; add the header 'Content-Type: application/json' (curl: --json)"
    )


# Filters


@pytest.mark.parametrize(
    "text",
    [
        "year = 2000; DROP TABLE documents",
        "year = 2000; SELECT 1",
        "lang = 'en' UNION SELECT * FROM documents",
        "year IN (SELECT year FROM documents)",
        "EXISTS (SELECT 1)",
        "(SELECT 1)",
        "SELECT 1",
        "WITH x AS (SELECT 1) SELECT 1",
        "lang = (SELECT readfile('/etc/passwd'))",
        "lang = readfile('/etc/passwd')",
        "read_csv('/etc/passwd') = lang",
        "load_extension('x.so')",
        "pg_sleep(10) IS NULL",
        "lang = upper('en')",
        "lower(lang) = 'en'",
        "lang || 'x' = 'enx'",
        "year + 1 = 2001",
        "CASE WHEN open THEN TRUE END",
        "CAST(lang AS INT) = 1",
        "lang::int = 1",
        "lang ~ '(a+)+$'",
        "lang SIMILAR TO '(a|b)*'",
        "lang LIKE 'a' ESCAPE '!'",
        "nothing = 1",
        "documents.lang = 'en'",
        "a.b.c.lang = 'en'",
        "\"id\" = 'weather-3'",
        "lang = lang",
        "lang = year",
        "*",
        "?",
        ":name",
        "$1 = 1",
        "@@version = 1",
        "{{ 7 * 7 }} = 49",
        "${jndi:ldap://here/a} = 1",
        "lang['a'] = 'b'",
        "year IN ()",
        "year = 1e999",
        "year = 99999999999999999999999999",
        "year = 0x10",
        "year = '2000'",
        "lang = 2000",
        "day = 'yesterday'",
        "day = '2020-02-31'",
        "seen = DATE '99999-01-01'",
        "open = 1",
        "lang IS TRUE",
        "CURRENT_USER = 'x'",
        "NULL",
        "1",
        "''",
        "'",
        '"',
        "`",
        "/*",
        "/* */",
        "--",
        "\x00",
        "lang = '\x00",
        "(" * 200,
        "(" * 200 + "open" + ")" * 200,
        "NOT " * 2000 + "open",
        "year = " + "-" * 8000 + "1",
        "year = " + "- " * 4000 + "1",
        "open AND (" * 800,
        "x" * 8192,
        "open " * 1600,
        "," * 8192,
        "year BETWEEN 1 AND 2 AND 3",
        "lang LIKE year",
        "year IN (1, 'a')",
        "year IN (1, (SELECT 2))",
        "open AND",
        "AND",
        "😀 = 1",
        "lang = 'en' -- \n; DROP TABLE x",
        "open OR 1",
    ],
    ids=lambda text: text[:40],
)
def test_invalid_filters_are_rejected(served: Served, text: str) -> None:
    answer = served.post({"query": "rain", "filter": text})
    assert answer.status_code == 422
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    "text",
    [
        "open " + "AND open " * 900,
        "open " + "OR open " * 1000,
        "year = 2000 " + "OR year = 2001 " * 500,
        f"year IN ({', '.join(map(str, range(1000, 2300)))})",
        "lang = '" + "a" * 8100 + "'",
        "lang LIKE '" + "%a" * 4000 + "'",
        "lang LIKE '" + "_" * 8000 + "'",
        "lang ILIKE '" + "%_" * 4000 + "'",
        "lang LIKE '" + "\\" * 7999 + "'",
        "lang LIKE '((((a+)+)+)+$'",
        "lang LIKE '[[:alpha:]](?i)\\Q'",
        "lang = 'en''; DROP TABLE x'",
        "lang = '/* */ -- '",
        "lang = '\x00'",
        "(" * 90 + "open" + ")" * 90,
        "NOT " * 80 + "open",
        "open -- the rest",
        "/* first */ open",
        "rank < 1e300 AND rank > -1e-300",
        "day < '0001-01-02' OR day > '9999-12-30'",
        "seen > '9999-12-31T23:59:59.999999Z' OR seen < '0001-01-01'",
        "year = -9223372036854775808 OR year = 9223372036854775807",
        "day IN ('2020-01-01', '9999-12-31')",
    ],
    ids=lambda text: text[:40],
)
def test_long_or_odd_filters_are_answered(served: Served, text: str) -> None:
    assert len(text) <= 8192
    answer = served.post({"query": "rain", "filter": text})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert not SearchResponse.model_validate_json(answer.content).partial


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE"])
def test_other_methods(served: Served, method: str) -> None:
    for path in ("/v1/search", "/v1/index", "/v1/admin/version", "/v1/documents/weather-3", "/metrics", "/healthz"):
        assert served.ask(method, path, **{"x-secret": "only for me"}).status_code == 405
        answer = served.ask(method, path, key=None, **{"x-secret": "only for me"})
        assert answer.status_code == (405 if (method, path) == ("HEAD", "/healthz") else 401)
        assert "only for me" not in answer.text


# Keys


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_path_needs_a_key(served: Served, method: str, path: str) -> None:
    body = b'{"query": "rain"}' if method == "POST" else None
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {served.keys['read']}"}):
        answer = served.ask(method, path, body, key=None, **headers)
        assert answer.status_code == (200 if path in PUBLIC else 401)
        if path not in PUBLIC:
            assert answer.json()["detail"] == "missing or unknown API key; send one as 'Authorization: Bearer KEY'"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_the_openapi_document_needs_a_key(served: Served) -> None:
    assert served.ask("GET", "/openapi.json", key=None).status_code == 401
    assert served.ask("GET", "/openapi.json", key="read").json() == gateway.api.openapi()


def test_the_description_of_the_api_needs_a_key_and_its_page_none(served: Served) -> None:
    answer = served.client.get("/docs")
    assert (answer.status_code, answer.headers["location"]) == (307, "api.html")
    for path in page_files():
        answer = served.ask("GET", path, key=None)
        assert (answer.status_code, answer.content) == (200, page_files()[path].content)
        assert dict(answer.headers).items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


def test_no_response_has_a_path_of_this_machine(served: Served) -> None:
    described = served.ask("GET", "/v1/index").json()
    assert described["name"] == "index"
    model = Path(read_manifest(open_store(str(served.folder / "index"))).model.name)
    assert model.is_absolute()
    assert described["model"] == model.name
    answers = [served.ask("GET", path) for path in ("/v1/index", "/healthz", "/readyz", "/metrics", "/openapi.json")]
    answers += [
        served.post({"query": "rain"}),
        served.post({"input": "rain", "packed": True}, "/v1/embeddings"),
        served.post({"query": "rain", "ids": ["p1"]}, "/v1/rerank"),
        served.post({"query": "rain", "id": "p1"}, "/v1/explain"),
    ]
    for answer in answers:
        for secret in (str(served.folder), str(model), str(model.parent)):
            assert secret not in answer.text


def test_a_read_key_does_not_allow_admin_paths(served: Served) -> None:
    for body in (b'{"version": 1}', b"{", b"a" * 1000):
        assert served.ask("POST", "/v1/admin/version", body, key="read").status_code == 403
    assert "there is no version 99" in served.ask("POST", "/v1/admin/version", b'{"version": 99}').json()["detail"]


def test_clients_cannot_create_time_series(served: Served) -> None:
    def visit(numbers: range) -> None:
        for number in numbers:
            for path in (f"/made/up/{number}", f"/v1/documents/{number}", f"/v1/index?x={number}"):
                served.ask("GET", path, **{"x-request-id": f"id{number}"})

    def series() -> set[str]:
        lines = served.ask("GET", "/metrics", key="read").text.splitlines()
        return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}

    visit(range(1))
    series()
    before = series()
    visit(range(1, 30))
    assert series() == before


# Property-based

strings = st.text(st.characters(), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=12,
)
words = st.lists(st.sampled_from(["rain", "wind", "violin", "oven", "ship"]), min_size=1, max_size=4).map(" ".join)
vectors = st.lists(st.floats(-2, 2, width=32), min_size=DIM, max_size=DIM)
VALID: dict[str, st.SearchStrategy[Any]] = {
    "query": words,
    "queries": st.lists(words, min_size=1, max_size=3),
    "embeddings": st.lists(
        st.lists(vectors, min_size=1, max_size=3)
        | st.binary(min_size=4 * DIM, max_size=4 * DIM).map(lambda content: packed(content)["embeddings"][0]),
        min_size=1,
        max_size=2,
    ),
    "k": st.integers(1, 100),
    "filter": st.sampled_from(["open", "year > 2010", "lang = 'en' AND NOT open", "day IS NULL", "rank < 3.5"]),
    "ids": st.lists(st.sampled_from(["weather-3", "music-2", "nothing"]), max_size=3),
    "effort": st.sampled_from(["fast", "default", "thorough"]),
    "timeout_ms": st.integers(10_000, 600_000),
    "allow_partial": st.booleans(),
}


@st.composite
def searches(draw: st.DrawFn, odd: int) -> dict[str, Any]:
    """A search body with up to `odd` arbitrary fields."""
    body = {draw(st.sampled_from(["query", "queries", "embeddings"])): None}
    body |= dict.fromkeys(draw(st.lists(st.sampled_from(sorted(set(VALID) - {"query", "queries", "embeddings"})))))
    body = {name: draw(VALID[name]) for name in body}
    for _ in range(draw(st.integers(0, odd))):
        body[draw(st.sampled_from(sorted(VALID)) | strings)] = draw(values)
    return body


def check_search(served: Served, content: bytes) -> int:
    answer = served.ask("POST", "/v1/search", content)
    if answer.status_code == 200:
        found = SearchResponse.model_validate_json(answer.content)
        request = SearchRequest.model_validate(json.loads(content))
        assert len(found.results) == len(request.embeddings or request.texts)
        assert all(len(hits) <= request.k for hits in found.results)
        for hits in found.results:
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
    else:
        assert answer.status_code in (400, 422)
    return answer.status_code


def test_the_strategies_cover_every_field() -> None:
    assert set(VALID) == set(SearchRequest.model_fields)


@given(body=searches(odd=0))
def test_valid_searches_are_answered(served: Served, body: dict[str, Any]) -> None:
    # Random bytes may contain a NaN.
    assert check_search(served, json.dumps(body).encode()) == 200 or "embeddings" in body


@given(body=searches(odd=3))
def test_any_json_is_answered_or_rejected(served: Served, body: dict[str, Any]) -> None:
    if body.get("timeout_ms") in (*range(1, 10_000), True):
        body["timeout_ms"] = 10_000
    check_search(served, json.dumps(body).encode())


@given(body=searches(odd=1), data=st.data())
def test_mutated_bodies(served: Served, body: dict[str, Any], data: st.DataObject) -> None:
    body.pop("timeout_ms", None)
    content = bytearray(json.dumps(body, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_search(served, bytes(content))


@given(content=st.binary(max_size=200))
def test_any_bytes_are_rejected(served: Served, content: bytes) -> None:
    assert check_search(served, content) in (400, 422)


# OpenAPI


@pytest.mark.sampled
@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_responses_conform_to_openapi(served: Served, method: str, path: str, valid: bool) -> None:
    import schemathesis  # takes a second

    operation = schemathesis.openapi.from_dict(gateway.api.openapi())[path][method]
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    if not valid and method == "GET" and "{" not in path:
        return  # has no parameters
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE

    @given(case=operation.as_strategy(generation_mode=mode))
    def conforms(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            # A tiny time limit gets a 503, as documented.
            case.body.pop("timeout_ms", None)
        answer = case.call(base_url=served.url, headers={"authorization": f"Bearer {served.keys['admin']}"})
        case.validate_response(answer, checks=checks)

    conforms()
