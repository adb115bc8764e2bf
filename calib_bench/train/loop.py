"""What the loop of a single model and that of a stack share: epochs, divergence, history rows and saved states."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from calib_bench.core.baseline import Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.study import Probe
from calib_bench.core.trial import Snapshot, Trial, TrialResult
from calib_bench.train import callbacks
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.chunks import PartSaver
from calib_bench.train.history import (
    CHECK_STEPS,
    ProgressThrottle,
    SelectionScores,
    accurate,
    environment_metadata,
    row_epochs,
    table,
)
from calib_bench.train.learning_rate import Rate
from calib_bench.train.optimizer import factor
from calib_bench.train.snapshots import Snapshots

Saver = TypeVar("Saver", Checkpoint, PartSaver)


class Loop(ABC, Generic[Saver]):
    """The state of one or several runs over the same epochs.

    Attributes:
        bad: int64 [...], for each run the step of its first loss that was not finite, or -1; made by the subclass.
        tally: [3, ...] sums over the current epoch, see `history.batch_sums`; likewise.
        first: a trial of those, for what all of them share.
        dtype: of parameters and of numbers that enter the loss.
        step: updates made.
        ended: whether every run has diverged.
        rows: history rows so far: numbers, or of a stack tensors [S].
        selection: measures the selection split.
        snapshots: logits kept at levels of the training loss.
    """

    bad: Tensor
    tally: Tensor

    def __init__(
        self,
        trials: Sequence[Trial],
        splits: Splits,
        device: torch.device,
        objectives: Objectives,
        probe: Probe | None,
    ) -> None:
        self.first = first = trials[0]
        self.trials, self.splits, self.device = trials, splits, device
        self.dtype = torch.float64 if first.precision == "fp64" else torch.float32
        self.objectives, self.probe = objectives, probe
        self.per_epoch = splits.train.steps(first.batch)
        self.total = first.epochs * self.per_epoch
        self.measured = row_epochs(first.epochs, self.per_epoch)
        self.step, self.ended, self.rows = 0, False, []  # type: int, bool, list[dict[str, Any]]
        self.selection = SelectionScores(splits.selection.labels)
        self.snapshots = Snapshots(len(trials))
        self.before, self.began = 0.0, time.monotonic()

    @abstractmethod
    def _batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """Inputs and labels of an epoch's updates, but for the first `skip`."""

    @abstractmethod
    def _update(self, x: Any, y: Tensor, epoch: int) -> None:
        """One update, which enters `bad` and `tally`."""

    @abstractmethod
    def _predict(self, name: str) -> Tensor:
        """Raw logits z [..., N, K] of a split, rows as its labels."""

    @abstractmethod
    def _measure(self) -> None:
        """Take a history row."""

    def train(self, saver: Saver, progress: ProgressThrottle) -> bool:
        """Train to the end, from the saved state on; returns whether any update was left to make."""
        progress.add(self.step)
        start = self.step
        while not self.over():
            self.epoch(saver, progress)
        progress.finish(self.total)
        return self.step > start

    def _tallied(self, epoch: int) -> bool:
        """Whether the training loss of an epoch, counted from 0, is asked for."""
        return epoch + 1 in self.measured or self.first.keep == "losses"

    def over(self) -> bool:
        return self.ended or self.step >= self.total

    def seconds(self) -> float:
        """Seconds of training so far, those before a restart too."""
        return self.before + time.monotonic() - self.began

    def epoch(self, saver: Saver, progress: ProgressThrottle) -> None:
        """Train to the end of the current epoch, or until every run has diverged."""
        epoch, done = divmod(self.step, self.per_epoch)
        for x, y in self._batches(epoch, done):
            self._update(x, y, epoch)
            self.step += 1
            progress.add(1)
            if self.step % CHECK_STEPS == 0 and self._diverged():
                return
            if self.step % self.per_epoch:
                self.save(saver, saver.due())
        if self._diverged():
            return
        if epoch + 1 in self.measured:
            self._measure()
        if self.first.keep == "losses":
            loss, _, count = accurate(self.tally)
            self.snapshots.take((loss / count).reshape(-1).tolist(), epoch + 1, self.step, self._predict)
        self.tally.zero_()
        self.save(saver, saver.due())

    def save(self, saver: Saver, due: bool) -> None:
        """Save the state where it is due.

        Raises:
            Stopped: it is saved, and the run is to leave.
        """
        if due:
            saver.save(self.state())

    def _diverged(self) -> bool:
        self.ended = bool((self.bad >= 0).all())
        return self.ended

    def _scale(self, step: int) -> float:
        """The schedule's factor on every rate in an update."""
        if not self.total:
            return 1.0
        return factor(self.first.schedule, step, self.total, self.per_epoch, self.first.warmup)

    def _numbers(self, values: float | Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _row(
        self, scores: Mapping[str, Tensor], squares: Mapping[str, Tensor], head: set[str], rate: float | Tensor
    ) -> dict[str, Any]:
        """A history row, but for what a probe adds.

        Args:
            scores: of the selection split, see `history.SelectionScores`.
            squares: by parameter, the sum [...] of its squares.
            head: names of the head's parameters.
            rate: before the schedule and the factors of body and head, [...].
        """
        loss, correct, count = accurate(self.tally)
        of_head = [square for name, square in squares.items() if name in head]
        return {
            "epoch": self.step // self.per_epoch,
            "step": self.step,
            "train_loss": loss / count,
            "train_accuracy": correct / count,
            **scores,
            "weight_norm": torch.stack(list(squares.values())).sum(0).sqrt(),
            "head_norm": torch.stack(of_head).sum(0).sqrt(),
            "lr": rate * self._scale(max(0, self.step - 1)),
            "seconds": self.seconds(),
        }

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        callbacks.tell(self.trials, row)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, to which a subclass adds its parameters and rates."""
        return {
            "step": self.step,
            "bad": self.bad,
            "tally": self.tally,
            "rows": self.rows,
            "selection": self.selection.memory,
            "snapshots": self.snapshots.state(),
            "seconds": self.seconds(),
        }

    def _start(self, saved: dict[str, Any] | None) -> None:
        """Go on from a saved state, or take the history row before the first update."""
        if saved:
            self._restore(saved)
        else:
            self._measure()

    def _restore(self, saved: dict[str, Any]) -> None:
        self.step, self.rows, self.before = saved["step"], saved["rows"], saved["seconds"]
        self.selection.memory = saved.get("selection", {})  # of none in checkpoints of older versions
        self.snapshots.load(saved.get("snapshots", self.snapshots.state()))
        self.bad.copy_(saved["bad"])
        self.tally.copy_(saved["tally"])

    def _result(
        self,
        trial: Trial,
        bad: int | None,
        logits: dict[str, Tensor],
        rows: list[dict[str, float]],
        rate: Rate,
        model: Callable[[], nn.Module],
        arrays: Callable[[nn.Module], dict[str, Tensor]],
        snapshots: list[Snapshot],
        **metadata: Any,
    ) -> TrialResult:
        """The result of one trial, whose probe's `arrays` are measured on its `model` if it has not diverged.

        A run whose last update broke the model has diverged too.
        """
        if bad is None and not all(bool(z.isfinite().all()) for z in logits.values()):
            bad = self.step
        metadata = {
            **rate.metadata(),
            "diverged_step": bad,
            "steps": self.step if bad is None else bad,
            "seconds": self.seconds(),
            **metadata,
            **environment_metadata(self.device),
        }
        if bad is not None:
            return TrialResult(trial, "diverged", {}, table(rows, bad), metadata)
        state = model().state_dict() if trial.keep == "weights" else {}
        weights = {name: value.to("cpu", copy=True) for name, value in state.items()}
        return TrialResult(trial, "done", logits, table(rows, None), metadata, arrays(model()), snapshots, weights)
