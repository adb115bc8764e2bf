"""What a study would cost on a cluster of other GPUs: counted where possible, assumed where stated."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cache

from calib_bench import registry
from calib_bench.core.settings import Settings
from calib_bench.core.splits import InputSpec
from calib_bench.core.study import Study
from calib_bench.core.task import Task
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError, counted
from calib_bench.models import flops as cost
from calib_bench.planning import plan as planning
from calib_bench.store.store import Store
from calib_bench.train.history import row_epochs

DEVICE = "H200"
PEAK = {"bf16": 989e12, "fp32": 67e12, "fp64": 67e12}
"""Dense operations a second that the maker states for the H200 SXM. Not measured here."""
UTILISATION = 0.15
"""Assumed share of the peak. Hand-tuned training on CIFAR-10 reaches 36 to 45% of an A100's (Jordan, 2024, arXiv
2404.00498); what memory or launches bind reaches far less."""
SPREAD = 3.0
"""Hours may be so many times more or fewer: the assumed share's uncertainty."""
STEP_SECONDS = 0.005
"""Least seconds of an update: launching a small model's kernels one by one. Of others' GPUs, not measured here."""
START_SECONDS = 60.0
"""Assumed seconds of a trial before its first update: imports, data, compilation."""
RECORD_BYTES, HISTORY_BYTES, ROW_BYTES = 2_000, 3_400, 100
"""Bytes of trial.json, of an empty history.parquet, and of each of its rows: measured on stored trials of digits."""
STATES = 2
"""Copies of the weights in a checkpoint: themselves and the momentum."""


@dataclass(frozen=True)
class Scale:
    """A whole study's needs.

    Attributes:
        trials: to train, later rounds included, were the best rates in the middle of their grids.
        flops: floating-point operations, counted layer by layer; a multiply-add is two.
        gpu_hours: of one GPU.
        hours: on `gpus` of them, trials whole, the rounds after one another.
        gpus: how many.
        stored: bytes of the finished run folder.
        checkpoints: bytes of the checkpoints that lie there at once.
        wandb_rows: history rows that are logged.
    """

    trials: int
    flops: float
    gpu_hours: float
    hours: float
    gpus: int
    stored: int
    checkpoints: int
    wandb_rows: int

    def text(self, price: float | None = None) -> str:
        """One line for people; `price` is of one GPU for an hour, in any currency."""
        low, high = self.gpu_hours / SPREAD, self.gpu_hours * SPREAD
        money = "" if price is None else f", at {price:g} each {low * price:,.0f} to {high * price:,.0f}"
        return (
            f"scale: {counted(self.trials, 'trial')}, {self.flops:.2g} operations; on {DEVICE}s, which were not "
            f"measured here, about {number(self.gpu_hours)} GPU hours ({number(low)} to {number(high)}{money}), or "
            f"{number(self.hours)} hours on {self.gpus} of them; {size(self.stored)} stored, "
            f"{size(self.checkpoints)} of checkpoints on the way, {counted(self.wandb_rows, 'W&B row')}"
        )


def number(hours: float) -> str:
    """Two significant digits."""
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.2g}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def estimate(settings: Settings, study: Study, store: Store, gpus: int = 64) -> Scale | None:
    """What is still to run of resolved settings; None where the task does not say what its examples are.

    Raises:
        SettingsError: `gpus` is below 1.
    """
    if gpus < 1:
        raise SettingsError(f"gpus={gpus} is not a number of GPUs: give 1 or more")
    task = registry.task(settings.task)
    if task.example is None or task.source is None:
        return None
    first = {trial.key for trial in planning.read(settings, study, store)}
    return _scale(planning.foresee(settings, study, store), first, task, gpus)


def _scale(trials: Sequence[Trial], first: Set[str], task: Task, gpus: int) -> Scale:
    """What these trials need, of which those with the keys `first` are the first round."""
    first_round = [_seconds(trial, task) for trial in trials if trial.key in first]
    later_rounds = [_seconds(trial, task) for trial in trials if trial.key not in first]
    checkpoints = sorted((_checkpoint(trial, task) for trial in trials), reverse=True)
    return Scale(
        trials=len(trials),
        flops=sum(flops(trial, task) for trial in trials),
        gpu_hours=(sum(first_round) + sum(later_rounds)) / 3600,
        hours=(makespan(first_round, gpus) + makespan(later_rounds, gpus)) / 3600,
        gpus=gpus,
        stored=sum(_stored(trial, task) for trial in trials),
        checkpoints=sum(checkpoints[:gpus]),
        wandb_rows=sum(len(_rows(trial, task)) for trial in trials),
    )


def makespan(seconds: Iterable[float], machines: int) -> float:
    """When the last of these jobs ends, the longest given out first, each whole on the machine that is free first.

    >>> makespan([5, 4, 3, 3], 2)
    8
    """
    free: list[float] = [0] * machines
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + job)
    return max(free)


def _sizes(task: Task, trial: Trial) -> dict[str, int]:
    """Examples of each split, as the whole data set has them."""
    rows: Sequence[int] = tuple(task.source.rows.values()) if task.source else (0, 0)
    train = task.sizes.train or rows[0] - task.sizes.selection - task.sizes.calibration
    sizes = {
        "train": train,
        "selection": task.sizes.selection,
        "calibration": task.sizes.calibration,
        "test": rows[-1],
    }
    return {name: min(n, trial.limit or n) for name, n in sizes.items()}


def _rows(trial: Trial, task: Task) -> frozenset[int]:
    return row_epochs(trial.epochs, per_epoch(trial, task))


def per_epoch(trial: Trial, task: Task) -> int:
    return max(1, _sizes(task, trial)["train"] // trial.batch)


def flops(trial: Trial, task: Task) -> float:
    """Training, the selection split at every history row, and the three splits at the end."""
    n = _sizes(task, trial)
    forward = n["train"] * trial.epochs * cost.TRAINING + n["selection"] * len(_rows(trial, task))
    forward += n["selection"] + n["calibration"] + n["test"]
    return forward * model(trial.model, task)[0]


def _seconds(trial: Trial, task: Task) -> float:
    steps = trial.epochs * per_epoch(trial, task)
    return START_SECONDS + max(flops(trial, task) / (PEAK[trial.precision] * UTILISATION), steps * STEP_SECONDS)


def _stored(trial: Trial, task: Task) -> int:
    n = _sizes(task, trial)
    logits = 4 * task.classes * (n["selection"] + n["calibration"] + n["test"])
    return logits + RECORD_BYTES + HISTORY_BYTES + ROW_BYTES * len(_rows(trial, task))


def _checkpoint(trial: Trial, task: Task) -> int:
    return 4 * STATES * model(trial.model, task)[1]


def model(name: str, task: Task) -> tuple[float, int]:
    """Operations of one example's forward pass, and parameters."""
    assert task.example is not None
    return _counted(name, *task.example, task.classes)


@cache
def _counted(name: str, kind: str, shape: tuple[int, ...], vocabulary: int, classes: int) -> tuple[float, int]:
    spec = InputSpec(kind, shape, vocabulary)
    parameters = sum(p.numel() for p in cost.undrawn(name, spec, classes).parameters())
    return cost.flops_per_example(name, spec, classes), parameters
