"""The analysis's many small jobs, on worker processes once there is enough to do: the same results either way."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from calib_bench.errors import ResourceError
from calib_bench.execute import local, slot, worker
from calib_bench.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")
PATIENCE = 5.0
"""Seconds of work done in this process before others are started, which costs each a second or two of imports."""
SHARE = 0.5
"""Of the free memory, what the workers may take."""
_current: _Pool | None = None


@contextmanager
def workers(settings: Settings) -> Iterator[None]:
    """Inside, `each` may use as many processes as training would on this machine's processor."""
    global _current
    before, _current = _current, _Pool(settings)
    try:
        yield
    finally:
        _current.close()
        _current = before


def each(function: Callable[[Item], Result], items: Iterable[Item], memory: int = 0) -> Iterator[Result]:
    """As `map`, in order; outside `workers` it is just that.

    Args:
        function: picklable, as are items and results.
        memory: bytes that an item needs at most; 0 where it is little.

    Raises:
        ResourceError: a worker process died.
    """
    return map(function, items) if _current is None else _current.map(function, list(items), memory)


class _Pool:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spent = 0.0
        self.pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[Item], Result], items: list[Item], memory: int) -> Iterator[Result]:
        rest = iter(items)
        for item in rest if self.pool is None else ():
            start = time.perf_counter()
            result = function(item)
            self.spent += time.perf_counter() - start
            yield result
            if self.spent > PATIENCE:
                break
        left = list(rest)
        count = self._count(memory)
        if count < 2 or len(left) < 2:
            yield from map(function, left)
            return
        try:
            yield from self._started(count).map(function, left)
        except BrokenProcessPool:
            raise ResourceError(
                "a process of the analysis died, most likely for want of memory: run the report again with workers=1"
            ) from None

    def _count(self, memory: int) -> int:
        import psutil

        count = local.worker_count(self.settings, "cpu")
        return min(count, int(SHARE * psutil.virtual_memory().available / memory)) if memory else count

    def _started(self, count: int) -> ProcessPoolExecutor:
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(self.settings,))
        return self.pool

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)


def _start(settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=slot.leave_with_parent, daemon=True).start()
    worker.prepare(settings)
