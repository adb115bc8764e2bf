"""Trials on this machine: one thread a worker, as many workers as cores."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path

from calib_bench import claims
from calib_bench.errors import ResourceError
from calib_bench.execute import worker
from calib_bench.plan import Group
from calib_bench.settings import Settings
from calib_bench.store import Store

_settings: Settings
_queue: Queue[float]
_owner: str


def worker_count(settings: Settings, device: str) -> int:
    """Workers for a device type: what was asked for, else one a core, or one on a GPU."""
    if settings.workers:
        return settings.workers
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // settings.threads)


class Workers:
    """Worker processes that live as long as a job: `with Workers(...) as workers: workers.run(...)` round by round.

    They are started when a round first has several groups; one group alone runs in this process.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings, self.count = settings, count
        self.pool: ProcessPoolExecutor | None = None
        self.updates: Queue[float]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.pool is None:
            return
        processes = list((self.pool._processes or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)  # they leave while the work goes on
        if kind is not None:
            for process in processes:
                process.terminate()

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every group; whatever finishes is stored at once, also when another group fails. Returns how many trials
        were trained: those that other drivers are at work on are left to them.

        Raises:
            ResourceError: memory ran out, or a worker process died.
        """
        if self.pool is None and (self.count == 1 or len(groups) == 1):
            worker.prepare(self.settings)
            return sum(worker.run_group(group, self.settings, store, progress) for group in groups)
        pool = self._started()
        futures = [pool.submit(_work, group, store.path) for group in sorted(groups, key=len, reverse=True)]
        return _watch(futures, self.updates, progress)

    def _started(self) -> ProcessPoolExecutor:
        if self.pool is None:
            # A worker that is stopped leaves its loaders' semaphores to the resource tracker, which frees them.
            os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
            context = multiprocessing.get_context("spawn")
            self.updates = context.Queue()
            self.pool = ProcessPoolExecutor(
                self.count, context, initializer=_start, initargs=(self.settings, self.updates, claims.OWNER)
            )
        return self.pool


def _watch(futures: list[Future[int]], updates: Queue[float], progress: worker.Progress) -> int:
    pending, count = set(futures), 0
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        _drain(updates, progress)
        for future in done:
            try:
                count += future.result()
            except BrokenProcessPool:
                raise ResourceError(
                    "a worker process died, most likely for want of memory: finished trials are stored; run the same "
                    "command again with fewer workers= or a smaller stack= or batch="
                ) from None
    return count


def _drain(updates: Queue[float], progress: worker.Progress) -> None:
    while True:
        try:
            progress(updates.get_nowait())
        except queue.Empty:
            return


def _start(settings: Settings, updates: Queue[float], owner: str) -> None:
    global _settings, _queue, _owner
    _settings, _queue, _owner = settings, updates, owner
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    worker.prepare(settings)


def leave_with_parent() -> None:
    """Ends this worker process when the one that started it has ended; run it in a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(group: Group, path: Path) -> int:
    return worker.run_group(group, _settings, Store(path), _throttled(_queue.put), _owner)


def _throttled(send: Callable[[float], object], least: float = 0.25) -> worker.Progress:
    """Send at most once every `least` trials' worth or so; less than that may stay unsent in the end."""
    held = 0.0

    def progress(amount: float) -> None:
        nonlocal held
        held += amount
        if held >= least:
            send(held)
            held = 0.0

    return progress
