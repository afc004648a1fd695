"""A fake of the HTTP interface that a cluster's dashboard has for jobs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Dashboard:
    """Jobs, received requests, and submissions by another client."""

    def __init__(self, token: str | None = None) -> None:
        self.token = token
        self.jobs: dict[str, dict] = {}
        self.packages: dict[str, bytes] = {}
        self.requests: list[str] = []
        # Jobs that another client submits just before the next submission arrives.
        self.concurrent: list[dict] = []
        self.address = ""

    def add(self, submission_id: str, status: str, **more: object) -> None:
        self.jobs[submission_id] = {
            "type": "SUBMISSION", "submission_id": submission_id, "status": status, "entrypoint": "x", **more,
        }  # fmt: skip

    @property
    def submitted(self) -> list[str]:
        return [job for job in self.jobs if self.jobs[job].get("submitted")]

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> tuple[int, object]:
        self.requests.append(f"{method} {path}")
        if path == "/api/authentication_mode":
            return 200, {"authentication_mode": "token" if self.token else "disabled"}
        if self.token and authorization != f"Bearer {self.token}":
            return (401, "no token") if authorization is None else (403, "wrong token")
        name = path.rpartition("/")[2]
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": ""}
        if path.startswith("/api/packages/"):
            known = name in self.packages
            self.packages |= {name: body} if method == "PUT" else {}
            return (200, {}) if known or method == "PUT" else (404, "none")
        if path == "/api/jobs/" and method == "GET":
            return 200, list(self.jobs.values())
        if path == "/api/jobs/":
            return self._submit(json.loads(body))
        return (200, self.jobs[name]) if name in self.jobs else (404, f"Job {name} does not exist")

    def _submit(self, request: dict) -> tuple[int, object]:
        for job in self.concurrent:
            self.add(**job)
        self.concurrent.clear()
        name = request["submission_id"]
        if name in self.jobs:
            text = f"Job with submission_id {name} already exists. Please use a different submission_id."
            return 500, f"Traceback (most recent call last):\n  File ...\nRuntimeError: {text}\n"
        self.add(name, "PENDING", submitted=True, metadata=request["metadata"], runtime_env=request["runtime_env"])
        self.jobs[name]["entrypoint"] = request["entrypoint"]
        return 200, {"submission_id": name, "job_id": name}


@contextmanager
def dashboard(token: str | None = None) -> Iterator[Dashboard]:
    served = Dashboard(token)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            code, reply = served.answer(self.command, self.path, body, self.headers.get("authorization"))
            content = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
