"""Trials on this machine: by default one worker process per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from calib_bench.core.settings import Execution
from calib_bench.execute import worker
from calib_bench.execute.process import Job, WorkerProcess
from calib_bench.planning.plan import Group
from calib_bench.store.store import Store
from calib_bench.system import environment, shutdown

POLL = 0.2
"""Seconds between two checks of the workers."""
PATIENCE = 60.0
"""Seconds that workers have to save their state when the run stops."""


def worker_count(execution: Execution, device: str) -> int:
    """Number of workers for a device type: `workers`, else one per core, or one on a GPU."""
    if execution.workers:
        return execution.workers
    if device != "cpu":
        return 1
    return max(1, environment.cores() // execution.threads)


class Workers:
    """Worker processes that live as long as a job: `with Workers(...) as workers: workers.run(...)` round by round.

    They are started when a round first has several groups; one group alone, or one worker, runs in this process, unless
    `stall` asks for a watch over it. A worker that dies or stalls costs only the trial that it was at.
    """

    def __init__(self, execution: Execution, count: int) -> None:
        self.execution, self.count = execution, count
        self.workers: list[WorkerProcess] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is not None and issubclass(kind, (Exception, shutdown.Stopped)):
                self._save()
        finally:
            for process in self.workers:
                process.leave(at_once=kind is not None)

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every group; whatever finishes is stored at once, also when another group fails. Returns how many trials
        were trained: those that other drivers are at work on are left to them.

        Raises:
            Stopped: it was asked to, and what is under way is saved.
            ResourceError: no worker process can be started, or the disk is full.
        """
        if self._is_for_this_process(groups):
            worker.prepare(self.execution)
            return sum(worker.run_group(group, self.execution, store, progress) for group in groups)
        before = sum(process.trained for process in self.workers)
        waiting = deque(Job(group) for group in sorted(groups, key=len, reverse=True))
        while waiting or self._busy():
            self._hand_out(waiting, store)
            wait(self._futures(), POLL, FIRST_COMPLETED)
            for process in self._busy():
                process.tell(progress)
                waiting.extend(self._look(process, store))
            shutdown.check()
        return sum(process.trained for process in self.workers) - before

    def _is_for_this_process(self, groups: Sequence[Group]) -> bool:
        return not self.workers and not self.execution.stall and (self.count == 1 or len(groups) == 1)

    def _look(self, process: WorkerProcess, store: Store) -> list[Job]:
        """Jobs that retry what is left of a worker's job. A worker that was asked to leave asks for the whole run."""
        try:
            return process.look(store)
        except shutdown.Stopped:
            shutdown.request()
            raise

    def _busy(self) -> list[WorkerProcess]:
        return [process for process in self.workers if process.job is not None]

    def _futures(self) -> list[Future[int]]:
        return [process.future for process in self._busy() if process.future]

    def _hand_out(self, waiting: deque[Job], store: Store) -> None:
        """Give every free worker a job, and start workers while there is work for them."""
        while waiting:
            free = next((process for process in self.workers if process.job is None), None)
            if free is None and len(self.workers) < self.count:
                free = WorkerProcess(self.execution)
                self.workers.append(free)
            if free is None:
                return
            free.begin(waiting.popleft(), store)

    def _save(self) -> None:
        """Ask the workers that are at a job to save their state, and wait until they have."""
        for process in self._busy():
            process.stop()
        wait(self._futures(), PATIENCE)
