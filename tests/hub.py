"""A Hub on this machine that serves one small data set, as well or as badly as it is told; run as a program.

Prints one JSON line a scenario: the mode, what came of it, and the seconds it took.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"
MODES = ("well", "truncated", "shorter", "corrupt", "error", "mute", "drip", "down")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mode = "well"
    files: dict[str, bytes] = {}  # noqa: RUF012

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.mode == "error":
            return self.send(503, b"out of order")
        if self.mode == "mute":
            time.sleep(60)
            return None
        if self.path.startswith("/api/"):
            names = [{"type": "file", "path": n, "rfilename": n, "size": len(c), "oid": "0" * 40}
                     for n, c in self.files.items()]  # fmt: skip
            if "/tree/" in self.path:
                return self.send(200, json.dumps(names).encode(), kind="application/json")
            return self.send(200, json.dumps(
                {"id": "own/small", "sha": REVISION, "siblings": names, "private": False, "disabled": False,
                 "downloads": 0, "likes": 0, "tags": []}).encode(), kind="application/json")  # fmt: skip
        return self.serve(self.files[self.path.rpartition("/")[2].partition("?")[0]])

    def serve(self, content: bytes) -> None:
        etag = hashlib.sha256(content).hexdigest()
        body = content[: len(content) // 2] + b"#" * (len(content) - len(content) // 2)
        head = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION}
        if self.command == "HEAD" or self.mode == "well":
            return self.send(200, content, head)
        if self.mode == "shorter":  # whole by its own account
            return self.send(200, content[:100], head)
        if self.mode == "corrupt":
            return self.send(200, body, head)
        self.send(200, content, head, upto=len(content) // 2 if self.mode == "truncated" else 0)
        if self.mode == "drip":
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.2)
        self.close_connection = True
        return None

    def send(
        self,
        code: int,
        body: bytes,
        head: dict[str, str] | None = None,
        kind: str = "text/plain",
        upto: int | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(head or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:upto])


def serve_own_data(root: Path, server: ThreadingHTTPServer) -> None:
    """Load task hub/own/small while the Hub answers, and again once it is gone; prints a line each."""
    from huggingface_hub import constants

    from calib_bench import registry
    from calib_bench.core.splits import Request

    constants.HF_HUB_CACHE = str(root / "own")
    for _ in range(2):
        splits = registry.task("hub/own/small").load(Request("hub/own/small", input=("text",), model="bag_8"))
        sizes = [len(splits[name]) for name in ("train", "selection", "calibration", "test")]
        print(sizes, splits.class_names, splits.source, flush=True)
        server.shutdown()
        server.server_close()


def main(root: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(root / "home"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    os.environ.pop("CALIB_BENCH_DATA", None)
    import pandas as pd
    from huggingface_hub import constants

    from calib_bench.core.splits import Request
    from calib_bench.core.task import Hub
    from calib_bench.data import source
    from calib_bench.errors import DataError

    source.PATIENCE, source.ANSWER = 6.0, 2.0
    hub = Hub("own/small", REVISION, "text", "label", {"train": 300, "test": 300})
    for split in hub.rows:
        frame = pd.DataFrame({"text": [f"{split} {i} " + "x" * (i % 90) for i in range(300)], "label": [0, 1] * 150})
        Handler.files[f"{split}-00000-of-00001.parquet"] = frame.to_parquet()
    if "own" in sys.argv[2:]:
        return serve_own_data(root, server)
    for mode in MODES:
        Handler.mode, start = mode, time.monotonic()
        constants.HF_HUB_CACHE = str(root / mode)
        if mode == "down":
            server.shutdown()
            server.server_close()
        try:
            raw = source.open_source(Request("small", None, 0, None, "bag_8"), hub, 2)
            came = f"{len(raw.train)} rows of {raw.source}"
        except DataError as error:
            came = f"DataError: {error}"
        print(json.dumps({"mode": mode, "came": came, "seconds": time.monotonic() - start}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)
