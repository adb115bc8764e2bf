"""The analysis's many small jobs, here and on worker processes once there is enough to do: the same results."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from calib_bench.errors import ResourceError
from calib_bench.execute import local, slot, worker
from calib_bench.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH = 3.0
"""Seconds of work left, as far as is known, that are worth other processes: each costs a second or two to start."""
AHEAD = 6
"""Jobs a worker has waiting, in hand or done but not yet asked for."""
SHARE = 0.5
"""Of the free memory, what all processes may take."""
_current: _Pool | None = None


@contextmanager
def workers(settings: Settings) -> Iterator[None]:
    """Inside, `each` may use as many processes as training would on this machine's processor, this one among them."""
    global _current
    if _current is not None:
        yield
        return
    _current = _Pool(settings)
    try:
        with _current.alike():
            yield
    finally:
        _current.close()
        _current = None


def up() -> bool:
    """Whether there are workers by now."""
    return _current is not None and _current.up()


def each(function: Callable[[Item], Result], items: Iterable[Item], memory: int = 0) -> Iterator[Result]:
    """As `map`, in order; outside `workers` it is just that.

    Inside, the jobs are known at once, and workers go on to them while this process does other things: those of
    several calls in the order of the calls. Whoever waits for a result does other jobs meanwhile.

    Args:
        function: picklable, as are items and results.
        memory: bytes that an item needs at most; 0 where it is little.

    Raises:
        ResourceError: a worker process died.
    """
    return map(function, items) if _current is None else _current.map(function, list(items), memory)


class _Jobs(Generic[Item, Result]):
    """One call's jobs: those that workers have, and what came of those that were done."""

    def __init__(self, function: Callable[[Item], Result], items: list[Item]) -> None:
        self.function, self.items = function, items
        self.given: dict[int, Future[Result]] = {}
        self.done: dict[int, Result] = {}
        self.left = list(range(len(items)))

    def give(self, executor: ProcessPoolExecutor, count: int) -> int:
        """Gives workers so many of the jobs that nobody has; how many there were."""
        some, self.left = self.left[:count], self.left[count:]
        for i in some:
            self.given[i] = executor.submit(self.function, self.items[i])
        return len(some)

    def take(self, i: int | None = None) -> bool:
        """Does job i, or else the last that nobody has begun, here; whether there was one."""
        if i is None:
            waiting = (j for j in sorted(self.given, reverse=True) if self.given[j].cancel())
            i = self.left[-1] if self.left else next(waiting, None)
        if i is None:
            return False
        self.given.pop(i, None)
        if i in self.left:
            self.left.remove(i)
        self.done[i] = self.function(self.items[i])
        return True


class _Pool:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.executor: ProcessPoolExecutor | None = None
        self.workers = 0
        self.begun: list[Future[None]] = []
        self.open: list[_Jobs[Any, Any]] = []

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Threads and denormals here as in a worker: the other cores are others', and no bit says who did a job."""
        import torch
        from threadpoolctl import threadpool_limits

        if local.worker_count(self.settings, "cpu") < 2:
            yield
            return
        threads, flushed = torch.get_num_threads(), not (torch.full((), 2.0**-1060, dtype=torch.float64) * 1).item()
        torch.set_num_threads(self.settings.threads)
        torch.set_flush_denormal(True)
        try:
            with threadpool_limits(self.settings.threads, "blas"):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)

    def map(self, function: Callable[[Item], Result], items: list[Item], memory: int) -> Iterator[Result]:
        count = self._count(memory)
        if count < 2 or not items:
            return map(function, items)
        jobs = _Jobs(function, items)
        self.open.append(jobs)
        self._hand_out()
        return self._results(jobs, count)

    def up(self) -> bool:
        """Whether a worker has come up."""
        return any(one.done() for one in self.begun)

    def _results(self, jobs: _Jobs[Item, Result], count: int) -> Iterator[Result]:
        try:
            for i in range(len(jobs.items)):
                while i not in jobs.done:
                    self._hand_out()
                    if i not in jobs.given:
                        start = time.perf_counter()
                        jobs.take(i)
                        self._judge(time.perf_counter() - start, count)
                    elif jobs.given[i].done() or not any(some.take() for some in self.open):
                        jobs.done[i] = jobs.given.pop(i).result()
                yield jobs.done.pop(i)
        except BrokenProcessPool:
            raise ResourceError(
                "a process of the analysis died, most likely for want of memory: run the report again with workers=1"
            ) from None
        finally:
            if jobs in self.open:
                self.open.remove(jobs)

    def _count(self, memory: int) -> int:
        import psutil

        count = local.worker_count(self.settings, "cpu")
        return min(count, int(SHARE * psutil.virtual_memory().available / memory)) if memory else count

    def _judge(self, seconds: float, count: int) -> None:
        """Starts workers if jobs like one that took so long leave enough to do."""
        if self.executor is None and seconds * sum(len(jobs.left) for jobs in self.open) > WORTH:
            context = multiprocessing.get_context("spawn")
            self.workers = count - 1
            self.executor = ProcessPoolExecutor(self.workers, context, initializer=_start, initargs=(self.settings,))
            self.begun = [self.executor.submit(_nothing) for _ in range(self.workers)]

    def _hand_out(self) -> None:
        """Gives workers that are up enough to do."""
        if self.executor is None or not self.up():
            return
        room = AHEAD * self.workers - sum(len(jobs.given) for jobs in self.open)
        for jobs in self.open:
            if room > 0:
                room -= jobs.give(self.executor, room)

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    """A first job, to tell that a worker is up."""


def _start(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=slot.leave_with_parent, daemon=True).start()
    from threadpoolctl import threadpool_limits

    worker.prepare(settings)
    threadpool_limits(settings.threads, "blas")
