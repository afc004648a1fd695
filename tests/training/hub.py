"""A stand-in of the Hugging Face hub's HTTP API: repositories, branches and commits, with files as blobs or by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_a-token-that-may-write"
ACCOUNT = "me"


@dataclass
class Repository:
    private: bool
    # Files by path, of each branch.
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    messages: list[str] = field(default_factory=list)


class Hub:
    """The server at `address`; only `TOKEN` may write, and only to repositories of `ACCOUNT`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.uploads[oid] = content
        self._answer({})

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        if found := self.hub.repositories.get(name):
            self._answer({"id": name, "private": found.private, "sha": "0" * 40})
        else:
            self._answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._upload_to(json.loads(body)["objects"])
        *name, verb, branch = path.removeprefix("/api/models/").split("/")
        if name[0] != ACCOUNT:
            return self._answer({"error": "Forbidden: you do not own it"}, 403)
        repository = self.hub.repositories["/".join(name)]
        if verb == "branch":
            if unquote(branch) in repository.branches:
                return self._answer({"error": "Reference already exists"}, 409)
            repository.branches[unquote(branch)] = {}
            return self._answer({})
        if verb == "preupload":
            files = json.loads(body)["files"]
            modes = ["lfs" if each["path"].endswith((".safetensors", ".png")) else "regular" for each in files]
            modes = [
                {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
                for each, mode in zip(files, modes, strict=True)
            ]
            return self._answer({"files": modes})
        assert verb == "commit"
        return self._commit("/".join(name), unquote(branch), [json.loads(line) for line in body.splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        owner = wanted.get("organization") or ACCOUNT
        name = f"{owner}/{wanted['name']}"
        if owner != ACCOUNT:
            self._answer({"error": "You do not have the rights to create a model there"}, 403)
            return
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(wanted.get("visibility") == "private")
        url = f"{self.hub.address}/{name}"
        self._answer(
            {"url": url, "error": "You already created it"} if exists else {"url": url}, 409 if exists else 200
        )

    def _upload_to(self, objects: list[dict[str, Any]]) -> None:
        url = f"{self.hub.address}/objects/"
        actions = [{**each, "actions": {"upload": {"href": f"{url}{each['oid']}"}}} for each in objects]
        self._answer({"transfer": "basic", "objects": actions})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        repository, commit = self.hub.repositories[name], "1" * 40
        files = repository.branches[branch]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.uploads[value["oid"]]
        self._answer({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})
