"""Signs of life: what is being trained in a store right now, for whoever shows progress.

    live/<group>.json    how many trials train together, their epoch, mean loss, and whose process trains them

They are no part of the results: a sign that is late, or lost, changes nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_bench.core.trial import Trial
from calib_bench.store import leases
from calib_bench.train import callbacks

EVERY = 0.5
"""Seconds between two signs of a group at least."""


@dataclass(frozen=True)
class Now:
    """What trains now.

    Attributes:
        running: trials.
        loss: mean over them of the latest epoch's training loss; None before the first.
        epoch: the earliest that any of them is at.
    """

    running: int = 0
    loss: float | None = None
    epoch: int | None = None


@contextmanager
def given(store: Path, name: str, trials: Sequence[Trial]) -> Iterator[None]:
    """Give signs of the group that is trained within the block."""
    path = store / "live" / f"{name}.json"
    pid = os.getpid()
    about = {"machine": leases.machine(), "pid": pid, "start": leases.process_start(pid), "trials": len(trials)}
    losses: dict[str, tuple[int, float]] = {}
    last = 0.0

    def write() -> None:
        latest = [loss for _, loss in losses.values()]
        loss = sum(latest) / len(latest) if latest else None
        epoch = min((epoch for epoch, _ in losses.values()), default=None)
        temporary = path.with_name(f".{path.name}.{pid}")
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            try:
                temporary.write_text(json.dumps({**about, "loss": loss, "epoch": epoch}))
                temporary.replace(path)
            finally:  # a full disk leaves an empty one
                temporary.unlink(missing_ok=True)

    def listen(members: Sequence[Trial], row: Mapping[str, Any]) -> None:
        nonlocal last
        for i, trial in enumerate(members):
            epoch, loss = (_of(row[column], i) for column in ("epoch", "train_loss"))
            if loss - loss == 0:  # finite: of one that diverges there is nothing to tell
                losses[trial.key] = (int(epoch), loss)
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            write()

    write()
    try:
        with callbacks.listening(listen):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read(store: Path) -> Now:
    """What trains now, on any machine that shares the store; what a dead process of this machine left is removed."""
    running, weighted, weight, epochs = 0, 0.0, 0, []  # type: int, float, int, list[int]
    for path in sorted((store / "live").glob("[!.]*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            sign = json.loads(path.read_text())
            if sign["machine"] == leases.machine() and leases.process_start(sign["pid"]) != sign["start"]:
                path.unlink(missing_ok=True)
                continue
            running += sign["trials"]
            if sign["loss"] is not None:
                weighted, weight = weighted + sign["loss"] * sign["trials"], weight + sign["trials"]
                epochs.append(sign["epoch"])
    return Now(running, weighted / weight if weight else None, min(epochs, default=None))


def _of(value: Any, member: int) -> float:
    """A member's number, of a stack's tensor or of a row of numbers."""
    return float(value) if isinstance(value, int | float) else float(value[member])
