"""Trials on this machine: one thread a worker, as many workers as cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, wait

from calib_bench.core.settings import Settings
from calib_bench.execute import worker
from calib_bench.execute.process import Job, Slot
from calib_bench.planning.plan import Group
from calib_bench.store.store import Store
from calib_bench.system import shutdown

POLL = 0.2
"""Seconds between two looks at the workers."""
PATIENCE = 60.0
"""Seconds that workers have to save what they are at when the run is to stop."""


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

    They are started when a round first has several groups; one group alone, or one worker, runs in this process, unless
    `stall` asks for a watch over it. A worker that dies or stalls costs only the trial that it was at.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings, self.count = settings, count
        self.slots: list[Slot] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        busy = [slot for slot in self.slots if slot.job is not None]
        if kind is not None and issubclass(kind, Exception):
            self._stop(busy)
        for slot in self.slots:
            slot.leave(at_once=kind is not None)

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every group; whatever finishes is stored at once, also when another group fails. Returns how many trials
        were trained: those that other drivers are at work on are left to them.

        Raises:
            Stopped: it was asked to, and what is under way is saved.
            ResourceError: no worker process can be started, or the disk is full.
        """
        if not self.slots and not self.settings.stall and (self.count == 1 or len(groups) == 1):
            worker.prepare(self.settings)
            return sum(worker.run_group(group, self.settings, store, progress) for group in groups)
        before = sum(slot.trained for slot in self.slots)
        waiting = deque(Job(group) for group in sorted(groups, key=len, reverse=True))
        while waiting or self._busy():
            self._hand_out(waiting, store)
            wait([slot.future for slot in self._busy() if slot.future], POLL, FIRST_COMPLETED)
            for slot in self._busy():
                slot.tell(progress)
                waiting.extend(slot.look(store))
            if shutdown.requested():
                self._stop(self._busy())
                raise shutdown.Stopped
        return sum(slot.trained for slot in self.slots) - before

    def _busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.job is not None]

    def _hand_out(self, waiting: deque[Job], store: Store) -> None:
        """Give every free worker a job, and start one more while there is work for it."""
        while waiting:
            free = next((slot for slot in self.slots if slot.job is None), None)
            if free is None and len(self.slots) < self.count:
                free = Slot(self.settings)
                self.slots.append(free)
            if free is None:
                return
            free.begin(waiting.popleft(), store)

    def _stop(self, busy: list[Slot]) -> None:
        """Ask workers to save what they are at, and wait until they have."""
        for slot in busy:
            slot.stop()
        wait([slot.future for slot in busy if slot.future], PATIENCE)
