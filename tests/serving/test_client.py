"""Both clients, against a small server with scripted responses."""

from __future__ import annotations

import asyncio
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn

import raycol
from raycol.client.calls import pack
from raycol.client.retry import MAX_RETRY_AFTER_S
from raycol.client.schema import Health, PackedEmbeddings, SearchRequest, ShardCount, VersionResponse
from raycol.client.sync_client import check_health, search_endpoint
from raycol.errors import InputError, RaycolError
from raycol.retrieval import SearchConfig, search

FOUND = {
    "results": [[{"id": "a", "score": 1.5, "text": None, "metadata": {"year": 1999}}]],
    "version": 3,
    "partial": False,
    "shards": {"total": 2, "answered": 2},
    "took_ms": {"total": 1.0},
}
RERANKED = {"results": [{"index": 1, "score": 2.0}], "unknown": ["b"], "version": 3, "took_ms": {}}
EXPLAINED = {
    "id": "a",
    "score": 1.0,
    "text": "x",
    "query_tokens": [{"text": "x", "start": 0, "end": 1}],
    "document_tokens": None,
    "matches": [{"query_token": 0, "document_token": 0, "score": 1.0}],
    "version": 3,
}
DESCRIBED = {
    "name": "an-index", "version": 3, "versions": [1, 3], "documents": 5, "tokens": 50, "dim": 4, "bits": 4,
    "columns": {"year": "int64"}, "shards": 2, "model": None,
}  # fmt: skip
DOCUMENT = {"id": "a", "text": "x", "metadata": {}, "version": 3}
READY = {"status": "not ready", "version": 3, "shards": {"total": 2, "answered": 1}}
SWITCHED = {"version": 4, "before": 3}


class Server:
    """An ASGI application that replays scripted responses, the last one forever, and records requests."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[dict[str, Any]] = []

    def respond(self, *answers: tuple[int, dict[str, str], Any]) -> None:
        self.answers, self.requests = list(answers), []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append(
            {"method": scope["method"], "path": scope["raw_path"].decode(), "headers": headers, "body": body}
        )
        status, headers, content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await send({"type": "http.response.body", "body": raw})


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    app = Server()
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    app.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield app
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.delenv("RAYCOL_API_KEY", raising=False)
    running.respond((200, {}, FOUND))
    return running


class ClientCaller:
    """Calls a method of a sync or async client whose clock advances only in its waits."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.waits: list[float] = []

    def __call__(self, settings: dict[str, Any], method: str, *arguments: Any, **named: Any) -> Any:
        self.waits = []
        if self.kind is raycol.Client:
            with raycol.Client(**settings) as client:
                client._sleep, client._clock = self.waits.append, self._now
                return getattr(client, method)(*arguments, **named)
        return asyncio.run(self._ask(settings, method, arguments, named))

    async def _ask(self, settings: dict[str, Any], method: str, arguments: Any, named: Any) -> Any:
        async with raycol.AsyncClient(**settings) as client:
            client._sleep, client._clock = self._wait, self._now
            return await getattr(client, method)(*arguments, **named)

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def _now(self) -> float:
        return 1000.0 + sum(self.waits)


@pytest.fixture(params=[raycol.Client, raycol.AsyncClient], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> ClientCaller:
    return ClientCaller(request.param)


CALLS: list[tuple[str, tuple, dict[str, Any], dict, str, str, Any]] = [
    (
        "search",
        ("rain",),
        {"k": 3, "filter": "year > 1990", "ids": {"a"}, "effort": "fast", "timeout_ms": 50, "allow_partial": False},
        FOUND,
        "POST",
        "/v1/search",
        {
            "query": "rain",
            "k": 3,
            "filter": "year > 1990",
            "ids": ["a"],
            "effort": "fast",
            "timeout_ms": 50,
            "allow_partial": False,
        },
    ),
    (
        "search",
        (),
        {"queries": ("rain", "fog")},
        FOUND,
        "POST",
        "/v1/search",
        {"queries": ["rain", "fog"], "k": 10, "effort": "default", "allow_partial": True},
    ),
    (
        "rerank",
        ("rain",),
        {"documents": ["x", "y"], "k": 1},
        RERANKED,
        "POST",
        "/v1/rerank",
        {"query": "rain", "documents": ["x", "y"], "k": 1, "allow_partial": False},
    ),
    (
        "rerank",
        ("rain",),
        {"ids": ["a", "b"]},
        RERANKED,
        "POST",
        "/v1/rerank",
        {"query": "rain", "ids": ["a", "b"], "allow_partial": False},
    ),
    ("explain", ("rain", "a"), {}, EXPLAINED, "POST", "/v1/explain", {"query": "rain", "id": "a"}),
    ("document", ("a/b c",), {}, DOCUMENT, "GET", "/v1/documents/a%2Fb%20c", None),
    ("index", (), {}, DESCRIBED, "GET", "/v1/index", None),
    ("health", (), {}, {"status": "ok"}, "GET", "/healthz", None),
    ("ready", (), {}, READY, "GET", "/readyz", None),
    ("set_version", (4,), {}, SWITCHED, "POST", "/v1/admin/version", {"version": 4}),
    ("set_version", (None,), {}, SWITCHED, "POST", "/v1/admin/version", {"version": None}),
]


@pytest.mark.parametrize(
    ("method", "arguments", "named", "answer", "verb", "path", "body"), CALLS, ids=[call[0] for call in CALLS]
)
def test_each_method_sends_its_request(
    ask: ClientCaller,
    server: Server,
    method: str,
    arguments: tuple,
    named: dict[str, Any],
    answer: dict,
    verb: str,
    path: str,
    body: Any,
) -> None:
    server.respond((200, {}, answer))
    result = ask({"url": server.url}, method, *arguments, **named)
    assert result.model_dump(mode="json", exclude_unset=True) == answer
    (request,) = server.requests
    assert (request["method"], request["path"]) == (verb, path)
    assert (json.loads(request["body"]) if request["body"] else None) == body
    assert "authorization" not in request["headers"]


def test_embeddings_are_packed_both_ways(ask: ClientCaller, server: Server) -> None:
    rng = np.random.default_rng(0)
    queries = [rng.standard_normal((tokens, 4)).astype(np.float32) for tokens in (1, 3)]
    ask({"url": server.url}, "search", embeddings=[queries[0], queries[1].astype(np.float64)[:, ::-1]])
    request = SearchRequest.model_validate_json(server.requests[0]["body"])
    assert request.embeddings is not None
    for sent, query in zip(request.embeddings, (queries[0], queries[1][:, ::-1]), strict=True):
        assert isinstance(sent, PackedEmbeddings)
        assert np.array_equal(sent.unpack(4), query)

    packed = [pack(query, "").model_dump() for query in queries]
    server.respond((200, {}, {"embeddings": packed, "dim": 4, "model": "m"}))
    for texts, is_query in (("rain", True), (["rain", ""], False)):
        result = ask({"url": server.url}, "embeddings", texts, is_query=is_query)
        assert json.loads(server.requests[-1]["body"]) == {"input": texts, "is_query": is_query, "packed": True}
        for array, query in zip(result, queries, strict=True):
            assert array.dtype == np.float32
            assert np.array_equal(array, query)
            array += 1  # writable
    server.respond((200, {}, {"embeddings": [query.tolist() for query in queries], "dim": 4, "model": None}))
    for array, query in zip(ask({"url": server.url}, "embeddings", "rain"), queries, strict=True):
        assert np.array_equal(array, query)


def test_the_key_comes_from_the_argument_or_the_environment(
    ask: ClientCaller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(**settings: Any) -> str | None:
        ask({"url": server.url, **settings}, "search", "rain")
        return server.requests[-1]["headers"].get("authorization")

    assert sent(api_key="mine") == "Bearer mine"
    monkeypatch.setenv("RAYCOL_API_KEY", "theirs")
    assert sent() == "Bearer theirs"
    assert sent(api_key="mine") == "Bearer mine"
    assert sent(api_key="") is None
    search(SearchConfig(target=server.url, queries=["rain"]))
    assert server.requests[-1]["headers"]["authorization"] == "Bearer theirs"
    monkeypatch.setenv("RAYCOL_API_KEY", "")
    assert sent() is None


@pytest.mark.parametrize("status", [429, 503])
def test_busy_statuses_are_retried_with_backoff(ask: ClientCaller, server: Server, status: int) -> None:
    server.respond(*[(status, {}, {"detail": "busy"})] * 4, (200, {}, FOUND))
    assert ask({"url": server.url}, "search", "rain").version == 3
    assert len(server.requests) == 5
    assert len({request["body"] for request in server.requests}) == 1
    for wait, limit in zip(ask.waits, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert 0 <= wait <= limit


def test_retries_are_limited(ask: ClientCaller, server: Server) -> None:
    server.respond((429, {}, {"detail": "64 requests are in flight"}))
    with pytest.raises(RaycolError, match=f"^{server.url}: 429: 64 requests are in flight$") as raised:
        ask({"url": server.url, "retries": 2}, "search", "rain")
    assert not isinstance(raised.value, InputError)
    assert len(server.requests) == 3
    with pytest.raises(RaycolError, match="429"):
        ask({"url": server.url, "retries": 0}, "search", "rain")
    assert len(server.requests) == 4


def test_retry_after_is_respected(ask: ClientCaller, server: Server) -> None:
    answers = [(503, {"retry-after": after}, {}) for after in ("7", "999999", "soon", "Wed, 21 Oct 2015 07:28:00 GMT")]
    server.respond(*answers, (200, {}, FOUND))
    ask({"url": server.url, "timeout_s": 300.0}, "search", "rain")
    least = (7, MAX_RETRY_AFTER_S, 0, 0)
    for wait, after, jitter in zip(ask.waits, least, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert after <= wait <= after + jitter


def test_no_wait_exceeds_the_timeout(ask: ClientCaller, server: Server) -> None:
    server.respond((503, {"retry-after": "4"}, {"detail": "not now"}))
    with pytest.raises(RaycolError, match="503: not now"):
        ask({"url": server.url, "timeout_s": 9.5, "retries": 100}, "search", "rain")
    assert len(server.requests) == 3
    assert sum(ask.waits) < 9.5
    server.respond((503, {"retry-after": "20"}, {"detail": "not now"}))
    with pytest.raises(RaycolError, match="503: not now"):
        ask({"url": server.url, "timeout_s": 10.0}, "search", "rain")
    assert ask.waits == []


def test_a_version_switch_is_not_retried(ask: ClientCaller, server: Server) -> None:
    for status in (429, 503):
        server.respond((status, {}, {"detail": "busy"}))
        with pytest.raises(RaycolError, match=f"{status}: busy"):
            ask({"url": server.url}, "set_version", 4)
        assert len(server.requests) == 1
    with hangs_up() as (url, connections):
        with pytest.raises(RaycolError, match="no response"):
            ask({"url": url}, "set_version", 4)
        assert connections == [1]
        with pytest.raises(RaycolError, match="no response"):
            ask({"url": url}, "search", "rain")
        assert connections == [1 + 5]


@pytest.mark.parametrize(
    ("failure", "again", "version_again"),
    [
        (httpx2.ConnectError, True, True),
        (httpx2.ConnectTimeout, True, True),
        (httpx2.ReadError, True, False),
        (httpx2.WriteError, True, False),
        (httpx2.RemoteProtocolError, True, False),
        (httpx2.ReadTimeout, False, False),
        (httpx2.DecodingError, False, False),
    ],
)
def test_connection_errors_are_retried_if_safe(
    ask: ClientCaller, failure: type[httpx2.HTTPError], again: bool, version_again: bool
) -> None:
    attempts: Counter[str] = Counter()

    def fail_once(request: httpx2.Request) -> httpx2.Response:
        attempts[request.url.path] += 1
        if attempts[request.url.path] == 1:
            raise failure("lost")
        return httpx2.Response(200, json=SWITCHED if "admin" in request.url.path else FOUND)

    settings = {"url": "http://endpoint", "transport": httpx2.MockTransport(fail_once)}
    for method, argument, repeated in (("search", "rain", again), ("set_version", 4, version_again)):
        if repeated:
            ask(settings, method, argument)
        else:
            with pytest.raises(RaycolError, match=r"http://endpoint: (no response|timed out)"):
                ask(settings, method, argument)
    assert attempts == {"/v1/search": 1 + again, "/v1/admin/version": 1 + version_again}


def test_each_attempt_gets_the_remaining_time(ask: ClientCaller) -> None:
    left: list[dict[str, float]] = []

    def busy(request: httpx2.Request) -> httpx2.Response:
        left.append(request.extensions["timeout"])
        return httpx2.Response(503, headers={"retry-after": "8"})

    settings = {"url": "http://endpoint", "timeout_s": 20.0, "transport": httpx2.MockTransport(busy)}
    with pytest.raises(RaycolError, match="503"):
        ask(settings, "search", "rain")
    assert [timeouts["read"] for timeouts in left] == pytest.approx([20, *20 - np.cumsum(ask.waits)])
    assert all(timeouts["connect"] <= 10 for timeouts in left)
    left.clear()
    with pytest.raises(RaycolError, match="503"):
        ask({**settings, "retries": 0}, "set_version", 4)
    assert left[0]["read"] == pytest.approx(600)


@pytest.mark.parametrize(
    ("status", "headers", "content", "kind", "message"),
    [
        (
            422,
            {"content-type": "application/problem+json"},
            {"detail": "k: too large"},
            InputError,
            "422: k: too large",
        ),
        (401, {}, {"detail": "give a key"}, InputError, "401: give a key"),
        (404, {}, b"<html>nothing</html>", InputError, "404: <html>nothing</html>"),
        (400, {}, [1], InputError, r"400: \[1\]"),
        (413, {}, {"title": "x"}, InputError, '413: {"title": "x"}'),
        (500, {}, b"", RaycolError, "500: Internal Server Error"),
        (504, {}, {"detail": "late"}, RaycolError, "504: late"),
        (307, {"location": "http://elsewhere/"}, b"", RaycolError, "307: Temporary Redirect"),
        (502, {}, b"x" * 5000, RaycolError, "502: x{500}$"),
    ],
)
def test_errors_name_url_status_and_detail(
    ask: ClientCaller,
    server: Server,
    status: int,
    headers: dict[str, str],
    content: Any,
    kind: type[RaycolError],
    message: str,
) -> None:
    server.respond((status, headers, content))
    with pytest.raises(RaycolError, match=f"^{server.url}: {message}") as raised:
        ask({"url": server.url}, "search", "rain")
    assert type(raised.value) is kind
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"<html>", b"[]", b'{"status": "ok"}', b"\xff"])
def test_responses_of_other_servers_are_errors(ask: ClientCaller, server: Server, content: bytes) -> None:
    server.respond((200, {}, content))
    for method, arguments in (("search", ("rain",)), ("embeddings", ("rain",)), ("index", ())):
        with pytest.raises(RaycolError, match="not the response of a raycol endpoint"):
            ask({"url": server.url}, method, *arguments)


def test_embeddings_of_the_wrong_size_are_errors(ask: ClientCaller, server: Server) -> None:
    packed = pack(np.ones((2, 3)), "").model_dump()
    for wrong in ([packed], [[[1.0, 2.0, 3.0]]], [[[1.0, 2.0, 3.0, 4.0], [1.0]]]):
        server.respond((200, {}, {"embeddings": wrong, "dim": 4, "model": None}))
        with pytest.raises(RaycolError, match="not the response of a raycol endpoint"):
            ask({"url": server.url}, "embeddings", "rain")


def test_not_ready_is_not_an_error(ask: ClientCaller, server: Server) -> None:
    server.respond((503, {}, READY))
    assert ask({"url": server.url}, "ready") == Health(
        status="not ready", version=3, shards=ShardCount(total=2, answered=1)
    )
    assert len(server.requests) == 1
    server.respond((503, {}, {"detail": "the gateway is starting", "status": 503}))
    with pytest.raises(RaycolError, match="503: the gateway is starting"):
        ask({"url": server.url}, "ready")


@pytest.mark.parametrize("id_", ["a b", "a/b", "..", ".", "a?b#c", "a%2Fb", "é", "100%", "\n", "//x"])
def test_any_id_arrives_unchanged(ask: ClientCaller, server: Server, id_: str) -> None:
    server.respond((200, {}, DOCUMENT))
    ask({"url": server.url}, "document", id_)
    path = server.requests[0]["path"]
    assert path.startswith("/v1/documents/")
    assert "/" not in path.removeprefix("/v1/documents/")
    assert httpx2.URL(server.url + path).path == f"/v1/documents/{id_}"


@pytest.mark.parametrize(
    ("method", "arguments", "named", "message"),
    [
        ("document", ("",), {}, "id of 0 characters"),
        ("document", ("x" * 1025,), {}, "id of 1025 characters"),
        ("document", ("\ud800",), {}, "is not a valid id"),
        ("search", (), {"queries": "rain"}, "queries is a string, 'rain'; expected a list"),
        ("search", ("rain",), {"ids": "a"}, "ids is a string"),
        ("rerank", ("rain",), {"documents": "x"}, "documents is a string"),
        ("search", ("\ud800",), {}, "query: invalid text: it contains a lone surrogate"),
        ("search", ("rain",), {"ids": ["a", "b\udfff"]}, "ids: invalid text: it contains a lone surrogate"),
        ("search", (), {"embeddings": np.ones((3, 4))}, r"embeddings 0: an array of shape \(4,\); expected \[tokens"),
        ("search", (), {"embeddings": [np.full((1, 4), np.nan)]}, "embeddings 0: values are not finite"),
        ("search", (), {"embeddings": [np.full((1, 4), 1e300)]}, "not finite in float32"),
        ("search", (), {"embeddings": [["x"]]}, "embeddings 0: not an array of numbers"),
        ("search", (), {"embeddings": [np.ones((0, 4))]}, "greater than or equal to 1"),
        ("search", (), {"embeddings": [np.ones((9000, 4))]}, "less than or equal to 8192"),
    ],
)
def test_invalid_arguments_are_rejected_before_sending(
    ask: ClientCaller, server: Server, method: str, arguments: tuple, named: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ask({"url": server.url}, method, *arguments, **named)
    assert server.requests == []


@pytest.mark.parametrize("kind", [raycol.Client, raycol.AsyncClient])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "is not a URL of an endpoint; expected one such as http://127.0.0.1:8000"),
        ({"url": "ftp://host"}, "is not a URL of an endpoint"),
        ({"url": "http://"}, "is not a URL of an endpoint"),
        ({"url": "http://host:99999"}, "is not a URL of an endpoint"),
        ({"url": "http://ho\nst"}, "is not a URL of an endpoint"),
        ({"url": "http://a..b"}, "is not a URL of an endpoint"),
        ({"url": "http://name:secret@host"}, "user name or password in the URL"),
        ({"url": "http://host", "timeout_s": 0}, "timeout_s is 0"),
        ({"url": "http://host", "timeout_s": float("nan")}, "timeout_s is nan"),
        ({"url": "http://host", "retries": -1}, "retries is -1"),
        ({"url": "http://host", "api_key": "secret\nx: y"}, "has invalid characters"),
        ({"url": "http://host", "api_key": "secrèt"}, "has invalid characters"),
    ],
)
def test_invalid_settings_are_rejected(kind: Callable[..., Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        kind(**settings)
    assert "secr" not in str(raised.value)


def test_a_url_prefix_is_kept(ask: ClientCaller, server: Server) -> None:
    for prefix in ("/search", "/search/"):
        ask({"url": server.url + prefix}, "search", "rain")
        assert server.requests[-1]["path"] == "/search/v1/search"


@pytest.mark.sockets
def test_an_unreachable_endpoint_is_an_error(ask: ClientCaller) -> None:
    with pytest.raises(RaycolError, match=r"http://127.0.0.1:9: no response .*; is the endpoint running"):
        ask({"url": "http://127.0.0.1:9"}, "index")
    assert len(ask.waits) == 4


def test_search_endpoint_searches(server: Server) -> None:
    ((hit,),) = search(SearchConfig(target=server.url, queries=["rain"], k=1))
    assert (hit.id, hit.metadata) == ("a", {"year": 1999})
    assert search_endpoint(server.url, ["rain"], k=2).version == 3
    assert json.loads(server.requests[-1]["body"])["k"] == 2


def test_check_health(server: Server) -> None:
    server.respond((200, {}, {"status": "ok"}))
    check_health(server.url)
    server.respond((404, {}, {"detail": "nothing here"}))
    with pytest.raises(RaycolError, match="nothing here; does Serve listen on another port"):
        check_health(server.url, wait_s=0)


@pytest.mark.slow
def test_a_client_needs_neither_ray_nor_torch() -> None:
    code = "import raycol, sys; raycol.Client, raycol.AsyncClient; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_client_is_thread_safe(server: Server) -> None:
    server.respond((200, {}, SWITCHED))
    answers: list[VersionResponse] = []
    with raycol.Client(server.url) as client:
        threads = [
            threading.Thread(target=lambda n=n: answers.append(client.set_version(n)))  # type: ignore[misc]
            for n in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(answers) == 8
    assert {json.loads(request["body"])["version"] for request in server.requests} == set(range(1, 9))


@contextmanager
def hangs_up() -> Iterator[tuple[str, list[int]]]:
    """A server that reads what it is sent, says nothing, and closes; and how often it did."""
    count = [0]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            count[0] += 1

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", count
        finally:
            server.shutdown()
            thread.join(10)
