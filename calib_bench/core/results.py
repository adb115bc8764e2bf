"""What an analysis reads: the results of stored trials, whoever stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from calib_bench.core.trial import Scores, Snapshot, Trial

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Record:
    """What `trial.json` says.

    Attributes:
        status: "done" or "diverged".
        metadata: the loop's own: resolved rate, diverged step, seconds, mode, device, threads; selection scores;
            label_entropy, of the training labels, in nats; of each snapshot its level, epoch, step and train_loss.
        environment: versions and machine.
        data: source and digest of the data it was trained on.
    """

    trial: Trial
    status: str
    metadata: dict[str, Any]
    environment: dict[str, Any]
    data: dict[str, str]


class Results(Protocol):
    """Results of trials, read by key; `calib_bench.store.store.Store` is one.

    Reading what is stored damaged raises StoreError.
    """

    def has(self, trial: Trial) -> bool:
        """Whether the trial is stored whole."""

    def state(self, trial: Trial) -> str:
        """ "done", "diverged", "failed", or "missing"."""

    def fate(self, trial: Trial) -> str:
        """`state`, but "dead" of a trial that is done and ended no better than guessing."""

    def record(self, trial: Trial) -> Record:
        """What is known of a stored trial; raises StoreError where it is not there."""

    def logits(self, trial: Trial) -> Mapping[str, Tensor]:
        """Raw logits z [N, K] float32 of the selection, calibration and test splits; empty for a diverged trial."""

    def labels(self, trial: Trial) -> Mapping[str, Tensor]:
        """Labels [N] int64 of the selection, calibration and test splits."""

    def arrays(self, trial: Trial) -> Mapping[str, Tensor]:
        """What the trial's probe measured at its end, by name; empty without one, and for a diverged trial."""

    def snapshots(self, trial: Trial) -> Sequence[Snapshot]:
        """The logits that the trial kept on its way, the highest training loss first; none where it kept none."""

    def history(self, trial: Trial) -> pd.DataFrame:
        """One row a measured epoch; a probe's columns come last."""

    def scores(self, select: str) -> Scores:
        """Selection scores by `select`: "log_loss", "repaired_log_loss" or "error"."""

    def split_info(self, trial: Trial) -> dict[str, Any]:
        """Source, digest, class names, notes and sizes of a trial's splits."""

    def provenance(self) -> dict[str, Any]:
        """Command, environment, and the data behind the stored splits."""
