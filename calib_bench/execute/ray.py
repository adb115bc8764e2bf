"""Trials as tasks of a Ray cluster (Moritz et al., 2018, arXiv 1712.05889): Ray carries the work, the store keeps it.

A group is one task, which trains on whatever node has room and writes to the store itself, so that a driver holds
nothing that could be lost. A task whose worker, node or memory is lost starts again elsewhere, from its checkpoint.
With gang=N a trial that trains alone is a gang of N processes instead, which are placed and restarted together.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from calib_bench.core.settings import Execution
from calib_bench.errors import ResourceError, UserError
from calib_bench.execute import local, worker
from calib_bench.execute.ray_data_parallel import Gang, Submission, blames, together, whole_gpus
from calib_bench.execute.ray_task import Reports, work
from calib_bench.execute.worker import TICK
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.system.object_store import url_of

PORT = 6379
"""Of a cluster's head, where an address names none: Ray's default."""

ANSWER = 10.0
"""Seconds in which a cluster's head must answer."""

PATIENCE = 300.0
"""Seconds that a run whose nodes were lost waits for others to join, before it gives up."""

PASSED_ON = ("CALIB_BENCH_DATA", "HF_HUB_OFFLINE", "HF_HOME", "OMP_NUM_THREADS")
"""Variables of the driver's environment that tasks get. No keys and tokens: Ray shows these to whoever may look."""

LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.ActorDiedError,
    exceptions.ActorUnavailableError,
    exceptions.LocalRayletDiedError,
)
"""Infrastructure failures: the task is retried."""


def connect(execution: Execution) -> None:
    """Join the cluster at `ray_address`, or start one in this process; done once.

    Raises:
        ResourceError: no cluster answers at that address.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    options = {"runtime_env": {"env_vars": passed}, "logging_level": "warning", "log_to_driver": True}
    address = execution.ray_address
    if address not in ("local", "auto"):
        _join(address if ":" in address else f"{address}:{PORT}", options)
        return
    if address == "auto":
        try:
            ray.init(address="auto", **options)
            return
        except ConnectionError:
            print("note: no Ray cluster runs here: one is started, of this machine alone", flush=True)
    cores = local.worker_count(execution, "cpu") * execution.threads
    ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)


def _join(address: str, options: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()  # Ray itself would try for minutes
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError, exceptions.RayError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): start one with `ray start --head` "
            f"there, or give ray_address=local"
        ) from None


def disconnect() -> None:
    """Leave the cluster; one that this process started ends."""
    ray.shutdown()


def demand(execution: Execution) -> dict[str, float]:
    """The resources that one process of a task needs: "CPU", "GPU" (a share of one), "memory" (bytes)."""
    share = execution.ray_gpus
    if share is None:
        share = float(execution.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
    return {"CPU": float(execution.threads), "GPU": share, "memory": execution.ray_memory * 2**30}


def room(wanted: dict[str, float]) -> int:
    """How many tasks that need these resources fit on the cluster's nodes at once.

    Raises:
        ResourceError: no node has room for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(_fits(node, wanted) for node in nodes)
    if not count:
        have = "; ".join(_words(node) for node in nodes)
        raise ResourceError(
            f"no node of the Ray cluster has {_words(wanted)}: it has {have}; ask for less with threads=, ray_gpus= or "
            f"ray_memory="
        )
    return count


def _fits(node: dict[str, float], wanted: dict[str, float]) -> int:
    return min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount > 0)


def _words(resources: dict[str, float]) -> str:
    cpu, gpu, memory = (resources.get(name, 0) for name in ("CPU", "GPU", "memory"))
    return f"{cpu:g} CPU, {gpu:g} GPU, {memory / 2**30:.1f} GiB"


def capacity(execution: Execution) -> tuple[int, str]:
    """Connect; returns how many tasks run at once, and the type of their device, "cpu" or "cuda"."""
    connect(execution)
    wanted = demand(execution)
    if execution.gang > 1:
        check_gang(execution, wanted)
    return room(wanted), "cuda" if wanted["GPU"] else "cpu"


def check_gang(execution: Execution, wanted: dict[str, float]) -> int:
    """How many processes of gangs the cluster has room for.

    Raises:
        ResourceError: it is too small for one gang, which would wait forever.
    """
    if (count := room(whole_gpus(wanted))) < execution.gang:
        raise ResourceError(
            f"gang={execution.gang} needs {execution.gang} times {_words(whole_gpus(wanted))}, and the nodes of the "
            f"Ray cluster have room for {count}: start more nodes, or give gang={count}"
        )
    return count


def wait_for_nodes(count: Callable[[], int]) -> int:
    """The result of `count`; while lost nodes have left too little room, wait up to PATIENCE seconds for others.

    Raises:
        ResourceError: as `count` does, after that time.
        Stopped: it was asked to.
    """
    deadline, warned = time.monotonic() + PATIENCE, False
    while True:
        try:
            return count()
        except ResourceError as error:
            if time.monotonic() > deadline:
                raise
            if not warned:
                print(f"warning: nodes were lost: {error}. Waiting up to {PATIENCE:g} s for others", flush=True)
                warned = True
        shutdown.check()
        time.sleep(TICK)


def options_of(wanted: dict[str, float]) -> dict[str, Any]:
    """A demand as Ray's options."""
    options: dict[str, Any] = {"num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"]}
    return options | ({"memory": int(wanted["memory"])} if wanted["memory"] else {})


def absolute_paths(execution: Execution, device: str) -> Execution:
    """Settings that mean the same on every node: absolute paths, and the type of the device."""
    update = {
        "out": _absolute(execution.out),
        "data": execution.data and execution.data.absolute(),
        "plugins": tuple(folder.absolute() for folder in execution.plugins),
        "device": device,
    }
    return execution.model_copy(update=update)


def _absolute(path: Path) -> Path:
    return path if url_of(path) else path.absolute()


class Cluster:
    """A driver's tasks: `with Cluster(execution) as cluster: cluster.run(...)` round by round."""

    def __init__(self, execution: Execution) -> None:
        _, device = capacity(execution)
        self.execution, self.wanted = absolute_paths(execution, device), demand(execution)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.reports = ray.remote(Reports).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self.store_path = Path()
        self.report: Any = None
        self.task = ray.remote(work)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *rest: object) -> None:
        disconnect()

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every group; whatever finishes is stored at once, also when another group fails. Returns how many trials
        were trained.

        Raises:
            Stopped: it was asked to; tasks go on from their last checkpoint.
            UserError: what concerns every trial, as the first group that met it raised it; the others have run.
        """
        self.store_path = _absolute(store.address)
        ordered = sorted(groups, key=lambda group: (together(group, self.execution), len(group)))
        waiting = [(group, 0) for group in ordered]
        running: dict[Any, Submission] = {}
        count, failures = 0, []  # type: int, list[Exception]
        while waiting or running:
            self._fill(running, waiting)
            ready, _ = ray.wait(list(running), timeout=TICK)
            self._report(progress)
            for future in ready:
                if (submission := running.pop(future, None)) is None:
                    continue  # of a gang that failed
                try:
                    count += ray.get(future)
                    submission.left.discard(future)
                except (*LOST, exceptions.RayTaskError) as error:
                    again, stopping = self._ended_badly(submission, error, running, store)
                    waiting += again
                    failures += stopping
                if not submission.left:
                    submission.end()
            shutdown.check()
        for _ in range(2):  # the last call may have been on its way before the last report
            self._report(progress, wait=10 * TICK)
        if failures:
            raise failures[0]
        return count

    def _ended_badly(
        self, submission: Submission, error: Exception, running: dict[Any, Submission], store: Store
    ) -> tuple[list[tuple[Group, int]], list[Exception]]:
        """The groups that retry what a submission could not do, or the errors that stop the run."""
        cause = submission.cause(error)
        for future in submission.left:
            running.pop(future, None)
        submission.left.clear()
        if isinstance(cause, LOST) or blames(cause):
            return self._lost(submission.group, submission.tries, cause, store), []
        return [], self._failed(submission, cause, store)

    def _fill(self, running: dict[Any, Submission], waiting: list[tuple[Group, int]]) -> None:
        """Submit waiting groups until twice as many tasks are submitted as there is room for."""
        window = 2 * wait_for_nodes(partial(self._room, running.values()))
        while waiting and len(running) < window:
            submission = self._submit(*waiting.pop())
            running |= dict.fromkeys(submission.futures, submission)

    def _room(self, submissions: Iterable[Submission]) -> int:
        """How many tasks there is room for at once.

        A gang is submitted again as soon as it has lost a process, and Ray learns of a lost process before it learns
        of a lost node: the gang may wait for a place that no longer exists.

        Raises:
            ResourceError: there is too little of either.
        """
        if any(isinstance(one, Gang) for one in submissions):
            check_gang(self.execution, self.wanted)
        return room(self.wanted)

    def _submit(self, group: Group, tries: int) -> Submission:
        rest = (self.execution, self.store_path, leases.owner(), self.reports)
        if together(group, self.execution):
            wait_for_nodes(partial(check_gang, self.execution, self.wanted))
            wanted = whole_gpus(self.wanted)
            return Gang(group, tries, options_of(wanted), wanted, rest)
        name = f"{group[0].model} {group[0].key[:8]}" + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        options = options_of(self.wanted) | {"max_retries": 0}  # Ray retries without bound for lack of memory
        return Submission(group, tries, [self.task.options(name=name, **options).remote(group, *rest)])

    def _failed(self, submission: Submission, error: Exception, store: Store) -> list[Exception]:
        """The errors that stop the run once all others have run; a trial that its gang could not finish is recorded."""
        cause = getattr(error, "cause", error)
        if isinstance(submission, Gang) and not isinstance(cause, worker.FATAL):
            store = Store(store.address)
            store.failures.raised(submission.group[0], cause)
            store.checkpoints.finish(store.checkpoints.path(submission.group))
            return []
        return [_named(submission.group, cause)]

    def _report(self, progress: worker.Progress, wait: float = 0.0) -> None:
        """Pass on the progress that tasks reported; a late or lost report delays the progress bar alone."""
        self.report = self.report or self.reports.take.remote()
        if not ray.wait([self.report], timeout=wait)[0]:
            return
        with suppress(exceptions.RayError):
            if (amount := ray.get(self.report)) > 0:
                progress(amount)
        self.report = None

    def _lost(self, group: Group, tries: int, error: Exception, store: Store) -> list[tuple[Group, int]]:
        """The groups that retry this one; one that loses worker after worker is halved until the culprit is alone."""
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if tries < self.execution.retries:
            print(f"warning: trial {group[0].key} lost its worker ({what}): it resumes from its checkpoint", flush=True)
            return [(group, tries + 1)]
        store = Store(store.address)  # the other one has cached what was there before
        if len(group) == 1 and not store.has(group[0]):
            cause = f"its worker was lost {tries + 1} times, the last time to {what}: most likely for lack of memory"
            store.failures.record(group[0], "killed", cause)
        store.checkpoints.finish(store.checkpoints.path(group))
        return [(half, tries) for half in worker.halves(group, store)]


def _named(group: Group, cause: Exception) -> Exception:
    """A task's exception, its message naming the trial; a UserError keeps its type."""
    text = f"trial {group[0].key} ({group[0].model}): {cause}"
    return type(cause)(text) if isinstance(cause, UserError) else RuntimeError(f"{type(cause).__name__} in {text}")
