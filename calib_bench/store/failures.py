"""Trials that could not be finished: what went wrong, kept in the run folder until they are stored.

A failure is of one attempt. A new run forgets earlier ones and tries again; within a run a trial that failed is not
tried twice, and the rounds that follow count it as the worst of its grid.
"""

from __future__ import annotations

import os
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from calib_bench.core.trial import Trial
from calib_bench.errors import StoreError
from calib_bench.system import environment, files
from calib_bench.system.redaction import redact

Kind = Literal["raised", "memory", "killed", "stalled"]
LINES = 12
"""Last lines of a traceback that are kept."""


@dataclass(frozen=True)
class Failure:
    """One trial's last attempt.

    Attributes:
        kind: "raised" an exception, ran out of "memory", its process was "killed", or it "stalled".
        cause: one line for people.
        trace: the last lines of the traceback, where there is one.
        attempt: identifies the attempt.
    """

    trial: Trial
    kind: str
    cause: str
    trace: str
    attempt: str

    def describe(self) -> str:
        """The trial by its settings and key, and why it failed."""
        return f"{name(self.trial)}: {self.cause}"


def kind_of(error: BaseException) -> Kind:
    """Whether an exception says that memory ran out, or was raised for another reason."""
    return "memory" if isinstance(error, MemoryError) or getattr(error, "memory", False) else "raised"


def name(trial: Trial) -> str:
    """A trial for people, by what tells it from others."""
    return (
        f"{trial.model} beta={trial.beta:.4g} {trial.objective} {trial.lr_unit}={trial.lr:.4g} seed={trial.seed} "
        f"({trial.key})"
    )


class Failures:
    """The failures of one run folder, one sealed file a trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._earlier: set[str] = set()
        self._read: dict[tuple[str, int, int], Failure | None] = {}

    def record(self, trial: Trial, kind: Kind, cause: str, trace: str = "") -> None:
        """Keep what went wrong.

        Raises:
            ResourceError, StoreError: it cannot be written.
        """
        content: dict[str, Any] = {
            "key": trial.key,
            "trial": trial.model_dump(mode="json"),
            "kind": kind,
            "cause": redact(cause),
            "trace": redact(trace),
            "attempt": uuid.uuid4().hex,
            "environment": environment.describe(),
        }
        files.write_json(self.folder / f"{trial.key}.json", files.seal(content))

    def raised(self, trial: Trial, error: BaseException) -> None:
        """Keep an exception."""
        text = " ".join(str(error).split())
        trace = "".join(traceback.format_exception(error)).splitlines()[-LINES:]
        kind = kind_of(error)
        cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
        if kind == "memory" and text:
            cause = text
        self.record(trial, kind, cause, "\n".join(trace))

    def forget(self, key: str) -> None:
        """The trial is stored after all."""
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def retry(self) -> list[Failure]:
        """Count no failure there is by now: what failed is to be tried again."""
        before = list(self.now().values())
        self._earlier |= {failure.attempt for failure in before}
        return before

    def now(self) -> dict[str, Failure]:
        """Failures that count, by key. A file that is not whole tells nothing, and its trial is tried again."""
        failures = {}
        for entry in sorted(os.scandir(self.folder), key=lambda e: e.name) if self.folder.is_dir() else ():
            key, dot, suffix = entry.name.partition(".")
            if dot and key and suffix == "json":
                failure = self._one(key, entry)
                if failure is not None and failure.attempt not in self._earlier:
                    failures[key] = failure
        return failures

    def _one(self, key: str, entry: os.DirEntry[str]) -> Failure | None:
        try:
            stat = entry.stat()
        except OSError:
            return None
        version = (key, stat.st_ino, stat.st_mtime_ns)
        if version not in self._read:
            self._read[version] = _parse(key, Path(entry.path))
        return self._read[version]


def _parse(key: str, path: Path) -> Failure | None:
    try:
        content = files.read_sealed(path)
        trial = Trial.model_validate(content["trial"])
        texts = [str(content[name]) for name in ("kind", "cause", "trace", "attempt")]
    except (StoreError, KeyError, TypeError, ValidationError):
        return None
    return Failure(trial, *texts) if trial.key == key else None
