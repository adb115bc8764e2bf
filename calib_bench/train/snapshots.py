"""Logits that a trial keeps on its way down, at training losses that trials of every beta pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from calib_bench.core.splits import SPLITS
from calib_bench.core.trial import Snapshot

LEVELS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Training losses, in nats: factors of about the root of ten."""


class Snapshots:
    """The snapshots of runs that train together.

    Attributes:
        kept: of each run, those taken so far, the highest level first.
    """

    def __init__(self, runs: int) -> None:
        self.kept: list[list[Snapshot]] = [[] for _ in range(runs)]

    def take(self, losses: Sequence[float], epoch: int, step: int, predict: Callable[[str], Tensor]) -> None:
        """Keep the logits of the runs whose mean training loss over the epoch is the first at or below a level.

        Args:
            losses: of each run; nan is below none.
            epoch: epochs done.
            step: updates done.
            predict: name of a split -> raw logits [..., N, K] of all runs.
        """
        due = {run: levels for run, loss in enumerate(losses) if (levels := self._passed(run, loss))}
        if not due:
            return
        z = {name: _by_run(predict(name), len(losses)).cpu() for name in SPLITS}
        for run, levels in due.items():
            for level in levels:
                logits = {name: z_RNK[run].clone() for name, z_RNK in z.items()}
                self.kept[run].append(Snapshot(level, epoch, step, losses[run], logits))

    def _passed(self, run: int, loss: float) -> list[float]:
        """The levels that the run has passed now and not before."""
        before = {snapshot.level for snapshot in self.kept[run]}
        return [level for level in LEVELS if loss <= level and level not in before]

    def state(self) -> list[list[dict[str, Any]]]:
        """What a checkpoint holds."""
        return [[vars(snapshot) for snapshot in snapshots] for snapshots in self.kept]

    def load(self, saved: list[list[dict[str, Any]]]) -> None:
        """Go on from what `state` gave."""
        self.kept = [[Snapshot(**content) for content in contents] for contents in saved]


def _by_run(z: Tensor, runs: int) -> Tensor:
    return torch.reshape(z, (runs, *z.shape[-2:]))
