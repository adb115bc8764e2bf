"""Trials as they were at a training loss: a store's results with the logits that were kept there in place of the last.

Whatever measures an arm then measures it at that training loss, with every source of variance that it counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from calib_bench.analysis.measure import FINISHED
from calib_bench.core.results import Record, Results
from calib_bench.core.trial import Scores, Snapshot, Trial


def common_level(store: Results, trials: Sequence[Trial]) -> float | None:
    """The lowest training loss at which all of some trials kept their logits; None where there is none."""
    return min(set.intersection(*(levels(store, trial) for trial in trials)), default=None)


def levels(store: Results, trial: Trial) -> set[float]:
    """The training losses at which a stored trial kept its logits."""
    return {snapshot["level"] for snapshot in store.record(trial).metadata.get("snapshots", ())}


@dataclass(frozen=True)
class AtLoss:
    """A store's results at a training loss.

    Selection scores, and the logits that they come from, stay those of the last epoch, by which rates are chosen. A
    trial that never got to the training loss is missing.
    """

    store: Results
    level: float

    def _reached(self, trial: Trial) -> bool:
        return self.level in levels(self.store, trial)

    def has(self, trial: Trial) -> bool:
        """Whether the trial is stored and got there."""
        return self.store.has(trial) and self._reached(trial)

    def state(self, trial: Trial) -> str:
        """That of the stored trial; "missing" of one that is done and never got there."""
        return self._there(trial, self.store.state(trial))

    def fate(self, trial: Trial) -> str:
        """That of the stored trial; "missing" of one that is done and never got there."""
        return self._there(trial, self.store.fate(trial))

    def _there(self, trial: Trial, state: str) -> str:
        return state if state not in FINISHED or self._reached(trial) else "missing"

    def logits(self, trial: Trial) -> Mapping[str, Tensor]:
        """Raw logits z [N, K]: of the selection split those of the last epoch, of the others those kept there."""
        kept = next(snapshot.logits for snapshot in self.store.snapshots(trial) if snapshot.level == self.level)
        return {**kept, "selection": self.store.logits(trial)["selection"]}

    def labels(self, trial: Trial) -> Mapping[str, Tensor]:
        return self.store.labels(trial)

    def snapshots(self, trial: Trial) -> Sequence[Snapshot]:
        return self.store.snapshots(trial)

    def record(self, trial: Trial) -> Record:
        return self.store.record(trial)

    def arrays(self, trial: Trial) -> Mapping[str, Tensor]:
        return self.store.arrays(trial)

    def history(self, trial: Trial) -> pd.DataFrame:
        return self.store.history(trial)

    def scores(self, select: str) -> Scores:
        return self.store.scores(select)

    def split_info(self, trial: Trial) -> dict[str, Any]:
        return self.store.split_info(trial)

    def provenance(self) -> dict[str, Any]:
        return self.store.provenance()
