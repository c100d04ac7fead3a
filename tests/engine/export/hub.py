"""A hub of one's own on this machine: the few answers that an upload needs, and a record of what was asked."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """What it has, and what came."""

    def __init__(self, endpoint: str, token: str) -> None:
        self.endpoint = endpoint
        self.token = token
        self.repositories: dict[str, bool] = {}
        """Id -> whether it is private."""
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.may_write = True


@contextmanager
def running_hub(token: str) -> Iterator[Hub]:
    """Serves until the block ends."""

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: dict[str, Any], **headers: str) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.handle_request(b"")

        def do_POST(self) -> None:
            self.handle_request(self.rfile.read(int(self.headers.get("content-length") or 0)))

        def handle_request(self, body: bytes) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if self.headers.get("authorization") != f"Bearer {hub.token}":
                self.answer(401, {"error": "Invalid credentials in Authorization header"})
            elif self.path == "/api/whoami-v2":
                self.answer(200, {"name": "me", "type": "user"})
            elif self.path == "/api/repos/create":
                self.create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", self.path.partition("?")[0]):
                self.model(match[1], match[2] or "", body)
            else:
                self.answer(404, {"error": "no such page"})

        def create(self, asked: dict[str, Any]) -> None:
            if not hub.may_write:
                self.answer(403, {"error": "You don't have the rights"})
                return
            repo_id = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            hub.repositories[repo_id] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.answer(200, {"url": f"{hub.endpoint}/{repo_id}", "name": repo_id})

        def model(self, repo_id: str, what: str, body: bytes) -> None:
            if repo_id not in hub.repositories:
                self.answer(404, {"error": "Repository not found"}, x_error_code="RepoNotFound")
            elif what.startswith("/preupload"):
                files = json.loads(body)["files"]
                answers = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
                self.answer(200, {"files": answers})
            elif what.startswith("/commit"):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer(200, {"commitUrl": f"{hub.endpoint}/{repo_id}/commit/abc", "commitOid": "abc"})
            else:
                self.answer(200, {"id": repo_id, "private": hub.repositories[repo_id], "siblings": [], "sha": "abc"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", token)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
