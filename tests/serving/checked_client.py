"""A test client of an endpoint with keys that checks invariants of every response."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx2

from raycol.client.schema import Problem, SearchResponse
from raycol.serving.config import ServeConfig
from raycol.serving.keys import new_key
from tests.conftest import make_passages
from tests.serving.indexes import index_of_texts

# 503 is documented, but occurs only for a failing endpoint or a client with a tiny time limit.
STATUSES = {200, 400, 401, 403, 404, 405, 408, 413, 422, 429}


class CheckedClient:
    """Sends requests to an endpoint and checks every response."""

    def __init__(self, url: str, client: httpx2.Client, folder: Path, keys: dict[str, str]) -> None:
        self.url, self.client, self.folder, self.keys = url, client, folder, keys

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
        """Check the invariants of every response."""
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
        """Check that a text reveals no local paths, tracebacks or keys."""
        for secret in ("root:", "Traceback", 'File "', str(self.folder), "site-packages", *self.keys.values()):
            assert secret not in text

    def check_alive(self) -> None:
        """Check that a normal search still works."""
        answer = SearchResponse.model_validate_json(self.post({"query": "violin and piano", "k": 3}).content)
        assert (len(answer.results[0]), answer.partial) == (3, False)
        assert {hit.metadata["title"] for hit in answer.results[0]} <= {"music", "kitchen", "harbour", "weather"}


def guarded(folder: Path, model: Path) -> tuple[ServeConfig, dict[str, str]]:
    """Config of an endpoint for 80 passages with columns of every type, and a key per scope."""
    passages: list[dict[str, Any]] = [dict(passage) for passage in make_passages(80)]
    for n, passage in enumerate(passages):
        passage |= {"year": 2000 + n % 30, "lang": ["en", "de"][n % 2], "rank": n / 7, "open": n % 3 == 0}
        passage |= {"day": date(2020, 1, n % 28 + 1), "seen": datetime(2020, 1, 31, 12, 0, n % 60, tzinfo=UTC)}
    index = index_of_texts(folder / "index", model, passages)
    file = folder / "keys.json"
    keys = {scope: new_key(file, scope, scope) for scope in ("read", "admin")}
    return ServeConfig(index=index.uri, shards=2, port=0, keys=str(file)), keys
