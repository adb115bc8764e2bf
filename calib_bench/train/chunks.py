"""A group of trials in parts that run one after another, each a stack that fits where it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from calib_bench.core.baseline import Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.train import initialize
from calib_bench.train.checkpoint import Checkpoint

PART_VALUES = 2**19
"""Parameters of the members that run at once on a CPU: with gradients and momentum, what stays near a core."""


def parts_of(
    trials: Sequence[Trial], splits: Splits, device: torch.device, objectives: Objectives
) -> list[list[Trial]]:
    """Trials that run at once, in order. On a CPU as many as its cache holds; members do not depend on each other.

    Neighbours share objective and seed, so that a part needs few of either.
    """
    most = len(trials)
    if device.type == "cpu":
        model = initialize.initial_model(trials[0], splits, device, objectives)
        values = sum(p.numel() for p in model.parameters())
        most = max(1, PART_VALUES // values)
    size = math.ceil(len(trials) / math.ceil(len(trials) / most))
    return [list(trials[i : i + size]) for i in range(0, len(trials), size)]


class PartSaver:
    """A checkpoint of parts that run one after another: the states of those that are over, and of the one under way."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.due = checkpoint, checkpoint.due
        self.found: list[dict[str, Any]] = (checkpoint.load() or {"parts": []})["parts"]
        self.over: list[dict[str, Any]] = []

    def begin(self, number: int) -> dict[str, Any] | None:
        """The saved state of a part; None where there is none."""
        return self.found[number] if number < len(self.found) else None

    def save(self, state: dict[str, Any]) -> None:
        self.checkpoint.save({"parts": [*self.over, state]})

    def end(self, state: dict[str, Any], last: bool) -> None:
        """A part is over; after the last one everything is kept."""
        if self.checkpoint.path is not None:
            self.over.append(state)
            if last:
                self.checkpoint.keep(lambda: {"parts": self.over})
