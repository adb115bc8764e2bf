"""One worker process: what it is at, when it last told of progress, and what to do when it dies or stalls."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from calib_bench.core.settings import Settings
from calib_bench.errors import ResourceError
from calib_bench.execute import worker
from calib_bench.execute.spawned import apart_from_main
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown

START_SECONDS = 300.0
"""What a worker may take to start, however short a stall is."""
STARTS = 3
"""Workers that may die in a row before they have begun."""
_settings: Settings
_queue: Queue[float]
_owner: str


@dataclass(frozen=True)
class Job:
    """A group to run.

    Attributes:
        again: whether its process was killed before: the system may have chosen it for what another one took.
    """

    group: Group
    again: bool = False


class Slot:
    """A worker process, started anew when it is lost."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.job: Job | None = None
        self.future: Future[int] | None = None
        self.unborn = self.trained = 0
        self._start()

    def _start(self) -> None:
        # A worker that is stopped leaves its loaders' semaphores to the resource tracker, which frees them.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        context = multiprocessing.get_context("spawn")
        self.updates: Queue[float] = context.Queue()  # of its own: who dies while sending leaves it locked
        self.pool = ProcessPoolExecutor(
            1, context, initializer=_begin, initargs=(self.settings, self.updates, leases.OWNER)
        )
        self.processes: list[BaseProcess] = []
        self.ready = False

    def begin(self, job: Job, store: Store) -> None:
        """Let the worker run a job."""
        self.job, self.stalled, self.heard = job, False, time.monotonic()
        with apart_from_main():
            self.future = self.pool.submit(_work, job.group, store.address)
        self.processes = list((self.pool._processes or {}).values())

    def tell(self, progress: worker.Progress) -> None:
        """Pass on what the worker told."""
        with contextlib.suppress(queue.Empty):
            while True:
                amount = self.updates.get_nowait()
                self.ready, self.unborn, self.heard = True, 0, time.monotonic()
                progress(amount)

    def look(self, store: Store) -> list[Job]:
        """Whether the job is over, died or stalled; what is to be tried again of it.

        Raises:
            ResourceError: workers die before they begin.
            Exception: what the job raised; it concerns every trial.
        """
        assert self.future is not None
        if not self.future.done():
            self._watch()
            return []
        job, self.job = self.job, None
        assert job is not None
        try:
            self.trained += self.future.result()
        except BrokenProcessPool:
            return self._lost(job, store)
        except worker.Spent:
            return self._renewed(job, store)
        return []

    def _watch(self) -> None:
        stall = self.settings.stall if self.ready else max(self.settings.stall, START_SECONDS)
        if self.settings.stall and not self.stalled and time.monotonic() - self.heard > stall:
            self.stalled = True
            self._signal(signal.SIGKILL)

    def _lost(self, job: Job, store: Store) -> list[Job]:
        """Start another worker; a group of several is halved, and one trial has failed or is tried once more."""
        for process in self.processes:
            process.join(10)
        code = next((process.exitcode for process in self.processes if process.exitcode), None)
        self.unborn += not (self.ready or self.stalled)
        if self.unborn >= STARTS:
            raise ResourceError(
                f"{self.unborn} worker processes in a row {_ended(code)} as they started: give fewer workers=, or look "
                f"at what the system says of its memory"
            )
        born = self.ready
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._start()
        store = Store(store.address)  # it has read what was there before
        halves = worker.halves(job.group, store)
        if not born and not self.stalled:
            return [job]
        if len(job.group) > 1 or store.has(job.group[0]):
            store.checkpoints.finish(store.checkpoints.path(job.group))
            return [Job(half) for half in halves]
        if self.stalled:
            cause = f"no progress in {self.settings.stall:g} seconds (stall=)"
            store.failures.record(job.group[0], "stalled", cause)
        elif job.again:
            cause = f"its process {_ended(code)}, twice: most likely for want of memory"
            store.failures.record(job.group[0], "killed", cause)
        else:
            return [Job(job.group, again=True)]
        store.checkpoints.finish(store.checkpoints.path(job.group))
        return []

    def _renewed(self, job: Job, store: Store) -> list[Job]:
        """Let a worker that ran out of memory go and start another; what is left of a group of several is halved."""
        self.leave(at_once=False)
        self._start()
        store = Store(store.address)
        self.trained += sum(store.has(trial) for trial in job.group)
        return [Job(half) for half in worker.halves(job.group, store)]

    def stop(self) -> None:
        """Ask the worker to save what it is at and leave."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def leave(self, at_once: bool) -> None:
        """Let the worker go, while other work goes on."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        if at_once:
            self._signal(signal.SIGKILL)


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}" if code else "died"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


# in the worker


def _begin(settings: Settings, updates: Queue[float], owner: str) -> None:
    global _settings, _queue, _owner
    _settings, _queue, _owner = settings, updates, owner
    shutdown.leave_when_asked()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    worker.prepare(settings)
    updates.put(0.0)


def leave_with_parent() -> None:
    """Ends this worker process when the one that started it has ended; run it in a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(group: Group, path: Path) -> int:
    _queue.put(0.0)
    told = _throttled(_queue.put, patience=_settings.stall / 10)
    return worker.run_group(group, _settings, Store(path), told, _owner, expendable=True)


def _throttled(send: Callable[[float], Any], least: float = 0.25, patience: float = 0.0) -> worker.Progress:
    """Send at most once every `least` trials' worth or so, or every `patience` seconds; less may stay unsent."""
    held, last = 0.0, time.monotonic()

    def progress(amount: float) -> None:
        nonlocal held, last
        held += amount
        if held >= least or (patience and time.monotonic() - last >= patience):
            send(held)
            held, last = 0.0, time.monotonic()

    return progress
