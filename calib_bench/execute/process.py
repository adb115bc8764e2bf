"""One worker process: its job, its last sign of progress, and what to do when it dies or stalls."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

from calib_bench.core.settings import Execution
from calib_bench.core.trial import Trial
from calib_bench.errors import ResourceError
from calib_bench.execute import fork_server, worker
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown

START_SECONDS = 300.0
"""Seconds that a worker may take to start, however short `stall` is."""
STARTS = 3
"""How many workers in a row may die before they have started."""
_execution: Execution
_queue: Queue[float]
_owner: str


@dataclass(frozen=True)
class Job:
    """A group to run.

    Attributes:
        again: whether its process was killed before, possibly for the memory that another process took.
    """

    group: Group
    again: bool = False


class WorkerProcess:
    """A worker process, restarted when it is lost."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.job: Job | None = None
        self.future: Future[int] | None = None
        self.failed_starts = self.trained = 0
        self.exit_code: int | None = None
        self._start()

    def _start(self) -> None:
        # A worker that is stopped leaves its loaders' semaphores to the resource tracker, which frees them.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
        context = fork_server.context()
        self.updates: Queue[float] = context.Queue()  # of its own: who dies while sending leaves it locked
        words = (dict(os.environ), self.execution, self.updates, leases.owner())
        self.pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=words)
        self.processes: list[BaseProcess] = []
        self.ready = False

    def begin(self, job: Job, store: Store) -> None:
        """Let the worker run a job."""
        self.job, self.stalled, self.heard = job, False, time.monotonic()
        with fork_server.apart_from_main():
            self.future = self.pool.submit(_work, job.group, store.address)
        self.processes = list((self.pool._processes or {}).values())

    def tell(self, progress: worker.Progress) -> None:
        """Pass on the progress that the worker reported."""
        with contextlib.suppress(queue.Empty):
            while True:
                amount = self.updates.get_nowait()
                self.ready, self.failed_starts, self.heard = True, 0, time.monotonic()
                progress(amount)

    def look(self, store: Store) -> list[Job]:
        """Look whether the job is over, died or stalled; returns the jobs that retry what is left of it.

        Raises:
            ResourceError: workers die before they have started.
            Exception: an error of the job that concerns every trial.
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
        stall = self.execution.stall if self.ready else max(self.execution.stall, START_SECONDS)
        if self.execution.stall and not self.stalled and time.monotonic() - self.heard > stall:
            self.stalled = True
            self._signal(signal.SIGKILL)

    def _lost(self, job: Job, store: Store) -> list[Job]:
        """Restart the worker; a group of several is halved, and a single trial fails or is retried once."""
        started = self.ready
        self._restart()
        store = Store(store.address)  # the other one has cached what was there before
        if not started and not self.stalled:
            return [job]
        if len(job.group) > 1 or store.has(job.group[0]):
            store.checkpoints.finish(store.checkpoints.path(job.group))
            return [Job(half) for half in worker.halves(job.group, store)]
        if not self.stalled and not job.again:
            return [Job(job.group, again=True)]
        self._record_failure(job.group[0], store)
        store.checkpoints.finish(store.checkpoints.path(job.group))
        return []

    def _restart(self) -> None:
        """Start another process in place of one that ended.

        Raises:
            ResourceError: STARTS processes in a row ended before they had started.
        """
        for process in self.processes:
            process.join(10)
        self.exit_code = next((process.exitcode for process in self.processes if process.exitcode), None)
        self.failed_starts += not (self.ready or self.stalled)
        if self.failed_starts >= STARTS:
            raise ResourceError(
                f"{self.failed_starts} worker processes in a row {_ended(self.exit_code)} while starting: give fewer "
                f"workers=, or check the system's log for lack of memory"
            )
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._start()

    def _record_failure(self, trial: Trial, store: Store) -> None:
        if self.stalled:
            cause = f"no progress in {self.execution.stall:g} seconds (stall=)"
            store.failures.record(trial, "stalled", cause)
        else:
            cause = f"its process {_ended(self.exit_code)}, twice: most likely for lack of memory"
            store.failures.record(trial, "killed", cause)

    def _renewed(self, job: Job, store: Store) -> list[Job]:
        """Replace a worker that ran out of memory; what is left of a group of several is halved."""
        self.leave(at_once=False)
        self._start()
        store = Store(store.address)
        self.trained += sum(store.has(trial) for trial in job.group)
        return [Job(half) for half in worker.halves(job.group, store)]

    def stop(self) -> None:
        """Ask the worker to save its state and leave."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def leave(self, at_once: bool) -> None:
        """End the worker without waiting for it."""
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


def _begin(environ: dict[str, str], execution: Execution, updates: Queue[float], owner: str) -> None:
    global _execution, _queue, _owner
    _execution, _queue, _owner = execution, updates, owner
    fork_server.settle(environ)
    fork_server.end_with_parent()
    shutdown.leave_when_asked()
    fork_server.heed()
    worker.prepare(execution)
    updates.put(0.0)


def _work(group: Group, path: Path) -> int:
    _queue.put(0.0)
    seconds = min(worker.TICK, _execution.stall / 10) if _execution.stall else worker.TICK
    progress = worker.throttled(_queue.put, seconds)
    return worker.run_group(group, _execution, _store(path), progress, _owner, expendable=True)


@lru_cache(maxsize=1)
def _store(path: Path) -> Store:
    """The run folder, opened once: to list thousands of stored trials for each group took as long as to train it."""
    return Store(path)
