"""Trials on all processes of a `torchrun` or of a gang of Ray's, one at a time: the main one leads, others follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calib_bench import registry
from calib_bench.core.settings import Execution
from calib_bench.core.trial import Trial
from calib_bench.execute import worker
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.system.device import pick
from calib_bench.train import distributed
from calib_bench.train.train import train


class Leader:
    """The main process: it announces each trial, trains it together with the others, and stores it."""

    def __init__(self, execution: Execution, owner: str = "") -> None:
        self.execution, self.owner = execution, owner or leases.owner()
        worker.prepare(execution)

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every trial of every group that no other driver is at work on, one after another; returns how many.

        Raises:
            Stopped: one of the processes was asked to leave; what was under way is saved, and all of them leave.
        """
        count = 0
        for trial in (trial for group in groups for trial in group):
            leave_if_asked()
            with worker.acquired((trial,), self.execution, store, self.owner) as (left, _):
                for one in left:
                    distributed.broadcast(("train", one.model_dump(mode="json"), str(store.checkpoints.begin((one,)))))
                    worker.train_group((one,), self.execution, store, progress)
                    count += 1
        return count


def dismiss() -> None:
    """Let the others go."""
    distributed.broadcast(("stop", None, None))


def leave_if_asked() -> None:
    """Between two trials: where the main process was asked to, let the others go and leave; it raises Stopped."""
    if shutdown.wished():
        dismiss()
        raise shutdown.Stopped


def follow(execution: Execution) -> None:
    """Follow: train what the main process announces, until it says that it is done.

    Raises:
        Stopped: one of the processes was asked to leave, and the main one has saved what was under way.
    """
    try:
        _follow(execution)
    except Exception as error:
        if shutdown.wished() and distributed.of_others(error):  # the main one had left before it led anything
            raise shutdown.Stopped from None
        raise


def _follow(execution: Execution) -> None:
    worker.prepare(execution)
    while True:
        word, fields, checkpoint = distributed.broadcast(("", None, ""))
        if word != "train":
            return
        trial = Trial.model_validate(fields)
        splits = worker.load_splits(execution, trial)
        train(
            (trial,),
            splits,
            device=pick(execution.device),
            objectives=registry.objectives(),
            probe=worker.probe_of(trial),
            checkpoint=Path(checkpoint),
            checkpoint_seconds=execution.checkpoint,
            micro_batch=execution.micro_batch,
        )
