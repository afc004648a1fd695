"""The middleware around a small ASGI application, without Ray."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request

from raycol.client.schema import MAX_BODY_BYTES, Problem
from raycol.errors import IndexCorruptError, InputError
from raycol.serving import gateway, metrics
from raycol.serving.http import middleware as guard
from raycol.serving.http.headers import HeaderMiddleware
from raycol.serving.http.middleware import REQUEST_ID, Guard, GuardSettings, Hosts
from raycol.serving.shard_calls import UnavailableError

KEYS = {"r3ad": "read", "adm1n": "admin"}
OPERATIONS = [(method.upper(), path) for path, item in gateway.api.openapi()["paths"].items() for method in item]
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz")}
GUARDED = [operation for operation in OPERATIONS if operation not in PUBLIC]
PAGE = [("Origin", "https://page.example")]
ASKING = [*PAGE, ("Access-Control-Request-Method", "POST")]
NO_KEYS: list[str | bytes | None] = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong",
    "Bearer r3ad x",
    "Bearer r3ad\x00",
    "Basic r3ad",
    "r3ad",
    b"Bearer \xe9\xff",
    b"\xff",
    b"Bearer " + b"a" * 100_000,
]


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        (value,) = [value.decode() for header, value in self.headers if header == name.encode()] or [None]
        return value

    @property
    def problem(self) -> Problem:
        assert self.header("content-type") == "application/problem+json"
        assert int(self.header("content-length") or 0) == len(self.body)
        return Problem.model_validate_json(self.body)


class Inner:
    """An application that echoes the request id and body size; `hold` blocks it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.hold: asyncio.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"])
        if self.hold:
            await self.hold.wait()
        if scope["path"] == "/broken":
            raise RuntimeError("secret of the machine")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/half":
            raise RuntimeError("secret of the machine")
        await send({"type": "http.response.body", "body": f"{REQUEST_ID.get()} {len(self.bodies[-1])}".encode()})


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardSettings]:
    """No keys and four concurrent requests; checks that nothing is in flight afterwards."""
    settings = GuardSettings(4)
    monkeypatch.setattr(Guard, "settings", settings)
    yield settings
    assert (settings.in_flight, settings.incoming_bytes) == (0, 0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, on a logger of our own: Serve may have reconfigured its logger."""
    monkeypatch.setattr(guard, "log", logging.getLogger("tests.guard"))
    caplog.set_level(logging.INFO, "tests.guard")
    return caplog


async def never() -> Any:
    raise AssertionError("the body was asked for")


def body_of(chunks: Iterable[bytes]) -> Callable[[], Awaitable[Any]]:
    """An ASGI `receive` that returns a body, then blocks."""
    parts = list(chunks)

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    return receive


async def ask(
    app: Any,
    method: str = "GET",
    path: str = "/v1/index",
    headers: Iterable[tuple[str, str | bytes]] = (),
    body: Callable[[], Awaitable[Any]] | None = None,
    **scope: Any,
) -> Answer:
    answer = Answer()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], message["headers"]
        else:
            answer.body += message["body"]

    encoded = [(name.lower().encode(), v.encode() if isinstance(v, str) else v) for name, v in headers]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "root_path": "", **scope}
    await app(scope, body or body_of([b""]), send)
    return answer


def bearer(key: str | bytes) -> list[tuple[str, str | bytes]]:
    return [("Authorization", b"Bearer " + (key.encode() if isinstance(key, str) else key))]


def reveals_nothing(answer: Answer) -> bool:
    """Whether the response has only fixed text and the request id."""
    problem = answer.problem
    details = {
        "missing or unknown API key; send one as 'Authorization: Bearer KEY'",
        "this path needs a key of scope admin",
    }
    return problem.detail in details and set(json.loads(answer.body)) == set(Problem.model_fields)


@pytest.fixture
def keyed(settings: GuardSettings) -> GuardSettings:
    """With one key per scope."""
    settings.scope_of = lambda key: KEYS.get(key or "")
    return settings


@pytest.mark.parametrize("value", NO_KEYS, ids=lambda value: str(value)[:20])
def test_every_guarded_path_needs_a_key(inner: Inner, keyed: GuardSettings, value: str | bytes | None) -> None:
    others = [("GET", "/openapi.json"), ("GET", "/nothing"), ("DELETE", "/v1/index")]
    others += [("POST", "/healthz"), ("OPTIONS", "/v1/search"), ("TRACE", "/"), ("GET", "/healthz/")]
    headers = [] if value is None else [("Authorization", value)]
    for method, path in GUARDED + others:
        answer = asyncio.run(ask(Guard(inner), method, path, headers, never))
        assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
        assert reveals_nothing(answer)
    assert not inner.bodies


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_each_scope_allows_its_paths(inner: Inner, keyed: GuardSettings, method: str, path: str) -> None:
    admin = path.startswith("/v1/admin/")
    assert admin == (path == "/v1/admin/version")
    assert asyncio.run(ask(Guard(inner), method, path, bearer("adm1n"))).status == 200
    body = never if admin else None
    answer = asyncio.run(ask(Guard(inner), method, path, bearer("r3ad"), body))
    assert answer.status == (403 if admin else 200)
    assert not admin or reveals_nothing(answer)


def test_a_mount_point_does_not_change_access(inner: Inner, keyed: GuardSettings) -> None:
    mounted = {"root_path": "/search"}
    answer = asyncio.run(ask(Guard(inner), "POST", "/search/v1/admin/version", bearer("r3ad"), never, **mounted))
    assert answer.status == 403
    assert asyncio.run(ask(Guard(inner), "GET", "/search/healthz", **mounted)).status == 200
    assert asyncio.run(ask(Guard(inner), "GET", "/search/v1/index", body=never, **mounted)).status == 401
    answer = asyncio.run(ask(Guard(inner), "GET", "/healthz/v1/index", body=never, root_path="/healthz"))
    assert answer.status == 401


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/docs", "/healthz", "/readyz"])
def test_page_and_health_checks_need_no_key(inner: Inner, keyed: GuardSettings, path: str) -> None:
    assert asyncio.run(ask(Guard(inner), "GET", path)).status == 200
    assert asyncio.run(ask(Guard(inner), "HEAD", path)).status == 200
    assert asyncio.run(ask(Guard(inner), "POST", path, body=never)).status == 401


def test_the_authorization_scheme_is_case_insensitive(inner: Inner, keyed: GuardSettings) -> None:
    assert asyncio.run(ask(Guard(inner), headers=[("Authorization", "bEARER  r3ad ")])).status == 200


def test_no_origin_is_allowed_by_default(inner: Inner, keyed: GuardSettings) -> None:
    for headers in (PAGE, [("Origin", "null")], [("Origin", "")], [("Origin", b"\xff")]):
        answer = asyncio.run(ask(Guard(inner), headers=[*bearer("r3ad"), *headers]))
        assert answer.status == 200
        assert not [name for name, _ in answer.headers if name.startswith(b"access-control")]
    answer = asyncio.run(ask(Guard(inner), "OPTIONS", "/v1/search", ASKING, never))
    assert answer.status == 401
    assert not [name for name, _ in answer.headers if name.startswith(b"access-control")]


def test_listed_origins_are_allowed(inner: Inner, keyed: GuardSettings) -> None:
    keyed.cors = frozenset({"https://page.example"})
    before = asyncio.run(ask(Guard(inner), "OPTIONS", "/v1/search", ASKING, never))
    assert (before.status, before.body) == (200, b"OK")
    assert before.header("access-control-allow-origin") == "https://page.example"
    assert "authorization" in (before.header("access-control-allow-headers") or "").split(", ")
    for headers, status in ((bearer("r3ad"), 200), ([], 401)):
        answer = asyncio.run(ask(Guard(inner), headers=[*PAGE, *headers]))
        assert answer.status == status
        assert answer.header("access-control-allow-origin") == "https://page.example"
        assert answer.header("vary") == "Origin"
    for other in ("https://page.example.evil", "http://page.example", "https://PAGE.example", "null", "*"):
        answer = asyncio.run(ask(Guard(inner), "OPTIONS", "/v1/search", [("Origin", other)], never))
        assert (answer.status, answer.header("access-control-allow-origin")) == (401, None)
        # A cache must not return one origin's response to another.
        assert answer.header("vary") == "Origin"


def test_a_page_can_read_why_its_request_is_rejected(inner: Inner, settings: GuardSettings) -> None:
    settings.cors = frozenset({"https://page.example"})
    settings.hosts = Hosts(None)
    settings.max_requests = 0
    rejected = [
        (403, ask(Guard(inner), headers=[*PAGE, ("Host", "attacker.example")])),
        (413, ask(Guard(inner), "POST", "/", [*PAGE, ("Content-Length", "9999999")])),
        (429, ask(Guard(inner), headers=PAGE)),
        (500, ask(Guard(inner), path="/broken", headers=PAGE)),
    ]
    for status, request in rejected:
        settings.max_requests = int(status == 500)
        answer = asyncio.run(request)
        assert answer.status == answer.problem.status == status
        assert answer.header("access-control-allow-origin") == "https://page.example"


def test_preflights_of_other_origins_are_refused(inner: Inner, keyed: GuardSettings) -> None:
    keyed.cors = frozenset({"https://page.example"})
    for other in ("https://page.example.evil", "http://page.example", "https://PAGE.example", "null", "*"):
        preflight = [("Origin", other), ("Access-Control-Request-Method", "POST"), ("X-Request-Id", "mine")]
        answer = asyncio.run(ask(Guard(inner), "OPTIONS", "/v1/search", preflight, never))
        assert (answer.status, answer.header("access-control-allow-origin")) == (400, None)
        assert answer.header("x-request-id") == "mine"


def test_requests_over_capacity_get_429(inner: Inner, settings: GuardSettings) -> None:
    async def run() -> None:
        inner.hold = asyncio.Event()
        app = Guard(inner)
        working = [asyncio.ensure_future(ask(app)) for _ in range(4)]
        while len(inner.bodies) < 4:
            await asyncio.sleep(0)
        rejected = await ask(app, "POST", "/v1/search", body=never)
        assert rejected.status == 429
        assert rejected.header("retry-after") == "1"
        assert rejected.problem.status == 429
        working += [asyncio.ensure_future(ask(app, path=path)) for path in ("/healthz", "/readyz", "/metrics")]
        while len(inner.bodies) < 7:
            await asyncio.sleep(0)
        inner.hold.set()
        assert [answer.status for answer in await asyncio.gather(*working)] == 7 * [200]
        assert (await ask(app)).status == 200

    asyncio.run(run())


def test_a_response_is_in_flight_until_it_is_read(settings: GuardSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one chunk is buffered for a client that does not read."""
    content = bytes(range(256)) * 8192

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    async def run() -> None:
        received, buffered, resume = bytearray(), 0, asyncio.Event()

        async def send(message: Any) -> None:
            nonlocal buffered
            buffered = max(buffered, len(message.get("body", b"")))
            await resume.wait()
            received.extend(message.get("body", b""))

        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": [], "root_path": ""}
        working = asyncio.ensure_future(Guard(large)(scope, body_of([b""]), send))
        for _ in range(20):
            await asyncio.sleep(0)
        assert settings.in_flight == 1
        resume.set()
        await working
        assert bytes(received) == content
        assert buffered <= len(content) / 4

        resume.clear()
        monkeypatch.setattr(guard, "_SEND_S", 0.0)
        monkeypatch.setattr(guard, "_SEND_BYTES_PER_S", 100 * len(content))
        begun = asyncio.Event()

        async def stop_reading(message: Any) -> None:
            if "body" in message:
                begun.set()
                await resume.wait()

        with pytest.raises(TimeoutError):
            await Guard(large)(scope, body_of([b""]), stop_reading)
        assert begun.is_set()

    asyncio.run(run())


@pytest.mark.slow
def test_slow_bodies_use_no_capacity(inner: Inner, settings: GuardSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 1.5)

    async def trickle() -> Any:
        await asyncio.sleep(0.1)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def run() -> None:
        app = Guard(inner)
        slow = [asyncio.ensure_future(ask(app, "POST", "/v1/search", body=trickle)) for _ in range(1000)]
        await asyncio.sleep(0.05)
        for _ in range(20):
            assert (await ask(app, "POST", "/v1/search", body=body_of([b"a", b"b"]))).status == 200
        for answer in await asyncio.gather(*slow):
            assert answer.status == 408
            assert answer.header("connection") == "close"
            assert answer.problem.status == 408

    asyncio.run(run())


@pytest.mark.slow
def test_large_bodies_share_a_limit_and_small_ones_are_exempt(
    inner: Inner, settings: GuardSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_LARGE_BYTES", 3 << 20)
    monkeypatch.setattr(guard, "BODY_S", 1.5)
    megabyte = b"a" * (1 << 20)

    async def run() -> None:
        app = Guard(inner)
        stuck = [asyncio.ensure_future(ask(app, "POST", body=stalled([megabyte]))) for _ in range(3)]
        await asyncio.sleep(0.05)
        rejected = await ask(app, "POST", body=body_of([megabyte, megabyte, b"b"]))
        assert (rejected.status, rejected.header("retry-after")) == (429, "1")
        assert (await ask(app, "POST", body=body_of([b"a" * 30_000, b"b" * 30_000]))).status == 200
        assert [answer.status for answer in await asyncio.gather(*stuck)] == 3 * [408]
        assert (await ask(app, "POST", body=body_of([megabyte, megabyte, b"b"]))).status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("Content-Length", "10000000")], body_of([b"a" * 100_000] * 100)),
        ([("Content-Length", "9" * 5000)], body_of([b"a"])),
        ([], body_of([b"a" * 100_000] * 100)),
        ([("Content-Length", "3")], body_of([b"a" * 100_000] * 100)),
        ([("Content-Length", "-1")], body_of([b"a" * 100_000] * 100)),
        pytest.param([("Content-Length", b"\xb2")], body_of([b"a" * 10_000_000]), marks=pytest.mark.slow),
    ],
)
def test_too_large_bodies_are_rejected(inner: Inner, settings: GuardSettings, headers: Any, body: Any) -> None:
    answer = asyncio.run(ask(Guard(inner), "POST", "/v1/search", headers, body))
    assert (answer.status, answer.header("connection")) == (413, "close")
    assert str(MAX_BODY_BYTES) in answer.problem.detail
    assert not inner.bodies


@pytest.mark.parametrize(
    ("bytes_s", "n_read"),
    [
        pytest.param(1e9, guard._LINGER_BYTES, id="quick"),
        pytest.param(1e6, 1e6 * guard._LINGER_S, id="slow", marks=pytest.mark.slow),
    ],
)
def test_the_rest_of_a_rejected_body_is_read_for_a_while(
    settings: GuardSettings, bytes_s: float, n_read: float
) -> None:
    # Closing at once would reset the connection before the client reads the response.
    chunk = b"a" * 500_000
    happened: list[str] = []

    async def receive() -> Any:
        await asyncio.sleep(len(chunk) / bytes_s)
        happened.append("received")
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        happened.append("ended" if message.get("body") == b"" else message["type"])

    scope = {"type": "http", "method": "POST", "path": "/v1/search", "root_path": ""}
    asyncio.run(Guard(Inner())({**scope, "headers": [(b"content-length", b"99999999999")]}, receive, send))
    assert happened[:2] == ["http.response.start", "http.response.body"]
    assert happened[-1] == "ended"
    assert happened.count("received") * len(chunk) == pytest.approx(n_read, rel=0.6)


def test_the_largest_body_is_read(inner: Inner, settings: GuardSettings) -> None:
    chunks = [b"a" * (MAX_BODY_BYTES // 2)] * 2
    answer = asyncio.run(
        ask(Guard(inner), "POST", "/v1/search", [("Content-Length", str(MAX_BODY_BYTES))], body_of(chunks))
    )
    assert answer.body.split()[1] == str(MAX_BODY_BYTES).encode()


def test_a_disconnected_client_gets_no_response(inner: Inner, settings: GuardSettings) -> None:
    messages = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    assert asyncio.run(ask(Guard(inner), "POST", body=receive)) == Answer()
    assert not inner.bodies


@pytest.mark.parametrize("given", ["abc-1", "A.b_c", "a" * 64])
def test_valid_request_ids_are_kept(inner: Inner, settings: GuardSettings, given: str) -> None:
    answer = asyncio.run(ask(Guard(inner), headers=[("X-Request-Id", given)]))
    assert answer.header("x-request-id") == given
    assert answer.body.split()[0] == given.encode()


@pytest.mark.parametrize("given", [None, "", "a b", "a" * 65, "é", b"\xff", "a\r\nx: y", '"<script>', "a\n"])
def test_invalid_request_ids_are_replaced(inner: Inner, settings: GuardSettings, given: Any) -> None:
    headers = [] if given is None else [("X-Request-Id", given)]
    names = {asyncio.run(ask(Guard(inner), headers=headers)).header("x-request-id") for _ in range(3)}
    assert len(names) == 3
    assert all(name and name.isalnum() and len(name) == 16 for name in names)


@pytest.mark.slow
def test_every_response_has_the_request_id(
    inner: Inner, keyed: GuardSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.01)
    name = [("X-Request-Id", "mine")]
    asked = [
        (200, ask(Guard(inner), headers=[*name, *bearer("r3ad")])),
        (401, ask(Guard(inner), headers=name)),
        (403, ask(Guard(inner), "POST", "/v1/admin/version", [*name, *bearer("r3ad")])),
        (408, ask(Guard(inner), "POST", headers=[*name, *bearer("r3ad")], body=stalled([b"a"]))),
        (413, ask(Guard(inner), "POST", headers=[*name, *bearer("r3ad"), ("Content-Length", "9999999")])),
        (500, ask(Guard(inner), path="/broken", headers=[*name, *bearer("r3ad")])),
    ]
    for status, request in asked:
        answer = asyncio.run(request)
        assert (answer.status, answer.header("x-request-id")) == (status, "mine")
        assert status == 200 or answer.problem.request_id == "mine"
    monkeypatch.setattr(Guard, "settings", None)
    answer = asyncio.run(ask(Guard(inner), headers=name, body=never))
    assert (answer.status, answer.header("x-request-id")) == (503, "mine")


def test_internal_errors_reveal_only_the_request_id(
    inner: Inner, settings: GuardSettings, log: pytest.LogCaptureFixture
) -> None:
    answer = asyncio.run(ask(Guard(inner), path="/broken"))
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "secret of the machine" in log.text
    assert answer.problem.request_id in log.text
    # A started response cannot be replaced.
    with pytest.raises(RuntimeError):
        asyncio.run(ask(Guard(inner), path="/half"))


def test_clients_cannot_create_time_series(inner: Inner, settings: GuardSettings) -> None:
    def series() -> int:
        return sum(not line.startswith(b"#") for line in metrics.exposition("one").splitlines())

    def visit(numbers: range) -> None:
        for number in numbers:
            for path in (f"/made/up/{number}", f"/v1/documents/{number}", f"/v1/index?x={number}"):
                asyncio.run(ask(Guard(inner), f"M{number}", path, [("X-Request-Id", f"id{number}")]))

    visit(range(1))
    before = series()
    visit(range(1, 50))
    assert series() == before


def test_log_entries_are_one_line(inner: Inner, settings: GuardSettings, log: pytest.LogCaptureFixture) -> None:
    asyncio.run(ask(Guard(inner), path='/a\r\n"status": 200\x1b[31m' + "a" * 10_000))
    (line,) = [record.getMessage() for record in log.records]
    assert len(line) < 500
    assert line.isprintable()
    assert json.loads(line)["status"] == 200


@pytest.mark.parametrize(
    ("bound", "host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:8000", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LocalHost.:8000", True),
        ("127.0.0.1", "[::1]:8000", True),
        ("127.0.0.1", "127.0.0.2:8000", True),
        ("127.0.0.1", "search.example", True),
        ("127.0.0.1", "attacker.example:8000", False),
        ("127.0.0.1", "127.0.0.1.attacker.example", False),
        ("127.0.0.1", "localhost.attacker.example", False),
        ("127.0.0.1", "192.0.2.7", False),
        ("127.0.0.1", "127.0.0.1@attacker.example", False),
        ("127.0.0.1", "[::1].attacker.example", False),
        ("127.0.0.1", "é", False),
        ("192.0.2.7", "192.0.2.7:8000", True),
        ("192.0.2.7", "attacker.example", False),
        ("0.0.0.0", "192.0.2.7:8000", True),
        ("0.0.0.0", "[2001:db8::1]", True),
        ("0.0.0.0", "attacker.example", False),
        ("::", "192.0.2.7", True),
        (None, "192.0.2.7", True),
        (None, "attacker.example", False),
    ],
)
def test_without_keys_only_own_host_names_are_allowed(
    inner: Inner, settings: GuardSettings, bound: str | None, host: str, allowed: bool
) -> None:
    """DNS rebinding: the `Host` header is the attacker's name."""
    settings.hosts = Hosts(bound, ("search.example",))
    for path in ("/v1/index", "/v1/search", "/v1/admin/version", "/metrics", "/"):
        answer = asyncio.run(ask(Guard(inner), path=path, headers=[("Host", host)]))
        assert answer.status == (200 if allowed else 403), path
        assert allowed or "allowed_hosts" in answer.problem.detail
    assert asyncio.run(ask(Guard(inner), path="/healthz", headers=[("Host", host)])).status == 200
    assert len(inner.bodies) == (6 if allowed else 1)


def test_without_keys_cross_origin_admin_requests_are_rejected(inner: Inner, settings: GuardSettings) -> None:
    """Browsers send text/plain bodies without a preflight."""

    def status(origin: str) -> int:
        headers = [("Host", "localhost:8000"), ("Origin", origin), ("Content-Type", "text/plain")]
        return asyncio.run(ask(Guard(inner), "POST", "/v1/admin/version", headers)).status

    assert status("https://page.example") == 403
    assert status("null") == 403
    assert status("http://localhost:8000") == 200
    settings.cors = frozenset({"https://page.example"})
    assert status("https://page.example") == 200


# `HeaderMiddleware` runs in front of Serve, which reads headers before the gateway.


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Like Serve: decode headers as UTF-8, and add the request id to the response."""
    headers = dict(scope["headers"])
    [value.decode("utf-8") for name, value in headers.items() if name != b"x-other"]
    name = (b"X-Request-ID", headers[b"x-request-id"])
    await send({"type": "http.response.start", "status": 200, "headers": [name, (b"x-request-id", b"inner")]})
    await send({"type": "http.response.body", "body": json.dumps(sorted(name.decode() for name in headers)).encode()})


@pytest.mark.parametrize(
    "name",
    [
        "x-request-id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "x-session-id",
        "X_Session_Id",
        "serve_multiplexed_model_id",
        "Serve-Multiplexed-Model-Id",
        "traceparent",
        "tracestate",
    ],
)
def test_invalid_headers_do_not_fail_serve(name: str) -> None:
    answer = asyncio.run(ask(HeaderMiddleware(echo), headers=[(name, b"\xe9\xff"), ("x-other", b"\xff")]))
    assert answer.status == 200
    assert json.loads(answer.body) == ["x-other", "x-request-id"]


def test_clients_cannot_set_serve_timeouts() -> None:
    headers = [("X-Request-Timeout-Seconds", "0.001"), ("X-Request-Disconnect-Disabled", "?1"), ("Accept", "*/*")]
    answer = asyncio.run(ask(HeaderMiddleware(echo), headers=headers))
    assert json.loads(answer.body) == ["accept", "x-request-id"]


def test_a_response_has_one_request_id() -> None:
    answer = asyncio.run(ask(HeaderMiddleware(echo), headers=[("X-Request-Id", "mine")]))
    assert answer.header("x-request-id") == "mine"
    answer = asyncio.run(ask(HeaderMiddleware(echo), headers=[("X-Request-Id", "a"), ("X-Request-Id", "b c")]))
    assert len(answer.header("x-request-id") or "") == 16


@pytest.mark.parametrize("given", [[], ["mine"], ["a", "b"], ["a", "b c"], [b"\xe9\xff"]])
def test_serve_sees_one_request_id(given: list[str | bytes]) -> None:
    seen: list[bytes] = []

    async def record(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")

    asyncio.run(ask(HeaderMiddleware(record), headers=[("X-Request-Id", value) for value in given]))
    (value,) = seen
    assert value.isalnum()


@pytest.mark.parametrize(
    ("handler", "error", "status", "detail"),
    [
        (gateway.input_error, InputError("filter: no column 'x'"), 422, "filter: no column 'x'"),
        (gateway.unavailable_error, UnavailableError("1 of 2 shards answered in time"), 503, "1 of 2 shards"),
        (gateway.raycol_error, IndexCorruptError("/srv/index: damaged"), 503, "cannot be read or written"),
    ],
)
def test_errors_are_problems(handler: Any, error: Exception, status: int, detail: str) -> None:
    answer = asyncio.run(handler(Request({"type": "http"}), error))
    assert answer.status_code == status
    problem = Problem.model_validate_json(answer.body)
    assert detail in problem.detail
    assert "/srv" not in problem.detail
    assert ("retry-after" in answer.headers) == isinstance(error, UnavailableError)


def stalled(chunks: list[bytes]) -> Callable[[], Awaitable[Any]]:
    """An ASGI `receive` that returns the start of a body, then blocks."""
    parts = list(chunks)

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": True}

    return receive
