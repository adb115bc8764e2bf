"""Servers on this machine for wandb to talk to: one that takes what it is sent, and such as fail."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers wandb's requests until `good` of them are answered; then hangs, or fails with code 500."""

    daemon_threads = True
    request_queue_size = 128  # wandb opens many connections at once

    def __init__(self, good: float, then: str = "fail") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.good, self.then = good, then
        self.count = 0
        self.runs: dict[str, dict[str, Any]] = {}
        self.release = threading.Event()
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> dict[str, Any] | None:
        """What to answer; None fails."""
        if "/otel/" in path:
            return {}
        with self.guard:
            self.count += 1
            if self.count > self.good and self.then == "fail":
                return None
        if self.count > self.good:
            self.release.wait(120)
            return None
        return self.reply(path, body)

    def reply(self, path: str, body: bytes) -> dict[str, Any] | None:
        """The answer of a server that is well."""
        if path == "/graphql":
            query = json.loads(body)
            return {"data": self.graphql(query["query"], query.get("variables") or {})}
        return {}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertBucket" in query:
            run = {"id": f"B{variables['name']}", "name": variables["name"], "displayName": variables["name"]}
            project = {
                "id": "P",
                "name": variables.get("project"),
                "entity": {"id": "E", "name": variables.get("entity") or "me"},
            }
            self.runs.setdefault(variables["name"], {}).update({k: v for k, v in variables.items() if v is not None})
            bucket = {**run, "description": "", "sweepName": None, "config": "{}", "historyLineCount": 0}
            return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}
        if "viewer" in query.lower():
            viewer = {"id": "U", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}, "email": ""}
            return {"viewer": viewer}
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that is killed leaves without a word
            super().handle()

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        found = self.server.answer(self.path, body)
        content = json.dumps(found or {}).encode()
        with contextlib.suppress(OSError):  # who asked may have gone
            self.send_response(500 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = _do


@contextlib.contextmanager
def serving(good: float, then: str = "fail") -> Iterator[Server]:
    server = Server(good, then)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
