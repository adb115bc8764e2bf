"""The job's side of logging: starts the process that logs, tells it how far the job is, and waits for it no longer than
it goes on. Whatever goes wrong is one warning, and the rest is logged offline."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from calib_bench.execute import fork_server
from calib_bench.tracking import analysis_export
from calib_bench.tracking.scratch import Scratch

if TYPE_CHECKING:
    from calib_bench.core.settings import Settings
    from calib_bench.core.study import Analysis
    from calib_bench.store.store import Store

LOGGING_PROCESS = "calib_bench.tracking.logging_process"
"""By name: this process has no use for what it imports."""
BUSY = 120.0
"""Seconds that the process may be silent where no server is to blame: it starts on a busy machine, or works offline."""
NO_KEY = "No API key"
"""What wandb says where nobody has logged in."""
LACKING = "there is no API key for Weights & Biases: give one with `wandb login` or as $WANDB_API_KEY"
LEAVE = 20.0
"""Seconds that the process has to finish the run that it is at when the job stops early."""


class Tracker:
    """Logs a store while it is written: `with Tracker(...) as tracker: ...; tracker.finish(analysis)`.

    It costs the job nothing but starting a process; with `wandb=disabled` not even that.

    Args:
        store: with its study written.
        settings: wandb (mode), wandb_runs, wandb_wait.
        warn: called with what went wrong, once.
        else_offline: whether it goes on offline where it cannot log online; else it stops.
    """

    def __init__(
        self, store: Store, settings: Settings, warn: Callable[[str], None], else_offline: bool = True
    ) -> None:
        self.store, self.settings, self.warn, self.else_offline = store, settings, warn, else_offline
        self.mode: str = settings.wandb
        self.process: BaseProcess | None = None
        self.words: Connection | None = None
        self.scratch: Scratch | None = None
        self.stage = ""
        self.count = 0
        self.trouble = ""
        self.heard, self.started = time.monotonic(), False
        self.over = threading.Event()
        self.lock = threading.RLock()

    def __enter__(self) -> Tracker:
        if self.mode != "disabled":
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self._say("stop")
        self.process.join(LEAVE)
        self._kill()

    def trained(self) -> None:
        """Nothing is left to train."""
        self._say("trained")

    def finish(self, analysis: Analysis | None) -> int:
        """Log what is left and wait for it, for `wandb_wait` seconds without a sign of progress at most.

        Args:
            analysis: None when what was handed over last still stands.

        Returns:
            How many runs were logged.
        """
        if self.process is None:
            return 0
        try:
            if analysis is not None:
                analysis_export.write(self.store, self.settings, analysis)
        except Exception as error:  # a full disk, a folder that is no folder: none may cost the user a result
            self._give_up(f"{type(error).__name__}: {error}")
            return self.count
        self.heard = time.monotonic()
        self._say("analysed")
        while not self.over.wait(0.1):
            wait = self.settings.wandb_wait
            if self.mode != "online" or not self.started:
                wait = max(wait, BUSY)
            if time.monotonic() - self.heard > wait:
                self._failed(f"no sign of progress for {wait:g} seconds")
        return self.count

    def _hear(self, process: BaseProcess, messages: Connection) -> None:
        """Take what a process says until it ends."""
        why = "the process that logs ended early"
        with messages, contextlib.suppress(EOFError, OSError):
            while True:
                message = messages.recv()
                self.heard = max(self.heard, time.monotonic() + message.get("seconds", 0))
                self.started = True
                self.count += bool(message.get("logged"))
                why = message.get("failed", why)
                if "done" in message:
                    self.over.set()
        with self.lock:
            if process is self.process and not self.over.is_set() and self.stage != "stop":
                self._failed(why)

    def _failed(self, why: str) -> None:
        """Turn offline when online, unless told otherwise; else leave it."""
        with self.lock:
            self._kill()
            if self.mode == "online":
                why = LACKING if NO_KEY in why else f"Weights & Biases cannot be reached ({why})"
            if self.mode != "online" or not self.else_offline:
                self._give_up(why)
                return
            self.mode, self.trouble = "offline", why
            self.warn(
                f"{why}. Logging goes on offline, in {self.store.path / 'wandb'}; "
                f"later:\n  python -m calib_bench sync {self.store.path}"
            )
            self._start()

    def _give_up(self, why: str) -> None:
        with self.lock:
            self._kill()
            self.process, self.trouble = None, why
            self.over.set()
        self.warn(
            f"logging to Weights & Biases stopped ({why}). The results in {self.store.path} are whole; this logs what "
            f"is missing:\n  python -m calib_bench sync {self.store.path}"
        )

    def _start(self) -> None:
        """Start the process, and tell it what the one before was told."""
        folder = self.store.path.absolute()
        logging = self.settings.model_copy(update={"wandb": self.mode}).logging
        try:
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            self.scratch = Scratch.make()
            context = fork_server.context()
            words, self.words = context.Pipe(duplex=False)
            messages, reports = context.Pipe(duplex=False)
            environ = {
                "WANDB_CACHE_DIR": str(self.scratch.folder / "cache"),
                **os.environ,
                "WANDB_SILENT": "true",
                "WANDB_DATA_DIR": str(self.scratch.folder / "data"),
                "TMPDIR": str(self.scratch.folder),
            }
            arguments = (LOGGING_PROCESS, environ, words, reports, folder, logging, self.settings.plugins)
            self.process = context.Process(target=fork_server.call, args=arguments, daemon=True)
            with words, reports, fork_server.apart_from_main():
                self.process.start()
        except OSError as error:
            self._give_up(f"{type(error).__name__}: {error}")
            return
        self.heard, self.started = time.monotonic(), False
        threading.Thread(target=self._hear, args=(self.process, messages), daemon=True).start()
        if self.stage:
            self._say(self.stage)

    def _say(self, word: str) -> None:
        self.stage = word
        if self.process is not None and self.words is not None:
            with contextlib.suppress(OSError):  # it is gone: whoever waits for it hears so
                self.words.send(word)

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self._clean()

    def _clean(self) -> None:
        """Remove what wandb left behind, once its process has ended."""
        if self.scratch is not None:
            self.scratch.remove()
            self.scratch = None
