"""What a user sees while trials train: bars on a terminal, one JSON object a line for machines, else nothing.

Events of `--log-format json`, on standard output; each has `event`, `time` (UTC, ISO 8601) and, while training,
`round`, `done`, `running`, `left`, `failed` (trials), `rate` (trials a second), `seconds_left`, `loss`, `epoch`; what
is not known is null:

    start      the work begins: folder, command
    round      a round of training begins
    progress   every few seconds
    trained    nothing is left to train
    analysed   the report is written: report, verdict
    warning    message
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from calib_bench.execute import heartbeat

EVERY = 2.0
"""Seconds between two events of progress; a terminal is refreshed twice as often."""


class Display:
    """Shows one job.

    Args:
        console: where people read.
        store: the run folder.
        machine: whether to write JSON lines to standard output; the console is then for standard error.
    """

    def __init__(self, console: Console, store: Path, machine: bool) -> None:
        self.console, self.store, self.machine = console, store, machine
        self.round = self.before = self.total = self.failed = 0
        self.amount = 0.0
        self.begun = self.paused = time.monotonic()
        self.lock = threading.Lock()

    def say(self, event: str, **fields: Any) -> None:
        """Write an event, for machines alone."""
        if self.machine:
            line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
            sys.stdout.write(json.dumps(line, default=str) + "\n")
            sys.stdout.flush()

    def advance(self, amount: float) -> None:
        """So many trials' worth of work was done."""
        with self.lock:
            self.amount += amount

    @contextmanager
    def training(self, round_: int, done: int, pending: int, failed: int = 0) -> Iterator[None]:
        """A round of training: `done` trials were stored before it, `pending` are to be trained."""
        self.round, self.before, self.total, self.failed = round_, done, pending, failed
        self.amount, self.begun = 0.0, time.monotonic()
        self.say("round", **self.state())
        over = threading.Event()
        with self._bars() as bars:
            task = bars.add_task("", total=pending, **self._words())

            def show() -> None:
                last = time.monotonic()
                while not over.wait(EVERY / 2):
                    bars.update(task, completed=min(self.amount, pending), **self._words())
                    if time.monotonic() - last >= EVERY:
                        last = time.monotonic()
                        self.say("progress", **self.state())

            thread = threading.Thread(target=show, daemon=True)
            if self.machine or not bars.disable:
                thread.start()
            try:
                yield
                self.amount = pending
            finally:
                over.set()
                if thread.ident:
                    thread.join(2)
                bars.update(task, completed=min(self.amount, pending), **self._words())
        self.say("progress", **self.state())

    def state(self) -> dict[str, Any]:
        """Where training stands."""
        now = heartbeat.read(self.store)
        seconds = max(time.monotonic() - self.begun, 1e-9)
        done = min(self.amount, self.total)
        rate = done / seconds if done > 0 else None
        left = self.total - int(done)
        return {
            "round": self.round,
            "done": self.before + int(done),
            "running": min(now.running, left),
            "left": left,
            "failed": self.failed,
            "rate": rate,
            "seconds_left": (self.total - done) / rate if rate else None,
            "loss": now.loss,
            "epoch": now.epoch,
        }

    def _bars(self) -> Progress:
        columns = (
            TextColumn("training, round {task.fields[round]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("trials, {task.fields[running]} running{task.fields[loss]}{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        return Progress(*columns, console=self.console, disable=self.machine or not self.console.is_terminal)

    def _words(self) -> dict[str, Any]:
        state = self.state()
        return {
            "round": state["round"],
            "running": f"{state['running']:,}",
            "loss": "" if state["loss"] is None else f", loss {state['loss']:.3g} at epoch {state['epoch']}",
            "rate": "" if state["rate"] is None else f", {_rate(state['rate'])}",
            "left": "" if state["seconds_left"] is None else f"{_clock(state['seconds_left'])} left",
        }


def _rate(rate: float) -> str:
    return f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.3g}/min" if rate >= 1 / 60 else f"{rate * 3600:.3g}/h"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
