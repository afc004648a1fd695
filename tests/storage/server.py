"""A local S3 server with fault injection.

Tests that use it are skipped if moto is not installed (extra `dev`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "an-access-key",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}

Response = Iterable[bytes]
Request = dict[str, Any]
# Takes a request and WSGI's start_response; returns a response, or None to pass the request on.
Fault = Callable[[Request, Callable[..., Any]], Response | None]


class Server:
    """The server at `address`. `requests` logs (method, path); `fault` is called before each request."""

    def __init__(self) -> None:
        pytest.importorskip("moto", reason="needs the S3 server of moto: pip install 'raycol[dev]'")
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.port}"
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []

    def _serve(self, request: Request, start: Callable[..., Any]) -> Response:
        self.requests.append((request["REQUEST_METHOD"], request["PATH_INFO"]))
        response = self.fault(request, start) if self.fault else None
        return self._app(request, start) if response is None else response

    def carry_out(self, request: Request) -> None:
        """Carry out a request and discard its response."""
        list(self._app(request, lambda *_: None))

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Inject a fault while the block runs."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def stop(self) -> None:
        """Stop the server."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()


def refused(start: Callable[..., Any], status: str, code: str) -> Response:
    """Respond with an S3 error."""
    start(status, [("Content-Type", "application/xml")])
    return [f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()]


def denied(request: Request, start: Callable[..., Any]) -> Response:
    """Deny any request."""
    return refused(start, "403 Forbidden", "AccessDenied")


def make_bucket(name: str) -> None:
    """Create a bucket in the server that the environment names."""
    import pyarrow.fs as pafs

    system, _ = pafs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    system.create_dir(name)


def put(uri: str, content: bytes) -> None:
    """Write an object, bypassing raycol."""
    import pyarrow.fs as pafs

    system, path = pafs.FileSystem.from_uri(uri)
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def listed(uri: str) -> dict[str, int]:
    """Sizes in bytes of the objects under a prefix, by name."""
    import pyarrow.fs as pafs

    system, path = pafs.FileSystem.from_uri(uri)
    infos = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{path}/"): info.size for info in infos if info.type == pafs.FileType.File}
