"""The analysis's many small jobs, here and on worker processes once there is enough to do: the same results."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

from calib_bench.core.settings import Execution
from calib_bench.errors import ResourceError
from calib_bench.execute import fork_server, local, worker
from calib_bench.system.device import as_in_worker

Item = TypeVar("Item")
Result = TypeVar("Result")
WORTH = 0.7
"""Estimated seconds of work left that are worth starting processes for: each takes some tenths of one to start."""
COLD = 4
"""Times as much work is worth it where the server that they are forked from does not run yet, and must first import."""
WAITING = 2
"""Jobs queued per worker."""
AHEAD = 8
"""Jobs per worker whose results nobody has asked for yet: results wait in memory."""
SHARE = 0.5
"""Share of the free memory that all processes may take."""
COLLECTED = (50_000, 10, 10)
"""Thresholds of Python's garbage collector: tables and drawings are many small objects, few of which are garbage."""
_current: _Pool | None = None


@contextmanager
def workers(execution: Execution) -> Iterator[None]:
    """Inside, `each` may use as many processes as training would on this machine's processor, this one among them."""
    global _current
    if _current is not None:
        yield
        return
    _current = _Pool(execution)
    try:
        with _current.alike(), _rarely_collected():
            yield
    finally:
        _current.close()
        _current = None


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Garbage is looked for less often, and not among the modules that are loaded: that took 8% of a report's time."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*COLLECTED)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def up() -> bool:
    """Whether worker processes have started."""
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
    """The jobs of one call: those that workers have, and the results of those that are done."""

    def __init__(self, function: Callable[[Item], Result], items: list[Item]) -> None:
        self.function, self.items = function, items
        self.futures: dict[int, Future[Result]] = {}
        self.done: dict[int, Result] = {}
        self.left = list(range(len(items)))

    def give(self, executor: ProcessPoolExecutor, count: int) -> list[Future[Result]]:
        """Submit `count` of the jobs that nobody has; returns their futures."""
        numbers = self.left[:count]
        for i in numbers:
            self.futures[i] = executor.submit(self.function, self.items[i])
            self.left.remove(i)
        return [self.futures[i] for i in numbers]


class _Pool:
    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.executor: ProcessPoolExecutor | None = None
        self.workers = 0
        self.begun: list[Future[None]] = []
        self.open: list[_Jobs[Any, Any]] = []
        self.lock = threading.RLock()  # a call's end may come at any time: when its iterator is collected

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Threads and denormals here as in a worker: the other cores are others', and no bit says who did a job."""
        if local.worker_count(self.execution, "cpu") < 2:
            yield
            return
        with as_in_worker(self.execution.threads):
            yield

    def map(self, function: Callable[[Item], Result], items: list[Item], memory: int) -> Iterator[Result]:
        count = self._count(memory)
        if count < 2 or not items:
            return map(function, items)
        jobs = _Jobs(function, items)
        results = self._results(jobs, count)
        next(results)  # begun, so that its end is seen even if nobody asks for a result
        return results

    def up(self) -> bool:
        """Whether a worker has started."""
        return any(one.done() for one in self.begun)

    def _results(self, jobs: _Jobs[Item, Result], count: int) -> Iterator[Result]:
        """First nothing, once its jobs are known, then each result in order."""
        with self.lock:
            self.open.append(jobs)
        try:
            with suppress(BrokenProcessPool):  # told when a result is asked for
                self._hand_out()
            yield  # type: ignore[misc]
            for i in range(len(jobs.items)):
                while i not in jobs.done:
                    self._hand_out()
                    future = jobs.futures.get(i)
                    if future is not None and (future.done() or not self._take(self.open)):
                        jobs.done[i] = future.result()
                        with self.lock:
                            del jobs.futures[i]
                    elif future is None:
                        start = time.perf_counter()
                        if self._take([jobs], i):
                            self._judge(time.perf_counter() - start, count)
                yield jobs.done.pop(i)
        except BrokenProcessPool:
            raise ResourceError(
                "a process of the analysis died, most likely for lack of memory: run the report again with workers=1"
            ) from None
        finally:
            with self.lock:
                self.open.remove(jobs)

    def _take(self, candidates: list[_Jobs[Any, Any]], wanted: int | None = None) -> bool:
        """Do the wanted job in this process, or else the last one that nobody has; returns whether there was one.

        Jobs that a worker has stay with it: an executor never ends if a worker dies while its job is cancelled.
        """
        with self.lock:
            jobs = next((jobs for jobs in candidates if jobs.left), None)
            i = jobs.left[-1] if jobs and wanted is None else wanted
            if jobs is None or i not in jobs.left:
                return False
            jobs.left.remove(i)
        try:
            jobs.done[i] = jobs.function(jobs.items[i])
        except BaseException:  # those who ask for it meet the same
            with self.lock:
                insort(jobs.left, i)
            raise
        return True

    def _count(self, memory: int) -> int:
        import psutil

        count = local.worker_count(self.execution, "cpu")
        return min(count, int(SHARE * psutil.virtual_memory().available / memory)) if memory else count

    def _judge(self, seconds: float, count: int) -> None:
        """Start workers if jobs that take `seconds` each leave enough work."""
        worth = WORTH if fork_server.runs() else COLD * WORTH
        if self.executor is None and seconds * sum(len(jobs.left) for jobs in self.open) > worth:
            self.workers, words = count - 1, (dict(os.environ), self.execution)
            self.executor = ProcessPoolExecutor(self.workers, fork_server.context(), initializer=_start, initargs=words)
            with fork_server.apart_from_main():
                self.begun = [self.executor.submit(_nothing) for _ in range(self.workers)]

    def _hand_out(self) -> None:
        """Queue jobs for the workers that have started; they get more as they finish."""
        with self.lock:
            if self.executor is None or not self.up():
                return
            futures = [future for jobs in self.open for future in jobs.futures.values()]
            waiting = sum(not future.done() for future in futures)
            room = min(WAITING * self.workers - waiting, AHEAD * self.workers - len(futures))
            new: list[Future[Any]] = []
            for jobs in self.open:
                new += jobs.give(self.executor, max(room - len(new), 0))
        for future in new:
            future.add_done_callback(self._hand_out_more)

    def _hand_out_more(self, done: Future[Any]) -> None:
        if not done.cancelled() and done.exception() is None:
            with suppress(BrokenProcessPool):  # whoever asks for a result is told
                self._hand_out()

    def close(self) -> None:
        with self.lock:
            executor, self.executor = self.executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)


def _nothing() -> None:
    """A first job, to tell that a worker is up."""


def _start(environ: dict[str, str], execution: Execution) -> None:
    fork_server.settle(environ)
    fork_server.end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fork_server.heed()
    from threadpoolctl import threadpool_limits

    worker.prepare(execution)
    threadpool_limits(execution.threads, "blas")
    gc.freeze()
    gc.set_threshold(*COLLECTED)
