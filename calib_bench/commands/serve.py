"""`report --serve`: a run's report in the browser, and while the run is under way how far it is, both kept fresh.

Only this machine is listened to, only GET is answered, and only with files below the report folder.
"""

from __future__ import annotations

import contextlib
import math
import mimetypes
import os
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from calib_bench import registry
from calib_bench.commands.stored_run import open_run
from calib_bench.core.fate import FAILED
from calib_bench.core.study import Analysis, Detail, StudyResult, Table
from calib_bench.errors import ResourceError, UserError
from calib_bench.report import html
from calib_bench.report.provenance import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from calib_bench.core.settings import Settings
    from calib_bench.core.study import Study
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""What a browser may call this server: any other name is another site's trick to read local pages."""
FRESH = 1.0
"""Seconds for which a look at the store is good."""
SLOW = 20.0
"""Seconds after which a run is looked at again even where no trial has come."""
RECENT = 120.0
"""Seconds over which the rate of training is taken."""
TEXT = {".csv": "text/csv", ".md": "text/plain", ".tex": "text/plain", ".json": "application/json"}


class Site:
    """What is to be shown of a run folder at the moment.

    Args:
        store: opened to read.
        study: what the run asks.
    """

    def __init__(self, store: Store, study: Study, settings: Settings) -> None:
        self.store, self.study, self.settings = store, study, settings
        self.folder = store.path / "report"
        self._lock = threading.Lock()
        self._seen, self._looked = "", -math.inf
        self._count, self._planned = -1, -math.inf
        self._done: list[Trial] = []
        self._wanted: list[Trial] = []

    def version(self) -> str:
        """Changes whenever the page does."""
        with self._lock:
            if time.monotonic() - self._looked < FRESH:
                return self._seen
            report = self.folder / "report.html"
            trials, newest = self._trials()
            if trials != self._count or time.monotonic() - self._planned > SLOW:
                self._plan()
                self._count, self._planned = trials, time.monotonic()
            made = report.stat().st_mtime_ns if report.exists() else 0
            if len(self._done) == len(self._wanted) and made and made >= newest:
                self._seen = f"report-{made}"
            else:
                self._seen = f"status-{made}-{len(self._done)}-{len(self._wanted)}-{time.time() // SLOW:.0f}"
            self._looked = time.monotonic()
            return self._seen

    def whole(self) -> bool:
        """Whether every trial that is wanted by now is stored, or failed."""
        self.version()
        return len(self._done) == len(self._wanted)

    def page(self) -> bytes:
        """The page that belongs to `version`, marked so that it asks for news."""
        version = self.version()
        if version.startswith("report"):
            content = (self.folder / "report.html").read_bytes()
        else:
            content = self._status().encode()
        return content.replace(b'<html lang="en">', f'<html lang="en" data-live="{version}">'.encode(), 1)

    def file(self, place: str) -> Path | None:
        """The file below the report folder that a request names; None for anything else."""
        name = unquote(place).lstrip("/")
        if "\0" in name or any(part.startswith(".") for part in name.replace("\\", "/").split("/")):
            return None
        root = self.folder.resolve()
        path = (root / name).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None

    def _trials(self) -> tuple[int, int]:
        """How many trials are stored, and when the last one was, in nanoseconds."""
        times = self._times()
        return len(times), max(times, default=0)

    def _times(self) -> list[int]:
        folder = self.store.path / "trials"
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return [entry.stat().st_mtime_ns for entry in entries if not entry.name.startswith(".")]

    def _plan(self) -> None:
        """Asks the study again what it wants, given what is stored by now."""
        from calib_bench.planning import plan as planning

        failures = self.store.failures.now()
        self._wanted = list(planning.read(self.settings, self.study, self.store))
        self._done = [trial for trial in self._wanted if trial.key in failures or self.store.has(trial)]

    def _status(self) -> str:
        """How far the run is, as a page."""
        done, wanted = len(self._done), len(self._wanted)
        now = time.time_ns()
        recent = sum(now - t < RECENT * 1e9 for t in self._times())
        failed = sum(self.store.fate(t) in FAILED for t in self._done if self.store.has(t))
        facts = [
            ("trained", f"{done:,} of {wanted:,} so far"),
            ("failed", f"{failed:,}"),
            ("rate", f"{60 * recent / RECENT:.0f} a minute" if recent else "nothing in two minutes"),
        ]
        if done == wanted:
            state = "Everything is trained. The report is being written, or waits for the command to be given again."
        elif recent:
            left = (wanted - done) * RECENT / recent
            state = (
                f"Training goes on: about {duration(left)} to go at this rate, and more if the grid of rates must grow."
            )
        else:
            state = f"Nothing has been trained lately. This goes on with it: {self.store.provenance()['command']}"
        older = ("The last report, of fewer trials, is at /report.html.",) * (self.folder / "report.html").exists()
        table = Table("Trials", self._arms(), "What is planned by now; later rounds may add to it.")
        return html.document(
            f"{self.settings.study.replace('_', ' ').capitalize()} on {self.settings.task}",
            self.study.question,
            str(self.store.provenance()["command"]),
            Analysis((), {}, summary=(state, *older), result=StudyResult(self.settings.limit)),
            {},
            {},
            details=[(Detail("Trials by arm", table=table), "")],
            facts=facts,
            progress=done / wanted if wanted else 0.0,
        )

    def _arms(self) -> pd.DataFrame:
        import pandas as pd

        done = {trial.key for trial in self._done}
        rows = [
            {"model": t.model, "objective": t.objective, "beta": t.beta, "trained": t.key in done, "planned": True}
            for t in self._wanted
        ]
        frame = pd.DataFrame(rows)
        return frame.groupby(["model", "objective", "beta"], as_index=False, sort=False).sum() if rows else frame


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the page, its version, and the files beside it."""

    server_version, sys_version = "calib_bench", ""

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        """The page at /, its version at /state, else a file of the report."""
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:
            return self._answer(403, b"this server answers to 127.0.0.1 alone\n", "text/plain")
        place = urlsplit(self.path).path
        try:
            if place == "/":
                return self._answer(200, self.site.page(), "text/html")
            if place == "/state":
                return self._answer(200, self.site.version().encode(), "text/plain")
        except (UserError, OSError) as error:
            return self._answer(503, f"{error}\n".encode(), "text/plain")
        path = self.site.file(place)
        if path is None:
            return self._answer(404, b"there is no such file in this report\n", "text/plain")
        kind = TEXT.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return self._answer(200, path.read_bytes(), kind)

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        charset = "; charset=utf-8" if kind.startswith(("text/", "application/json")) else ""
        self.send_header("Content-Type", kind + charset)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are of no interest."""


def server(site: Site, port: int) -> ThreadingHTTPServer:
    """A server of the site, not yet answering; port 0 takes a free one.

    Raises:
        ResourceError: the port is taken.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, site))
    except OSError as error:
        raise ResourceError(f"port {port} cannot be used ({error.strerror}): give another one with port=") from None


def serve(folder: Path, plugins: Sequence[Path], port: int, write_report: Callable[[], object]) -> int:
    """Show a run's report until interrupted; where every trial is stored and no report is newer, it is written first.

    Args:
        folder: the run folder.
        plugins: folders of plug-ins that the user trusts.
        port: on this machine; 0 takes a free one.
        write_report: writes the report.

    Raises:
        StoreError: it is no run folder.
        ResourceError: the port is taken.
    """
    store, settings = open_run(folder, plugins)
    site = Site(store, registry.study(settings.study), settings)
    answering = server(site, port)
    if site.whole() and site.version().startswith("status"):
        write_report()
    print(f"http://{HOST}:{answering.server_address[1]}/ shows {folder}; Ctrl-C ends it", flush=True)
    with answering, contextlib.suppress(KeyboardInterrupt):
        answering.serve_forever(poll_interval=0.2)
    return 0
