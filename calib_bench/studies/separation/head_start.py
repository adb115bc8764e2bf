"""Did early instability keep an arm's rate low? The first updates at the smallest rate that failed, with warm-up.

Where an arm's rate is bounded by its first updates, an arm of another beta whose rate is not has a head start, whatever
either would learn in the end. So each arm without warm-up has two short trials of a tuning seed that failed, at the
smallest rate above its own at which one did: as it was, and with warm-up for one half of the updates. Early instability
bounded the rate where the first fails and the second trains. Every net has them, deep or shallow: they are short and at
most two an arm, and which net is deep enough to be spared would be a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from calib_bench import registry
from calib_bench.analysis.result_rows import Row
from calib_bench.analysis.table_notes import NAMES
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.fate import FAILED, GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Role
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning.cluster_estimate import per_epoch
from calib_bench.planning.tuning import Arm, has_failed, with_role

UPDATES = 100
"""Least updates of a short trial; fewer where the arm itself has fewer."""
TRAINS, FAILS = "trains", "fails"


@dataclass(frozen=True)
class HeadStart:
    """The control of one arm: two short trials at the smallest larger rate that failed, without warm-up and with it."""

    arm: Arm
    without: Trial
    warmed: Trial


def of_arms(grid: Grid, arms: Iterable[Arm], scores: Scores) -> list[HeadStart]:
    """The controls of a family's arms trained with cross-entropy; none where the grid has arms with warm-up itself."""
    controls = []
    for arm in arms:
        trial = arm.trial
        if trial.objective == CROSS_ENTROPY and max(grid.spaces[trial.model]["warmup"]) == 0:
            failing = _failing(arm, scores)
            controls += [] if failing is None else [HeadStart(arm, _short(failing, 0), _short(failing, 0.5))]
    return controls


def _failing(arm: Arm, scores: Scores) -> Trial | None:
    """The first tuning trial that failed, at the smallest rate above the chosen one at which one did; None if none."""
    above = sorted(rate for rate in arm.tried if arm.chosen is not None and rate > arm.chosen)
    return next((trial for rate in above for trial in arm.tried[rate] if has_failed(scores(trial))), None)


def _short(trial: Trial, warm: float) -> Trial:
    """The trial for UPDATES or the epoch after them, a share `warm` of them warm-up, then its full rate."""
    epochs = min(trial.epochs, math.ceil(UPDATES / per_epoch(trial, registry.task(trial.task))))
    return trial.model_copy(update={"epochs": epochs, "warmup": warm * epochs, "schedule": "constant"})


def roles(controls: Iterable[HeadStart]) -> Iterator[tuple[Trial, Role]]:
    """The trials that the controls take."""
    for control in controls:
        yield from with_role((control.without, control.warmed), "control")


def rows(store: Results, controls: Iterable[HeadStart], variant: str | None) -> list[Row]:
    """A row a control: both rates, and whether either short trial trains by the rule of `core.fate`."""
    return [_row(store, control, variant) for control in controls]


def _row(store: Results, control: HeadStart, variant: str | None) -> Row:
    arm, trial = control.arm, control.warmed
    row: Row = {"model": trial.model, "variant": variant, "beta": trial.beta, "tuning": arm.tuning}
    row |= {"rate": arm.chosen, "larger_rate": trial.lr, "unit": trial.lr_unit, "seed": trial.seed}
    row |= {"epochs": trial.epochs, "warmup": trial.warmup}
    return row | {"without_warmup": _fate(store, control.without), "with_warmup": _fate(store, control.warmed)}


def _fate(store: Results, trial: Trial) -> str | None:
    """Whether the trial trains; None where it has not run."""
    if not store.has(trial):
        return None
    return FAILS if store.fate(trial) in FAILED else TRAINS


TABLE = TableSpec(
    "Head start: would a larger rate train with warm-up?",
    (
        f"larger rate: the smallest above the chosen one at which a tuning seed failed; that seed again for {UPDATES} "
        "updates, rounded up to an epoch, without warm-up and with it for one half of them, at a constant rate "
        f"otherwise. It trains if it ends below {GUESS:.0%} of the loss of guessing",
        "Where it fails without warm-up and trains with it, early instability bounded the choice of the rate. "
        "Elsewhere no head start is shown, which is not to say that there is none: a longer warm-up might do, and "
        "rates that do not fail may be the worse for a bad start",
    ),
    names=NAMES,
)


def warnings(frame_rows: Sequence[Row]) -> list[str]:
    """One warning a model that names the arms which a larger rate would train with warm-up, and what to type."""
    held_back = [row for row in frame_rows if (row["without_warmup"], row["with_warmup"]) == (FAILS, TRAINS)]
    return [_warning(model, held_back) for model in dict.fromkeys(row["model"] for row in held_back)]


def _warning(model: str, held_back: Sequence[Row]) -> str:
    of_model = [row for row in held_back if row["model"] == model]
    listed = "; ".join(_held_back(of_model))
    epochs = max(math.ceil(row["warmup"]) for row in of_model)
    return (
        f"Head start, {model}: a rate that fails without warm-up trains with it ({listed}), so that a difference from "
        f"these arms may be one of early instability alone. Compare with warm-up: warmup=0,{epochs}"
    )


def _held_back(held_back: Sequence[Row]) -> Iterator[str]:
    for row in held_back:
        of = f" ({row['variant']})" if row["variant"] else ""
        yield f"beta={row['beta']:.3g}{of}: {row['larger_rate']:.3g} {row['unit']}, {row['rate']:.3g} was chosen"
