"""The process that logs: reads a store while others write it, and says what it did.

The tracker tells it how far the job is: "trained" (nothing is left to train), "analysed" (the analysis is handed over,
log the rest and leave), "stop" (leave). The end of the connection is "stop".
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from calib_bench import registry
from calib_bench.core.settings import Logging
from calib_bench.core.trial import Trial
from calib_bench.errors import StoreError
from calib_bench.execute import fork_server
from calib_bench.planning import plan as planning
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.tracking import analysis_export, content
from calib_bench.tracking.client import Ledger, Session, agent, turn
from calib_bench.tracking.runs import Logger
from calib_bench.tracking.scratch import Scratch

PAUSE = 2.0
"""Seconds between looks at the store."""
FAILED = 3
"""Exit code when the server, or wandb itself, fails."""


class Follower:
    """Logs one store in one mode, until told to stop."""

    def __init__(
        self, folder: Path, mode: str, runs: str, wait: float, words: queue.Queue[str], say: Callable[..., None]
    ) -> None:
        self.folder, self.every, self.words, self.say = folder, runs == "all", words, say
        self.store = Store(folder, "read")
        self.settings = self.store.settings()
        self.study = registry.study(self.settings.study)
        self.ledger = Ledger(folder / "wandb", mode)
        session = Session(folder, mode, wait)
        self.logger = Logger(
            self.store, self.settings, session, self.ledger, self._on_progress, runs == "arms", agent()
        )
        self.stage = "training"
        self.seen: set[str] = set()
        self.looked: tuple[str, int] | None = None
        self.count = 0

    def follow(self) -> None:
        """Log until the analysis is logged too, or until told to stop."""
        while True:
            with turn(self.folder / "wandb") as mine:
                if mine:
                    self.ledger.load()
                    if self.stage == "analysed":
                        self._everything()
                        return
                    self._stored()
            self._listen(PAUSE if self.stage != "analysed" else 0.1)
            if self.stage == "stop":
                return

    def _listen(self, pause: float) -> None:
        """Take what the tracker says; returns at once when it has said something."""
        try:
            self.stage = self.words.get(timeout=pause)
            while True:
                self.stage = self.words.get_nowait()
        except queue.Empty:
            pass

    def _on_progress(self, run_id: str, seconds: float = 0) -> None:
        """A step of work is done: a run, when it has an id; the next may take so many seconds more than others."""
        if run_id:
            self.count += 1
        self.say(logged=run_id or None, seconds=seconds)

    def _stored(self) -> None:
        """Trials of which it is known that they are runs, arms once all are trained; then the table of all too."""
        if self.logger.by_arm and self.stage != "trained":
            return
        trials_folder = self.folder / "trials"
        now = (self.stage, trials_folder.stat().st_mtime_ns if trials_folder.is_dir() else 0)
        if now == self.looked:
            return
        plan = self._wanted()
        trials = self._kept(plan) if self.every else content.selected(self.study, self.settings, self.store)
        if not self._train(trials):
            return
        if self.stage == "trained":
            self.logger.tuning(plan)
        self.looked = now

    def _train(self, trials: Iterable[Trial]) -> bool:
        """Log the runs of trials not seen yet; returns whether all are logged: it stops once something is said."""
        for group in self.logger.groups(trials):
            keys = {trial.key for trial in group}
            if keys <= self.seen:
                continue
            if not self.words.empty():
                return False
            self.logger.train(group)
            self.seen |= keys
        return True

    def _everything(self) -> None:
        """What the analysis rests on, and the analysis."""
        analysis = analysis_export.read(self.store)
        plan = self._wanted()
        by_key = {trial.key: trial for trial in plan}
        chosen = [by_key[key] for key in dict.fromkeys(analysis.selected if analysis else ()) if key in by_key]
        for group in self.logger.groups(self._kept(plan if self.every else chosen)):
            self.logger.train(group)
        self.logger.tuning(plan)
        if analysis is not None:
            self.logger.calibration(analysis, chosen, plan)
            self.logger.analysis(analysis)

    def _wanted(self) -> list[Trial]:
        return list(planning.read(self.settings, self.study, self.store))

    def _kept(self, trials: Iterable[Trial]) -> list[Trial]:
        return [trial for trial in trials if self._has(trial)]

    def _has(self, trial: Trial) -> bool:
        try:
            return self.store.has(trial)
        except StoreError:
            return False


def main(
    environ: Mapping[str, str],
    words: Connection,
    messages: Connection,
    folder: Path,
    logging: Logging,
    plugins: tuple[Path, ...],
) -> None:
    """Follow a store and end this process; where that fails, the last message says why."""
    fork_server.settle(environ)
    os.setsid()  # Ctrl-C is for the job, which then tells this process to leave
    for number in shutdown.WARNINGS:
        signal.signal(number, signal.SIG_IGN)
    fork_server.heed()
    os.nice(10)  # training goes first
    torch.set_num_threads(1)
    with open(folder / "wandb" / "follow.log", "ab") as log:
        for stream in (1, 2):  # what libraries print is no message
            os.dup2(log.fileno(), stream)

    def say(**fields: Any) -> None:
        with contextlib.suppress(OSError):  # nobody hears it: the job was killed
            messages.send(fields)

    shared = Scratch.share(Path(os.environ["TMPDIR"]))
    code = _follow(folder, logging, plugins, words, say)
    messages.close()
    sys.stderr.flush()
    time.sleep(0.05)
    shared.remove()  # a job that was killed does not
    os._exit(code)  # not by way of wandb's own farewell, which waits for a server that is gone


def _follow(
    folder: Path, logging: Logging, plugins: tuple[Path, ...], words: Connection, say: Callable[..., None]
) -> int:
    """Log until told to stop; the exit code is 0, or `FAILED` after a message that says why."""
    stages: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_hear, args=(words, stages), daemon=True).start()
    try:
        registry.use_plugins(plugins, quiet=True)  # those that the user gave, whatever the store names
        follower = Follower(folder, logging.wandb, logging.wandb_runs, logging.wandb_wait, stages, say)
        import wandb  # noqa: F401 - takes seconds, for which no server is to blame

        say(started=True)
        follower.follow()
        say(done=follower.count)
        return 0
    # wandb fails in ways beyond its own exceptions (servers, sockets, files): whatever it is, the tracker decides.
    except Exception as error:
        say(failed=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
        return FAILED


def _hear(words: Connection, stages: queue.Queue[str]) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            stages.put(words.recv())
    stages.put("stop")
