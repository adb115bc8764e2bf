"""One connection to wandb: opening and closing runs, logging rows once, and the ledger of what is logged already.

Rows of a run's history are logged once each: a run that was cut resumes where the server's history ends. A server keeps
history by lines, and a run's step counts what was logged, so the step at which a resumed run starts tells how many rows
the server has, whatever its summary holds. The files that a row names travel apart from it and may be missing: those
are sent again, and a server that has them recognizes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from calib_bench.system.files import write_bytes

if TYPE_CHECKING:
    import wandb

TRIES = 3
"""How often wandb retries a request."""
CONTENT = "content_digest"
"""In the history and summary of a page: the digest of the content of its last row."""
WHERE = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")
"""Environment variables that say where online runs go."""
AGENT = {"id": "WANDB_RUN_ID", "sweep_id": "WANDB_SWEEP_ID", "sweep_param_path": "WANDB_SWEEP_PARAM_PATH"}


def agent() -> dict[str, str]:
    """What a sweep's agent tells of the run that it waits for, taken out of the environment: one run is meant, the
    analysis, and wandb would take every run of this process for it."""
    values = {name: os.environ.pop(variable, "") for name, variable in AGENT.items()}
    return {name: value for name, value in values.items() if value} if values["id"] and values["sweep_id"] else {}


class UploadError(Exception):
    """The server did not take what was sent."""


class Session:
    """Opens runs in one mode.

    Args:
        folder: under which wandb makes its own folder `wandb`.
        mode: "offline" or "online".
        wait: timeout of the server, in seconds.
    """

    def __init__(self, folder: Path, mode: str, wait: float) -> None:
        self.folder, self.mode, self.wait = folder, mode, wait

    def write(
        self,
        fields: dict[str, Any],
        body: Callable[[wandb.Run], None],
        *,
        brief: bool = False,
        sweep: Mapping[str, str] | None = None,
    ) -> None:
        """One run, opened, filled and closed.

        Args:
            fields: project, group, job_type, id, name, config; tags where it has any.
            body: logs its content; a resumed run's `summary` tells what the server already has.
            sweep: what ties this run to a sweep, see `agent`.
            brief: leave out what wandb finds out of the machine, which slows a short run more than all of its values.

        Raises:
            UploadError: the server took a part at most.
            wandb.Error: it could not be reached, or wants a login.
        """
        import wandb

        online = self.mode == "online"
        with wandb.init(
            **fields,
            dir=str(self.folder),
            mode="online" if online else "offline",
            resume="allow" if online else None,
            reinit="finish_previous",
            settings=self._settings(brief, sweep or {}),
        ) as run:
            body(run)
            log = Path(run.settings.log_internal)
        if online:
            _check(log)
        shutil.rmtree(log.parent, ignore_errors=True)
        for link in (self.folder / "wandb").glob("debug*.log"):  # to the logs, which would be in the way of a copy
            link.unlink(missing_ok=True)

    def locate(self, path: Path) -> str:
        """What a run calls a file: offline its path as seen from the folder, which may then be moved: `wandb sync`
        looks from where it is called."""
        return str(path) if self.mode == "online" else os.path.relpath(path, self.folder)

    def _settings(self, brief: bool, sweep: Mapping[str, str]) -> wandb.Settings:
        import wandb

        request = max(1.0, min(20.0, self.wait / 3))
        patience: dict[str, Any] = {"x_graphql_timeout_seconds": request, "x_file_stream_timeout_seconds": request}
        for kind in ("graphql", "file_stream", "file_transfer"):
            patience[f"x_{kind}_retry_max"] = TRIES
            patience[f"x_{kind}_retry_wait_min_seconds"] = min(0.5, request / 4)
            patience[f"x_{kind}_retry_wait_max_seconds"] = request / 2
        return wandb.Settings(
            console="off",
            silent=True,
            init_timeout=self.wait,
            login_timeout=self.wait,
            x_disable_stats=True,
            x_save_requirements=False,
            disable_git=brief,
            x_disable_machine_info=brief,
            x_disable_meta=brief,
            **(patience if self.mode == "online" else {}),
            **sweep,
        )


def mark(folder: Path, run_id: str) -> None:
    """Mark a run's offline copies as `wandb sync` does when it has sent them: it appends to what the server has, which
    would then have the run's history twice."""
    for path in folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"):
        path.with_name(path.name + ".synced").touch()


def _check(log: Path) -> None:
    """wandb writes what it could not upload to its log alone.

    Raises:
        UploadError: something in the log was not uploaded.
    """
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if str(entry.get("level", "")).startswith("ERROR") and "analytics" not in str(entry.get("msg", "")):
            raise UploadError(" ".join(f"{entry.get('msg', '')} {entry.get('error', '')}".split()))


# rows of a history


def once(run: wandb.Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log row n as step n unless the server has it; the summary ends as if all rows had been logged now."""
    count = run.starting_step if run.resumed else 0
    logged: dict[str, Any] = {}
    for step, row in enumerate(rows[:count]):
        logged |= {**row, **_files(run, row, step)}
    run.summary.update(logged)
    for row in rows[count:]:
        run.log(dict(row))


def page(run: wandb.Run, row: Mapping[str, Any], content: str) -> None:
    """Log the row of a page, a run whose content may change: at the next step, unless the last is of this content."""
    if run.resumed and run.summary.get(CONTENT) == content:
        _files(run, row, run.starting_step - 1)
    else:
        run.log({**row, CONTENT: content})


def _files(run: wandb.Run, row: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Send the tables and pictures of a row that the server has; returns the history's entries for them, by name."""
    from wandb.sdk.data_types.base_types.media import Media
    from wandb.sdk.data_types.utils import val_to_json

    media = {name: value for name, value in row.items() if isinstance(value, Media)}
    return {name: val_to_json(run, name, value, namespace=step) for name, value in media.items()}


# the ledger


class Ledger:
    """What is logged already, by run id and content, so that logging again costs nothing.

    Kept in `<run>/wandb/logged-<mode>.json`; online, one file for each server, entity and project.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        places = [os.environ.get(variable, "") for variable in WHERE]
        place = f"-{digest(*places)}" if mode == "online" and any(places) else ""
        self.path = folder / f"logged-{mode}{place}.json"
        self.load()

    def load(self) -> None:
        """Read the file again: another process may have logged meanwhile."""
        try:
            self.logged: dict[str, str] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.logged = {}

    def has(self, run_id: str, digest: str) -> bool:
        return self.logged.get(run_id) == digest

    def add(self, run_id: str, digest: str) -> None:
        self.logged[run_id] = digest
        write_bytes(self.path, (json.dumps(self.logged, indent=1, sort_keys=True) + "\n").encode())


def digest(*content: object) -> str:
    """16 hexadecimal digits that identify content to log."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Yield whether this process may log now: one process on this machine logs a store at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(blocking=False)
    except Timeout:
        yield False
        return
    with lock:
        yield True
