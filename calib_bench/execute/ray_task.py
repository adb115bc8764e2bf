"""What runs on the nodes of a Ray cluster: a task for a group, or actors that train one large model together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calib_bench.core.settings import Execution
from calib_bench.errors import StoreError
from calib_bench.execute import data_parallel, worker
from calib_bench.planning.plan import Group
from calib_bench.store.store import Store
from calib_bench.train import distributed


class Reports:
    """An actor beside the driver that adds up the progress of all tasks."""

    def __init__(self) -> None:
        self.amount = 0.0

    def add(self, amount: float) -> None:
        """Add progress, in trials."""
        self.amount += amount

    def take(self) -> float:
        """The progress since the last call."""
        amount, self.amount = self.amount, 0.0
        return amount


def open_store(path: Path) -> Store:
    """The driver's store, as a node sees it.

    Raises:
        StoreError: it does not see it.
    """
    try:
        return Store(path, "read")
    except StoreError as error:
        raise StoreError(
            f"a node of the Ray cluster does not see the store ({error}): out= must be a folder that every node "
            f"shares, or an object store, as out=s3://bucket/folder"
        ) from None


def work(group: Group, execution: Execution, path: Path, owner: str, reports: Any) -> int:
    """The body of a task: train a group and store its outcomes; returns how many trials it trained."""
    worker.prepare(execution)
    progress = worker.throttled(reports.add.remote)
    count = worker.run_group(group, execution, open_store(path), progress, owner)
    progress(0.0)
    return count


class PeerLost(Exception):
    """A process of a gang cannot continue, since another one is gone."""


class Rank:
    """One process of a gang: an actor in a bundle of its placement group."""

    def __init__(self) -> None:
        self.meeting: Any = None

    def listen(self) -> tuple[str, int]:
        """Let the others join here; returns the address of this node and a free port of it."""
        import ray

        address = ray.util.get_node_ip_address()
        self.meeting = distributed.meeting(address)
        return address, self.meeting.port

    def train(
        self, where: tuple[str, int], rank: int, world: int, group: Group, execution: Execution, path: Path, owner: str,
        reports: Any,
    ) -> int:  # fmt: skip
        """Train the group's trials together with the others; returns how many, in the main process.

        Args:
            where: what the main process's `listen` returned.
            rank: number of this process, 0 for the main one.
            world: how many there are.
            group, execution, path, owner, reports: as those of `work`.

        Raises:
            PeerLost: the cause is with another process.
        """
        import ray

        try:
            store = self.meeting or distributed.meeting(*where)
            device = distributed.join(execution.device, rank, world, store, ray.util.get_node_ip_address())
            execution = execution.model_copy(update={"device": str(device)})
            if rank:
                data_parallel.follow(execution)
                return 0
            progress = worker.throttled(reports.add.remote)
            count = data_parallel.Leader(execution, owner).run([group], open_store(path), progress)
            progress(0.0)
            data_parallel.dismiss()
            return count
        except Exception as error:
            if distributed.of_others(error):
                raise PeerLost(" ".join(str(error).split())) from None
            raise
