"""An endpoint on Ray Serve behind HAProxy: malformed bytes, slow clients, its log and its listening sockets.

Well-formed requests are tested without Ray, in test_hostile.py and test_serving.py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from tests.serving.checked_client import CheckedClient
from tests.serving.on_serve import OnServe

pytestmark = pytest.mark.slow


class Served(CheckedClient):
    """Sends raw bytes to the endpoint."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def exchange(self, *parts: bytes, wait_s: float = 20.0) -> bytes:
        """Send bytes and return everything received until the peer closes the connection."""
        with socket.create_connection(self.address, timeout=wait_s) as connection:
            received = b""
            try:
                for part in parts:
                    connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                pass  # rejected before all of it was sent
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
        """The bytes of a request with a key; the last one closes the connection."""
        lines = [b"Host: here", b"Authorization: Bearer " + self.keys["read"].encode(), *headers]
        if body:
            lines.append(b"Content-Type: application/json")
        if body and length:
            lines.append(b"Content-Length: %d" % len(body))
        if last:
            lines.append(b"Connection: close")
        return b"%s %s %s\r\n" % (method, path, version) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def statuses(received: bytes) -> list[int]:
    """The statuses of the received responses. No body contains a status line."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]


@pytest.fixture(scope="module")
def served(on_serve: OnServe) -> Iterator[Served]:
    with httpx2.Client(base_url=on_serve.url, timeout=40, trust_env=False) as client:
        yield Served(on_serve.url, client, on_serve.folder, on_serve.keys)


@pytest.fixture(autouse=True)
def _alive_afterwards(served: Served) -> Iterator[None]:
    yield
    served.check_alive()


SEARCH = b'{"query": "rain", "k": 1}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SEARCH), SEARCH)


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
    # If the connection was closed while we were sending, the response may be lost.
    assert statuses(received) in ([413], [])


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


def test_docs_leads_to_the_page_that_describes_the_api(served: Served) -> None:
    received = served.exchange(served.request(path=b"/docs"))
    assert statuses(received) == [307]
    assert b"\r\nlocation: api.html\r\n" in received


@pytest.mark.parametrize(
    ("given", "kept"), [(b"abc-1", True), (b"a b<c>", False), (b"a" * 65, False), ("é".encode(), False), (b"", False)]
)
def test_a_response_has_one_request_id(served: Served, given: bytes, kept: bool) -> None:
    for path in (b"/v1/index", b"/nothing", b"/healthz"):
        head = served.exchange(served.request(path=path, headers=(b"X-Request-Id: " + given,))).split(b"\r\n\r\n")[0]
        (name,) = [line[14:] for line in head.lower().split(b"\r\n") if line.startswith(b"x-request-id: ")]
        assert (name == given) == kept
        assert name.isalnum() or kept


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ((b"Transfer-Encoding: chunked",), CHUNKED, [200]),
        ((b"Transfer-Encoding:\tchunked",), CHUNKED, [200]),
        ((b"Transfer-Encoding: chunked",), b"zz\r\n" + SEARCH, [400]),
        ((b"Transfer-Encoding: chunked",), b"FFFFFFFFFFFFFFFFF\r\n" + SEARCH, [400]),
        ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), CHUNKED, [400]),
        ((b"Transfer-Encoding: gzip, chunked",), CHUNKED, [422]),
        # Bytes after the last chunk must not be parsed as another request.
        ((b"Content-Length: 100", b"Transfer-Encoding: chunked"), b"0\r\n\r\nGET /v1/index HTTP/1.1\r\n\r\n", [422]),
        ((b"Content-Length: 5", b"Content-Length: 5, 6"), SEARCH, [400]),
    ],
)
def test_smuggled_requests(served: Served, headers: tuple[bytes, ...], body: bytes, expected: list[int]) -> None:
    received = served.exchange(served.request(b"POST", b"/v1/search", headers, body, length=False))
    assert statuses(received) == expected


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
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
def test_malformed_requests(served: Served, sent: bytes, expected: set[int]) -> None:
    assert set(statuses(served.exchange(sent))) <= expected


def test_http_1_0(served: Served) -> None:
    received = served.exchange(served.request(b"POST", b"/v1/search", body=SEARCH, version=b"HTTP/1.0", last=False))
    assert statuses(received) == [200]


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


def test_encoded_admin_paths_need_an_admin_key(served: Served) -> None:
    for path in (b"/v1/admin/version", b"/v1/%61dmin/version", b"/v1/admin/%76ersion"):
        received = served.exchange(served.request(b"POST", path, body=b'{"version": null}'))
        assert statuses(received) == [403]


def test_slow_clients_do_not_block_others(served: Served) -> None:
    """120 connections that trickle headers or bodies are all closed in time."""
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


# Log


def test_each_request_is_logged(served: Served) -> None:
    import ray

    name = "one-to-look-for"
    assert served.ask("GET", "/v1/index", **{"x-request-id": name}).status_code == 200
    logs = Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"
    deadline = time.monotonic() + 20
    while not (found := [line for log in logs.glob("*gateway*") for line in log.read_text().splitlines()
                         if name in line]):  # fmt: skip
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (line,) = found
    entry = json.loads(line[line.index("{") :])
    assert (entry["request"], entry["method"], entry["path"], entry["status"]) == (name, "GET", "/v1/index", 200)
    assert entry["ms"] > 0


# Listening sockets and file permissions


def test_everything_listens_on_loopback(served: Served) -> None:
    """All processes of the endpoint: Ray's servers, HAProxy's pages, the replicas."""
    listening = [
        (connection.laddr.ip, connection.laddr.port, process.name())
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {port for _, port, _ in listening}
    pages = {int(os.environ[f"RAY_SERVE_HAPROXY_{page}_PORT"]) for page in ("STATS", "METRICS")}
    assert int(served.url.rsplit(":", 1)[1]) in ports
    assert pages <= ports
    assert [where for where in listening if not _is_loopback(where[0])] == []


def test_another_user_cannot_control_haproxy(served: Served) -> None:
    folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    (admin,) = folder.glob("*/admin.sock")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(admin))
        connection.sendall(b"show info\n")
        assert b"HAProxy" in connection.recv(1 << 16)
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    look = (
        "import os, socket, sys\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "for look in (lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]), lambda: open(sys.argv[2]),\n"
        "             lambda: open(sys.argv[2], 'w')):\n"
        "    try:\n"
        "        look()\n"
        "    except PermissionError:\n"
        "        print('closed')\n"
    )
    command = [sys.executable, "-S", "-c", look, str(admin), str(admin.with_name("haproxy.cfg"))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.split() == ["closed"] * 3, result.stderr


def _is_loopback(ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
