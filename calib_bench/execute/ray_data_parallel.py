"""One large model on many processes of a Ray cluster, an actor for each: placed together or not at all, on as few
nodes as have room. When one is lost all are ended, and the group starts again from its trial's last checkpoint.
"""

from __future__ import annotations

import math
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from calib_bench import registry
from calib_bench.core.settings import Execution
from calib_bench.execute.ray_task import PeerLost, Rank
from calib_bench.planning.plan import Group
from calib_bench.train.fusion import fuse_key

GRACE = 5.0
"""Seconds that the processes of a gang have to fail too, once one has: only one of them knows the cause."""


def together(group: Group, execution: Execution) -> bool:
    """Whether a group trains on a gang: one trial that is not stacked, and that has something to train."""
    (first, *others) = group
    if execution.gang == 1 or others or not first.epochs:
        return False
    return fuse_key(first, registry.objectives(), execution.device) is None


def whole_gpus(wanted: dict[str, float]) -> dict[str, float]:
    """A demand with whole GPUs: NCCL lets no two processes share one."""
    return {**wanted, "GPU": float(math.ceil(wanted["GPU"]))}


class Submission:
    """A group that was submitted to the cluster: one task, or all processes of a gang."""

    def __init__(self, group: Group, tries: int, futures: list[Any]) -> None:
        self.group, self.tries, self.futures = group, tries, futures
        self.left = set(futures)

    def end(self) -> None:
        """Release what the submission holds on the cluster."""

    def cause(self, first: Exception) -> Exception:
        """The exception that made it fail, given the first one seen: one that blames no other process."""
        return first


class Gang(Submission):
    """A group on `gang` actors, whose requests are all sent at once: nothing here waits for room.

    Args:
        group: of one trial.
        tries: how often it was lost before.
        options: of one actor, as Ray wants them.
        bundle: the same as a demand on its node.
        rest: what `Rank.train` needs beyond these, the execution settings first.
    """

    def __init__(
        self, group: Group, tries: int, options: dict[str, Any], bundle: dict[str, float], rest: tuple[Any, ...]
    ) -> None:
        count = rest[0].gang
        self.place = placement_group([{name: n for name, n in bundle.items() if n}] * count, strategy="PACK")
        actor = ray.remote(Rank)
        self.ranks = [
            actor.options(
                **options,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self.place, placement_group_bundle_index=index),
            ).remote()
            for index in range(count)
        ]
        where = self.ranks[0].listen.remote()
        super().__init__(
            group, tries, [one.train.remote(where, rank, count, group, *rest) for rank, one in enumerate(self.ranks)]
        )

    def end(self) -> None:
        """End all processes and release their placement group."""
        for one in self.ranks:
            ray.kill(one)
        remove_placement_group(self.place)

    def cause(self, first: Exception) -> Exception:
        """The exception that blames no other process; the others have GRACE seconds to fail too."""
        ready, _ = ray.wait(self.futures, num_returns=len(self.futures), timeout=GRACE)
        errors = [error for error in map(_raised, ready) if error is not None]
        return next((error for error in errors if not blames(error)), first)


def blames(error: Exception) -> bool:
    """Whether a process failed because another had."""
    return isinstance(getattr(error, "cause", None), PeerLost)


def _raised(future: Any) -> Exception | None:
    try:
        ray.get(future)
    except Exception as error:
        return error
    return None
