"""Trials as tasks of a Ray cluster (Moritz et al., 2018, arXiv 1712.05889): Ray carries the work, the store keeps it.

A group is one task, which trains on whatever node has room and writes to the store itself, so that a driver holds
nothing that could be lost. A task whose worker, node or memory is lost starts again elsewhere, from its checkpoint.
With gang=N a trial that trains alone is a gang of N processes instead, which are placed and restarted together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from calib_bench.core.settings import Settings
from calib_bench.errors import ResourceError, UserError
from calib_bench.execute import local, worker
from calib_bench.execute.ray_data_parallel import Flight, Gang, blames, together, whole
from calib_bench.execute.ray_task import TICK, Reports, work
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.system.object_store import url_of

PORT = 6379
"""Of a cluster's head, where an address names none: Ray's default."""

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
"""What befalls a task from outside: it is worth another try."""


def connect(settings: Settings) -> None:
    """Join the cluster at `ray_address`, or start one in this process; done once.

    Raises:
        ResourceError: no cluster answers at that address.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    options = {"runtime_env": {"env_vars": passed}, "logging_level": "warning", "log_to_driver": True}
    address = settings.ray_address
    if address not in ("local", "auto"):
        _join(address if ":" in address else f"{address}:{PORT}", options)
        return
    if address == "auto":
        try:
            ray.init(address="auto", **options)
            return
        except ConnectionError:
            pass  # none runs here
    cores = local.worker_count(settings, "cpu") * settings.threads
    ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError, exceptions.RayError) as error:
        raise ResourceError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}): start one with `ray start --head` "
            f"there, or give ray_address=local"
        ) from None


def disconnect() -> None:
    """Leave the cluster; one that this process started ends."""
    ray.shutdown()


def demand(settings: Settings) -> dict[str, float]:
    """What one process of a task asks of its node: "CPU", "GPU" (a share of one), "memory" (bytes)."""
    share = settings.ray_gpus
    if share is None:
        share = float(settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0)
    return {"CPU": float(settings.threads), "GPU": share, "memory": settings.ray_memory * 2**30}


def room(wanted: dict[str, float]) -> int:
    """How many tasks of such a demand the cluster's nodes have room for at once.

    Raises:
        ResourceError: not a single one, on any node.
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


def capacity(settings: Settings) -> tuple[int, str]:
    """Connect; tasks at once, and the type of their device, "cpu" or "cuda"."""
    connect(settings)
    wanted = demand(settings)
    if settings.gang > 1:
        check_gang(settings, wanted)
    return room(wanted), "cuda" if wanted["GPU"] else "cpu"


def check_gang(settings: Settings, wanted: dict[str, float]) -> int:
    """Room for the processes of gangs; ResourceError when the cluster is too small for one: it would wait for ever."""
    if (count := room(whole(wanted))) < settings.gang:
        raise ResourceError(
            f"gang={settings.gang} needs {settings.gang} times {_words(whole(wanted))}, and the nodes of the Ray "
            f"cluster have room for {count}: start more nodes, or give gang={count}"
        )
    return count


def patiently(count: Callable[[], int]) -> int:
    """What `count` gives; where lost nodes have left too little room, others may join for PATIENCE seconds.

    Raises:
        ResourceError: as `count` does, after that time.
        Stopped: it was asked to.
    """
    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            return count()
        except ResourceError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                print(f"warning: nodes were lost: {error}. Waiting up to {PATIENCE:g} s for others", flush=True)
                told = True
        shutdown.check()
        time.sleep(TICK)


def options_of(wanted: dict[str, float]) -> dict[str, Any]:
    """A demand as Ray's options."""
    options: dict[str, Any] = {"num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"]}
    return options | ({"memory": int(wanted["memory"])} if wanted["memory"] else {})


def anywhere(settings: Settings, device: str) -> Settings:
    """Settings that mean the same on every node: whole paths, and the type of the device."""
    found = {
        "out": settings.out if url_of(settings.out) else settings.out.absolute(),
        "data": settings.data and settings.data.absolute(),
        "plugins": tuple(folder.absolute() for folder in settings.plugins),
        "device": device,
    }
    return settings.model_copy(update=found)


class Cluster:
    """A driver's tasks: `with Cluster(settings) as cluster: cluster.run(...)` round by round."""

    def __init__(self, settings: Settings) -> None:
        _, device = capacity(settings)
        self.settings, self.wanted = anywhere(settings, device), demand(settings)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.reports = ray.remote(Reports).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        self.news: Any = None
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
        waiting = [(group, 0) for group in sorted(groups, key=lambda group: (self._together(group), len(group)))]
        flying: dict[Any, Flight] = {}
        count, failures = 0, []  # type: int, list[BaseException]
        while waiting or flying:
            window = 2 * patiently(partial(self._room, flying.values()))
            while waiting and len(flying) < window:
                flight = self._submit(*waiting.pop())
                flying |= dict.fromkeys(flight.futures, flight)
            ready, _ = ray.wait(list(flying), timeout=TICK)
            self._tell(progress)
            for future in ready:
                if (found := flying.pop(future, None)) is None:
                    continue  # of a gang that failed
                try:
                    count += ray.get(future)
                    found.left.discard(future)
                except (*LOST, exceptions.RayTaskError) as first:
                    error = found.cause(first)
                    for other in found.left:
                        flying.pop(other, None)
                    found.left.clear()
                    if isinstance(error, LOST) or blames(error):
                        waiting += self._lost(found.group, found.tries, error, store)
                    else:
                        failures += self._failed(found, error, store)
                if not found.left:
                    found.end()
            shutdown.check()
        for _ in range(2):  # the last call may have been on its way before the last report
            self._tell(progress, wait=10 * TICK)
        if failures:
            raise failures[0]
        return count

    def _room(self, flights: Iterable[Flight]) -> int:
        """Tasks that there is room for at once.

        A gang is sent again as soon as it has lost a process, and Ray knows of a lost process before it knows of a
        lost node: it may wait for a place that is no more.

        Raises:
            ResourceError: there is too little of either.
        """
        if any(isinstance(one, Gang) for one in flights):
            check_gang(self.settings, self.wanted)
        return room(self.wanted)

    def _together(self, group: Group) -> bool:
        return together(group, self.settings)

    def _submit(self, group: Group, tries: int) -> Flight:
        rest = (self.settings, self.settings.folder, leases.OWNER, self.reports)
        if self._together(group):
            patiently(partial(check_gang, self.settings, self.wanted))
            wanted = whole(self.wanted)
            return Gang(group, tries, options_of(wanted), wanted, rest)
        name = f"{group[0].model} {group[0].key[:8]}" + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        options = options_of(self.wanted) | {"max_retries": 0}  # Ray would not bound its own for want of memory
        return Flight(group, tries, [self.task.options(name=name, **options).remote(group, *rest)])

    def _failed(self, flight: Flight, error: Exception, store: Store) -> list[Exception]:
        """What stops the run once the others have run; a trial that its gang could not finish is only recorded."""
        cause = getattr(error, "cause", error)
        if isinstance(flight, Gang) and not isinstance(cause, worker.FATAL):
            store = Store(store.address)
            store.failures.raised(flight.group[0], cause)
            store.checkpoints.finish(store.checkpoints.path(flight.group))
            return []
        return [_named(flight.group, cause)]

    def _tell(self, progress: worker.Progress, wait: float = 0.0) -> None:
        """Pass on what tasks reported; where that is late or lost, a bar stands still and nothing else."""
        self.news = self.news or self.reports.take.remote()
        if not ray.wait([self.news], timeout=wait)[0]:
            return
        with suppress(exceptions.RayError):
            if (amount := ray.get(self.news)) > 0:
                progress(amount)
        self.news = None

    def _lost(self, group: Group, tries: int, error: Exception, store: Store) -> list[tuple[Group, int]]:
        """What to try again of a group; one that lost worker upon worker is halved, until the culprit is alone."""
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        if tries < self.settings.retries:
            print(f"warning: trial {group[0].key} lost its worker ({what}): it goes on from its checkpoint", flush=True)
            return [(group, tries + 1)]
        store = Store(store.address)  # it has read what was there before
        if len(group) == 1 and not store.has(group[0]):
            cause = f"its worker was lost {tries + 1} times, the last time to {what}: most likely for want of memory"
            store.failures.record(group[0], "killed", cause)
        store.checkpoints.finish(store.checkpoints.path(group))
        return [(half, tries) for half in worker.halves(group, store)]


def _named(group: Group, cause: Exception) -> Exception:
    """A task's exception with the trial that it is of; what the user can put right stays that."""
    text = f"trial {group[0].key} ({group[0].model}): {cause}"
    return type(cause)(text) if isinstance(cause, UserError) else RuntimeError(f"{type(cause).__name__} in {text}")
