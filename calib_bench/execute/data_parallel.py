"""Trials on all processes of a `torchrun` or of a gang of Ray's, one at a time: the main one leads, others follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calib_bench import registry
from calib_bench.core.settings import Settings
from calib_bench.core.trial import Trial
from calib_bench.execute import worker
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.train import distributed


class Leader:
    """The main process: it announces each trial, trains it together with the others, and stores it."""

    def __init__(self, settings: Settings, owner: str = leases.OWNER) -> None:
        self.settings, self.owner = settings, owner
        worker.prepare(settings)

    def run(self, groups: Sequence[Group], store: Store, progress: worker.Progress) -> int:
        """Run every trial of every group that no other driver is at work on, one after another; returns how many."""
        count = 0
        for trial in (trial for group in groups for trial in group):
            with worker.acquired((trial,), self.settings, store, self.owner) as (left, _):
                for one in left:
                    distributed.broadcast(("train", one.model_dump(mode="json"), str(store.checkpoints.begin((one,)))))
                    worker.train_group((one,), self.settings, store, progress)
                    count += 1
        return count


def dismiss() -> None:
    """Let the others go."""
    distributed.broadcast(("stop", None, None))


def follow(settings: Settings) -> None:
    """Follow: train what the main process announces, until it says that it is done."""
    from calib_bench.system.device import pick
    from calib_bench.train.train import train

    worker.prepare(settings)
    while True:
        word, fields, checkpoint = distributed.broadcast(("", None, ""))
        if word != "train":
            return
        trial = Trial.model_validate(fields)
        splits = worker.load_splits(settings, trial)
        train(
            (trial,),
            splits,
            device=pick(settings.device),
            objectives=registry.objectives(),
            probe=worker.probe_of(trial),
            checkpoint=Path(checkpoint),
            checkpoint_seconds=settings.checkpoint,
            micro_batch=settings.micro_batch,
        )
