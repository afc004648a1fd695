"""An S3 server on loopback, which can be told to fail.

Skips the tests that ask for it where moto is not installed (it is in the extra `dev`).
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

Answer = Iterable[bytes]
Request = dict[str, Any]
# Looks at a request and its passing on; returns an answer, or None to let it pass.
Fault = Callable[[Request, Callable[..., Any]], Answer | None]


class Server:
    """The server: `address`, `requests` as (method, path), and `fault`, asked before each."""

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

    def _serve(self, request: Request, start: Callable[..., Any]) -> Answer:
        self.requests.append((request["REQUEST_METHOD"], request["PATH_INFO"]))
        answer = self.fault(request, start) if self.fault else None
        return self._app(request, start) if answer is None else answer

    def passed_on(self, request: Request) -> None:
        """Carry a request out, and throw its answer away."""
        list(self._app(request, lambda *_: None))

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Fail in this way for a while."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def stop(self) -> None:
        """Be gone."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()


def refused(start: Callable[..., Any], status: str, code: str) -> Answer:
    """An error as S3 says it."""
    start(status, [("Content-Type", "application/xml")])
    return [f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}, it says</Message></Error>'.encode()]


def denied(request: Request, start: Callable[..., Any]) -> Answer:
    """No permission for anything."""
    return refused(start, "403 Forbidden", "AccessDenied")


def make_bucket(name: str) -> None:
    """In the server that the environment names."""
    import pyarrow.fs as pafs

    system, _ = pafs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    system.create_dir(name)


def put(uri: str, content: bytes) -> None:
    """An object, whatever raycol thinks of it."""
    import pyarrow.fs as pafs

    system, path = pafs.FileSystem.from_uri(uri)
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def listed(uri: str) -> dict[str, int]:
    """Objects under a prefix, by name: their bytes."""
    import pyarrow.fs as pafs

    system, path = pafs.FileSystem.from_uri(uri)
    infos = system.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{path}/"): info.size for info in infos if info.type == pafs.FileType.File}
