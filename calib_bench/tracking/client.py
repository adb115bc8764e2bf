"""One connection to wandb: how runs are opened and closed, and how what a server refuses is noticed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

TRIES = 3
"""How often wandb sends a request again."""


AGENT = {"id": "WANDB_RUN_ID", "sweep_id": "WANDB_SWEEP_ID", "sweep_param_path": "WANDB_SWEEP_PARAM_PATH"}


def agent() -> dict[str, str]:
    """What a sweep's agent tells of the run that it waits for, taken out of the environment: one run is meant, the
    analysis, and wandb would take every run of this process for it."""
    found = {name: os.environ.pop(variable, "") for name, variable in AGENT.items()}
    return {name: value for name, value in found.items() if value} if found["id"] and found["sweep_id"] else {}


class UploadError(Exception):
    """The server did not take what was sent."""


class Session:
    """Opens runs in one mode.

    Args:
        folder: under which wandb makes its own folder `wandb`.
        mode: "offline" or "online".
        wait: seconds that a server may stay silent.
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

    def _settings(self, brief: bool, sweep: Mapping[str, str]) -> wandb.Settings:
        import wandb

        request = max(1.0, min(20.0, self.wait / 3))
        kinds = ("graphql", "file_stream", "file_transfer")
        patience: dict[str, Any] = {}
        for kind in kinds:
            patience |= {
                f"x_{kind}_retry_max": TRIES,
                f"x_{kind}_retry_wait_min_seconds": min(0.5, request / 4),
                f"x_{kind}_retry_wait_max_seconds": request / 2,
            }
        patience |= {"x_graphql_timeout_seconds": request, "x_file_stream_timeout_seconds": request}
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
