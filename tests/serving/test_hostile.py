"""An endpoint under requests that mean it harm: refused with a problem, never a 500, and nothing else goes down."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raycol.serving import gateway
from raycol.serving.config import ServeConfig
from raycol.serving.keys import new_key
from raycol.serving.run import serving
from raycol.serving.schema import MAX_K, Problem, SearchRequest, SearchResponse
from tests.conftest import make_passages
from tests.serving.indexes import index_of_texts

pytestmark = pytest.mark.slow

DIM = 16
OPERATIONS = [(method.upper(), path) for path, item in gateway.api.openapi()["paths"].items() for method in item]
PUBLIC = {"/healthz", "/readyz"}
# 503 is documented, but only for an endpoint in trouble, or a client that does not wait.
STATUSES = {200, 400, 401, 403, 404, 405, 408, 413, 422, 429}
HALF = '"a\\ud800b"'

thorough = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


class Served:
    """The endpoint, and how to ask it; every answer is checked for what must hold of all."""

    def __init__(self, url: str, folder: Path, keys: dict[str, str]) -> None:
        self.url, self.folder, self.keys = url, folder, keys
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 0)
        self.client = httpx2.Client(base_url=url, timeout=40, trust_env=False)

    def ask(
        self, method: str, path: str, content: Any = None, key: str | None = "admin", **headers: str | bytes
    ) -> httpx2.Response:
        if key:
            headers = {"authorization": f"Bearer {self.keys[key]}", **headers}
        if content is not None:
            headers = {"content-type": "application/json", **headers}
        answer = self.client.request(method, path, content=content, headers=headers)
        self.check(answer)
        return answer

    def post(self, body: Any, path: str = "/v1/search") -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", path, content)

    def check(self, answer: httpx2.Response) -> None:
        """What holds of every answer of ours."""
        assert answer.status_code in STATUSES, answer.text
        (name,) = answer.headers.get_list("x-request-id")
        assert 0 < len(name) <= 64
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            if answer.request.method != "HEAD":
                problem = Problem.model_validate_json(answer.content)
                assert (problem.status, problem.request_id) == (answer.status_code, name)
            self.check_secrets(answer.text)

    def check_secrets(self, text: str) -> None:
        """That it says nothing of the machine, or of another request's key."""
        for secret in ("root:", "Traceback", 'File "', str(self.folder), "site-packages", *self.keys.values()):
            assert secret not in text

    def check_alive(self) -> None:
        """That a usual search has its usual answer."""
        answer = SearchResponse.model_validate_json(self.post({"query": "violin and piano", "k": 3}).content)
        assert (len(answer.results[0]), answer.partial) == (3, False)
        assert {hit.metadata["title"] for hit in answer.results[0]} <= {"music", "kitchen", "harbour", "weather"}

    def exchange(self, *parts: bytes, wait_s: float = 20.0) -> bytes:
        """Send bytes as they are, and return all that comes back until the other side ends it."""
        with socket.create_connection(self.address, timeout=wait_s) as connection:
            received = b""
            try:
                for part in parts:
                    connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all of it was sent
            while True:
                try:
                    content = connection.recv(1 << 16)
                except ConnectionResetError:
                    return received
                if not content:
                    return received
                received += content

    def request(
        self,
        method: bytes = b"GET",
        path: bytes = b"/v1/index",
        headers: tuple[bytes, ...] = (),
        body: bytes = b"",
        *,
        version: bytes = b"HTTP/1.1",
        length: bool = True,
        last: bool = True,
    ) -> bytes:
        """The bytes of a request with a key; the connection ends after it where it is the last."""
        lines = [b"Host: here", b"Authorization: Bearer " + self.keys["read"].encode(), *headers]
        if body:
            lines.append(b"Content-Type: application/json")
        if body and length:
            lines.append(b"Content-Length: %d" % len(body))
        if last:
            lines.append(b"Connection: close")
        return b"%s %s %s\r\n" % (method, path, version) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def statuses(received: bytes) -> list[int]:
    """The statuses of the answers in what was received. None of the bodies has such a line in it."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]


@pytest.fixture(scope="module")
def served(tiny_colbert: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    passages: list[dict[str, Any]] = [dict(passage) for passage in make_passages(80)]
    for n, passage in enumerate(passages):
        passage |= {"year": 2000 + n % 30, "lang": ["en", "de"][n % 2], "rank": n / 7, "open": n % 3 == 0}
        passage |= {"day": date(2020, 1, n % 28 + 1), "seen": datetime(2020, 1, 31, 12, 0, n % 60, tzinfo=UTC)}
    index = index_of_texts(folder / "index", tiny_colbert, passages)
    file = folder / "keys.json"
    keys = {scope: new_key(file, scope, scope) for scope in ("read", "admin")}
    with serving(ServeConfig(index=index.uri, shards=2, port=0, keys=str(file))) as running:
        yield Served(running.url, folder, keys)


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
        (packed(1025 * 4 * DIM * b"\x00", tokens=1025), 422),
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
def test_half_a_surrogate_pair_is_no_text(served: Served, path: str, body: str) -> None:
    answer = served.post(body.replace("%s", HALF).encode(), path)
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("size", [9_000_000, 10_000_000])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_of_ten_megabytes_is_too_large(served: Served, size: int, declared: bool) -> None:
    body = b'{"query": "' + b"a" * size + b'"}'
    if declared:
        parts = [served.request(b"POST", b"/v1/search", body=body)]
    else:
        head = served.request(b"POST", b"/v1/search", (b"Transfer-Encoding: chunked",), length=False)
        chunks = [body[n : n + 50_000] for n in range(0, len(body), 50_000)]
        parts = [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]
    received = served.exchange(*parts)
    # Where the connection was closed on what was still being sent, the answer may have been lost with it.
    assert statuses(received) in ([413], [])


def test_a_large_body_is_searched(served: Served) -> None:
    # 1,000 queries' worth of numbers in one: as large as may be, in numbers and in bytes.
    body = {"embeddings": 16 * [1024 * [[0.25] * DIM]], "k": 1}
    answer = served.post(body)
    assert answer.status_code == 200
    assert len(SearchResponse.model_validate_json(answer.content).results) == 16


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
def test_filters_that_are_no_conditions_are_refused(served: Served, text: str) -> None:
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
def test_filters_that_are_long_or_odd_are_answered(served: Served, text: str) -> None:
    assert len(text) <= 8192
    answer = served.post({"query": "rain", "filter": text})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert not SearchResponse.model_validate_json(answer.content).partial


# Headers, as bytes


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X-A: " + b"a" * 8000, 200),
        (b"X-A: " + b"a" * 20_000, 400),
        (b"X-A: " + b"a" * 1_000_000, 400),
        (b"\r\n".join(b"X-%d: a" % n for n in range(80)), 200),
        (b"\r\n".join(b"X-%d: a" % n for n in range(2000)), 400),
        (b"X-A: a\rX-B: b", 400),
        (b"X-A: a\x00b", 400),
        (b"X-A : a", 400),
        (b": a", 400),
        (b"X-A", 400),
        (b"X-\xe9: a", 400),
        (b"X-A: \xe9\xff", 200),
        (b"X-Request-Id: \xe9\xff", 200),
        (b"X-Request-Id: " + b"a" * 5000, 200),
        (b"X-Request-Timeout-Seconds: \xff", 200),
        (b"X-Request-Timeout-Seconds: 0.0001", 200),
        (b"X-Request-Disconnect-Disabled: \xff", 200),
        (b"X-Session-Id: \xff", 200),
        (b"serve_multiplexed_model_id: \xff", 200),
        (b"traceparent: \xff", 200),
        (b"Authorization: Bearer \xe9\xff", 401),
        (b"Authorization: ", 401),
        (b"Authorization: " + b"a" * 7000, 401),
        (b"Content-Length: abc", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: +1", 400),
        (b"Content-Length: " + b"9" * 5000, 400),
        (b"Content-Length: 1\r\nContent-Length: 2", 400),
        (b"Transfer-Encoding: xchunked", 400),
        (b"Transfer-Encoding: identity", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Host: there", 400),
        (b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA", 200),
        (b"X-Forwarded-Prefix: /v1/admin\r\nX-Original-URL: /v1/admin/version\r\nX-Rewrite-URL: /", 200),
        (b"X-HTTP-Method-Override: DELETE", 200),
        (b"Origin: https://page.example", 200),
        (b"Range: bytes=0-1", 200),
        (b"Accept-Encoding: " + b"gzip," * 1000, 200),
        (b"Cookie: " + b"a=b;" * 1000, 200),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_headers(served: Served, header: bytes, status: int) -> None:
    received = served.exchange(served.request(headers=(header,)))
    assert statuses(received) == [status], received[:300]
    assert b"access-control" not in received.lower()
    served.check_secrets(received.decode("latin-1"))


@pytest.mark.parametrize(
    ("given", "kept"), [(b"abc-1", True), (b"a b<c>", False), (b"a" * 65, False), ("é".encode(), False), (b"", False)]
)
def test_an_answer_has_one_name(served: Served, given: bytes, kept: bool) -> None:
    for path in (b"/v1/index", b"/nothing", b"/healthz"):
        head = served.exchange(served.request(path=path, headers=(b"X-Request-Id: " + given,))).split(b"\r\n\r\n")[0]
        (name,) = [line[14:] for line in head.lower().split(b"\r\n") if line.startswith(b"x-request-id: ")]
        assert (name == given) == kept
        assert name.isalnum() or kept


SEARCH = b'{"query": "rain", "k": 1}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SEARCH), SEARCH)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ((b"Transfer-Encoding: chunked",), CHUNKED, [200]),
        ((b"Transfer-Encoding:\tchunked",), CHUNKED, [200]),
        ((b"Transfer-Encoding: chunked",), b"zz\r\n" + SEARCH, [400]),
        ((b"Transfer-Encoding: chunked",), b"FFFFFFFFFFFFFFFFF\r\n" + SEARCH, [400]),
        ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), CHUNKED, [400]),
        ((b"Transfer-Encoding: gzip, chunked",), CHUNKED, [422]),
        # What stands behind the last chunk must not be taken for another request.
        ((b"Content-Length: 100", b"Transfer-Encoding: chunked"), b"0\r\n\r\nGET /v1/index HTTP/1.1\r\n\r\n", [422]),
        ((b"Content-Length: 5", b"Content-Length: 5, 6"), SEARCH, [400]),
    ],
)
def test_smuggled_requests(served: Served, headers: tuple[bytes, ...], body: bytes, expected: list[int]) -> None:
    received = served.exchange(served.request(b"POST", b"/v1/search", headers, body, length=False))
    assert statuses(received) == expected


def test_pipelined_requests_are_answered_in_their_order(served: Served) -> None:
    search = served.request(b"POST", b"/v1/search", body=SEARCH, last=False)
    other = served.request(path=b"/nothing", last=False)
    received = served.exchange(search + other + search + other + served.request(b"POST", b"/v1/search", body=SEARCH))
    assert statuses(received) == [200, 404, 200, 404, 200]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /v1/index\r\n\r\n", {400}),
        (b"GET /v1/index HTTP/9.9\r\nConnection: close\r\n\r\n", {400, 401}),
        (b"\x00\xff\x16\x03\x01" * 100, {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, {400}),
        (b"PUT / SMTP/1.0\r\n\r\n", {400}),
        (b"GET http://other.example/v1/index HTTP/1.1\r\nHost: here\r\n\r\n", {400}),
        (b"CONNECT other.example:80 HTTP/1.1\r\nHost: here\r\n\r\n", {400, 404, 405}),
        (b"OPTIONS * HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", {404}),
        (b"FOO /v1/index HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", {400, 401}),
        (b"A" * 9000 + b" /v1/index HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", {400, 401}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, set()),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_request(served: Served, sent: bytes, expected: set[int]) -> None:
    assert set(statuses(served.exchange(sent))) <= expected


def test_the_old_version_of_http(served: Served) -> None:
    received = served.exchange(served.request(b"POST", b"/v1/search", body=SEARCH, version=b"HTTP/1.0", last=False))
    assert statuses(received) == [200]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE"])
def test_other_methods(served: Served, method: str) -> None:
    for path in ("/v1/search", "/v1/index", "/v1/admin/version", "/v1/documents/weather-3", "/metrics", "/healthz"):
        assert served.ask(method, path, **{"x-secret": "only for me"}).status_code == 405
        answer = served.ask(method, path, key=None, **{"x-secret": "only for me"})
        assert answer.status_code == (405 if (method, path) == ("HEAD", "/healthz") else 401)
        assert "only for me" not in answer.text


# Paths


@pytest.mark.parametrize(
    ("path", "statuses_"),
    [
        (b"/v1/documents/../../etc/passwd", {404}),
        (b"/v1/documents/..%2f..%2f..%2fetc%2fpasswd", {404}),
        (b"/v1/documents/%2e%2e/%2e%2e/etc/passwd", {404}),
        (b"/v1/documents//etc/passwd", {404}),
        (b"/v1/documents/file:///etc/passwd", {404}),
        (b"/v1/documents/..\\..\\etc\\passwd", {400, 404}),
        (b"/v1/documents/%252e%252e%252fetc", {404}),
        (b"/v1/documents/%00", {404}),
        (b"/v1/documents/weather-3%00", {404}),
        (b"/v1/documents/weather-3%20", {404}),
        (b"/v1/documents/%0d%0aX-Evil:%201", {404}),
        (b"/v1/documents/%ed%a0%80", {404}),
        (b"/v1/documents/%ff%fe", {404}),
        (b"/v1/documents/%zz%", {404}),
        (b"/v1/documents/" + b"a" * 1024, {422}),
        (b"/v1/documents/" + b"a" * 7000, {422}),
        (b"/v1/documents/" + b"a" * 20_000, {400, 414}),
        (b"/v1/documents/" + b"%20" * 4000, {422}),
        (b"/v1/documents/weather-3?x=" + b"%00" * 1000, {200}),
        (b"/v1/documents/", {422}),
        (b"/v1/documents", {404}),
        (b"/v1/search/", {404}),
        (b"/v1/index/", {404}),
        (b"//v1/index", {404}),
        (b"/v1//index", {404}),
        (b"/V1/INDEX", {404}),
        (b"/v1/index%00", {404}),
        (b"/v1/index;x=1", {404}),
        (b"/v1/admin/../index", {403}),
        (b"/v1/%61dmin/version", {403}),
        (b"/../../etc/passwd", {404}),
        (b"/docs", {404}),
        (b"/redoc", {404}),
        (b"/v1/documents/\xc3\xa9", {400}),
        (b"/v1/documents/\x00", {400}),
        (b"/v1/documents/a b", {400}),
        (b"*", {400, 404}),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_paths(served: Served, path: bytes, statuses_: set[int]) -> None:
    received = served.exchange(served.request(path=path))
    (status,) = statuses(received)
    assert status in statuses_, received[:300]
    assert b"\nX-Evil" not in received
    assert b"location:" not in received.lower()
    served.check_secrets(received.decode("latin-1"))


def test_an_encoded_path_of_an_administrator_is_one(served: Served) -> None:
    for path in (b"/v1/admin/version", b"/v1/%61dmin/version", b"/v1/admin/%76ersion"):
        received = served.exchange(served.request(b"POST", path, body=b'{"version": null}'))
        assert statuses(received) == [403]


# Keys


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_without_a_key_nothing_is_told(served: Served, method: str, path: str) -> None:
    body = b'{"query": "rain"}' if method == "POST" else None
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {served.keys['read']}"}):
        answer = served.ask(method, path, body, key=None, **headers)
        assert answer.status_code == (200 if path in PUBLIC else 401)
        if path not in PUBLIC:
            assert answer.json()["detail"] == "give a key of this endpoint as 'Authorization: Bearer KEY'"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_the_document_of_the_endpoint_needs_a_key_too(served: Served) -> None:
    assert served.ask("GET", "/openapi.json", key=None).status_code == 401
    assert served.ask("GET", "/openapi.json", key="read").json() == gateway.api.openapi()


def test_a_key_to_read_is_none_to_administrate(served: Served) -> None:
    for body in (b'{"version": 1}', b"{", b"a" * 1000):
        assert served.ask("POST", "/v1/admin/version", body, key="read").status_code == 403
    assert "there is no version 99" in served.ask("POST", "/v1/admin/version", b'{"version": 99}').json()["detail"]


def test_series_do_not_grow_with_what_clients_make_up(served: Served) -> None:
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


# Slow clients


def test_slow_clients_keep_nobody_from_being_answered(served: Served) -> None:
    """120 connections that send a byte now and then, half of them headers, half bodies, are all ended in time."""
    start = served.request(b"POST", b"/v1/search", (b"Content-Length: 1000",), length=False)[:-2]
    waiting = selectors.DefaultSelector()
    ended: list[float] = []
    started = time.monotonic()
    for number in range(120):
        connection = socket.create_connection(served.address)
        connection.setblocking(False)
        connection.sendall(start + (b"\r\n" if number % 2 else b"X-A: "))
        waiting.register(connection, selectors.EVENT_READ)

    def trickle() -> None:
        while waiting.get_map() and time.monotonic() - started < 40:
            for key, _ in waiting.select(0.5):
                try:
                    alive = bool(key.fileobj.recv(4096))
                except OSError:
                    alive = False
                if not alive:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()
                    ended.append(time.monotonic() - started)
            for key in list(waiting.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(b"a")
            time.sleep(0.3)

    slow = threading.Thread(target=trickle)
    slow.start()
    answered = 0
    while slow.is_alive():
        served.check_alive()
        answered += 1
        time.sleep(0.1)
    slow.join()
    assert len(ended) == 120
    assert min(ended) > 5
    assert answered > 20


# Made up by the thousand

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
    """A body of a search with so many fields, or fewer, that hold anything."""
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


def test_every_field_is_what_the_schema_knows() -> None:
    assert set(VALID) == set(SearchRequest.model_fields)


@thorough
@given(body=searches(odd=0))
def test_valid_searches_are_answered(served: Served, body: dict[str, Any]) -> None:
    # Random bytes may hold a NaN; all else must be found.
    assert check_search(served, json.dumps(body).encode()) == 200 or "embeddings" in body


@thorough
@given(body=searches(odd=3))
def test_any_json_is_answered_or_refused(served: Served, body: dict[str, Any]) -> None:
    if body.get("timeout_ms") in (*range(1, 10_000), True):
        body["timeout_ms"] = 10_000
    check_search(served, json.dumps(body).encode())


@thorough
@given(body=searches(odd=1), data=st.data())
def test_bodies_with_a_few_bytes_changed(served: Served, body: dict[str, Any], data: st.DataObject) -> None:
    body.pop("timeout_ms", None)
    content = bytearray(json.dumps(body, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_search(served, bytes(content))


@thorough
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(served: Served, content: bytes) -> None:
    assert check_search(served, content) in (400, 422)


# By the document of the endpoint

SCHEMA = schemathesis.openapi.from_dict(gateway.api.openapi())
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.specs.openapi.checks.status_code_conformance,
    schemathesis.specs.openapi.checks.content_type_conformance,
    schemathesis.specs.openapi.checks.response_schema_conformance,
]


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_answered_is_documented(served: Served, method: str, path: str, valid: bool) -> None:
    operation = SCHEMA[path][method]
    if not valid and method == "GET" and "{" not in path:
        return  # takes nothing that could be invalid
    mode = schemathesis.GenerationMode.POSITIVE if valid else schemathesis.GenerationMode.NEGATIVE

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def conforms(case: schemathesis.Case) -> None:
        if isinstance(case.body, dict):
            # One that waits no longer than a millisecond is told, as documented, that nothing came by then.
            case.body.pop("timeout_ms", None)
        answer = case.call(base_url=served.url, headers={"authorization": f"Bearer {served.keys['admin']}"})
        case.validate_response(answer, checks=CHECKS)

    conforms()
