"""Is an effect of beta one of speed? Each beta against the reference in three ways, side by side.

At equal epochs, the end of both runs, an arm that learns faster looks better than one that would get as far. At equal
training loss it does not, nor where each run is taken at its own best epoch. `speed.verdict` says what follows.

At equal epochs arms are compared on the test split, as everywhere in this study. On the way only the selection split is
measured, epoch by epoch; of trials that keep their logits at given training losses the test split is known there too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from calib_bench import registry
from calib_bench.analysis.calibration_variance import same_calibration
from calib_bench.analysis.contrast import contrast, difference_of
from calib_bench.analysis.measure import Measures, measure_arm
from calib_bench.analysis.rate_choice import selection_losses, shift, shift_of
from calib_bench.analysis.result_rows import Row, fields
from calib_bench.analysis.scores import REPAIRED
from calib_bench.core.results import Results
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.inference.arrays import Array
from calib_bench.studies.separation.snapshots import AtLoss, common_level

EQUAL_EPOCHS, EQUAL_LOSS, BEST_EPOCH = COMPARISONS = ("equal_epochs", "equal_loss", "best_epoch")
HISTORY = {"raw": "selection_log_loss", "repaired": "selection_repaired_log_loss"}
"""Of each kind of log loss the column of the history: as it is, and after a temperature fitted to the same examples."""
TEST = {"raw": "log_loss_total", "repaired": "log_loss_dyn"}
"""Of each kind of log loss the column of contrasts on the test split."""
COUNTED, LEFT_OUT, FIXED = "counted", "left out", "none"
"""What the column `choice` says of the choice of rates in a row's intervals: none where rates were given."""
TINY = 1e-30
"""Training losses below it, which float32 rounds to 0, are taken for it."""

Levels = Mapping[int, float]
"""By seed, the training loss at which two runs of that seed are compared."""


@dataclass(frozen=True)
class Trajectory:
    """What the trials of an arm recorded on their way, on the selection split.

    Attributes:
        measures: the arm at the end.
        histories: by key of a trial, its history; of those reported, and of those that chose the rate.
        losses: of each kind of log loss, that of every selection example at the end, float64 [N] by seed.
    """

    measures: Measures
    histories: Mapping[str, pd.DataFrame]
    losses: Mapping[str, Mapping[int, Array]]

    def history(self, seed: int) -> pd.DataFrame:
        """That of the trial that is reported of a seed."""
        return self.histories[self.measures.arm.trials[seed].key]


def read(store: Results, measures: Measures) -> Trajectory | None:
    """The trajectory of an arm that was trained with cross-entropy: the others' training losses are no log losses.

    None of another arm, and where nothing was trained, or stored before histories knew the repaired loss.
    """
    arm = measures.arm
    if arm.trial.objective != CROSS_ENTROPY or not measures.seeds:
        return None
    trials = [arm.trials[seed] for seed in measures.seeds]
    histories = {trial.key: store.history(trial) for trial in {*trials, *_tuning(measures)}}
    if not all(map(_is_followed, histories.values())):
        return None
    losses: dict[str, dict[int, Array]] = {kind: {} for kind in HISTORY}
    for trial in trials:
        for kind, values_N in _last_losses(store, trial).items():
            losses[kind][trial.seed] = values_N
    return Trajectory(measures, histories, losses)


def _tuning(measures: Measures) -> list[Trial]:
    """The trials of an arm's tuning seeds at the rates that might have been chosen."""
    again = measures.redrawn_choice
    return [trial for rate in (again.costs if again else ()) for trial in measures.arm.tried[rate]]


def _is_followed(history: pd.DataFrame) -> bool:
    """Whether a history follows the repaired loss from one epoch to another."""
    return HISTORY["repaired"] in history and len(history) > 1


def _last_losses(store: Results, trial: Trial) -> dict[str, Array]:
    """Log losses of the selection examples by a trial's stored logits, of each kind [N]."""
    temperature = registry.calibrators((REPAIRED,))[REPAIRED]
    Z_NK = trial.beta * store.logits(trial)["selection"].double()
    y_N = store.labels(trial)["selection"]
    selects = {"raw": "log_loss", "repaired": "repaired_log_loss"}
    return {kind: selection_losses(temperature, select, Z_NK, y_N).numpy() for kind, select in selects.items()}


def lowest(history: pd.DataFrame) -> float:
    """The lowest training loss of a history."""
    return max(float(history["train_loss"].min()), TINY)


def at_loss(history: pd.DataFrame, level: float, column: str) -> float:
    """A column of a history where the mean training loss of an epoch first falls to a level.

    It is interpolated in the logarithm of the training loss between the measured epochs about it; of a run that never
    gets there it is that of its lowest training loss.
    """
    trained = history[history["train_loss"].notna()]
    losses, values = trained["train_loss"].to_numpy().clip(TINY), trained[column].to_numpy()
    there = int((losses <= level).argmax()) if (losses <= level).any() else int(losses.argmin())
    if there == 0 or losses[there] > level:
        return float(values[there])
    above, below = math.log(losses[there - 1] / level), math.log(level / losses[there])
    return float((below * values[there - 1] + above * values[there]) / (above + below))


def best(history: pd.DataFrame, column: str) -> float:
    """The lowest value that a column of a history ever has."""
    return float(history[column].min())


def value(history: pd.DataFrame, comparison: str, kind: str, level: float) -> float:
    """A kind of log loss on the selection split in one of COMPARISONS but the first."""
    column = HISTORY[kind]
    return at_loss(history, level, column) if comparison == EQUAL_LOSS else best(history, column)


def rows(
    store: Results, arm: Trajectory | None, reference: Trajectory | None, at_end: Row, name: Row, nested: bool
) -> list[Row]:
    """The row of an arm that has a trajectory, as its reference does; none of any other.

    Args:
        at_end: what `contrast` gives of both arms, on the test split.
        name: the columns that name the arm.
        nested: seeds have test examples of their own.

    Returns:
        `epochs`, `warmup`; of each of COMPARISONS and kind of log loss (nats) `<comparison>_<kind>` with limits and p;
        `training_loss`, that of equal training loss, a geometric mean over seeds, and the epochs that both took to get
        there; `equal_loss_on`, the split that it is compared on; `choice`, whether all intervals count that of rates.
    """
    if arm is None or reference is None:
        return []
    seeds = [seed for seed in arm.measures.seeds if seed in reference.measures.seeds]
    return [_row(store, arm, reference, seeds, at_end, name, nested)] if seeds else []


def _row(
    store: Results, arm: Trajectory, reference: Trajectory, seeds: list[int], at_end: Row, name: Row, nested: bool
) -> Row:
    level = common_level(store, [side.measures.arm.trials[seed] for side in (arm, reference) for seed in seeds])
    levels = dict.fromkeys(seeds, level) if level else equal_losses(arm, reference, seeds)
    trial = arm.measures.arm.trial
    row: Row = {**name, "seeds": len(seeds), "epochs": trial.epochs, "warmup": trial.warmup}
    row |= _columns(EQUAL_EPOCHS, at_end)
    row["training_loss"] = float(np.exp(np.log(list(levels.values())).mean()))
    for side, whose in ((arm, ""), (reference, "reference_")):
        row[f"{whose}epochs_to_it"] = float(np.mean([at_loss(side.history(s), levels[s], "epoch") for s in seeds]))
    row["choice"] = _choice(arm.measures, reference.measures)
    kept = _at_kept(store, arm.measures, reference.measures, level, nested) if level else {}
    row |= kept or _on_selection(EQUAL_LOSS, arm, reference, levels)
    return row | {"equal_loss_on": "test" if kept else "selection"} | _on_selection(BEST_EPOCH, arm, reference, levels)


def equal_losses(arm: Trajectory, reference: Trajectory, seeds: Sequence[int]) -> dict[int, float]:
    """By seed the larger of the lowest training losses of both runs: both get there."""
    return {seed: max(lowest(arm.history(seed)), lowest(reference.history(seed))) for seed in seeds}


def _columns(comparison: str, difference: Row) -> Row:
    """The columns of a comparison on the test split, out of those of a contrast."""
    return {
        f"{comparison}_{kind}{end}": difference[f"{column}{end}"]
        for kind, column in TEST.items()
        for end in ("", "_low", "_high", "_p")
        if f"{column}{end}" in difference
    }


def _at_kept(store: Results, arm: Measures, reference: Measures, level: float, nested: bool) -> Row:
    """The comparison at a training loss at which both arms' trials kept their logits."""
    view, repair = AtLoss(store, level), registry.calibrators((REPAIRED,))
    there, reference_there = (measure_arm(view, one.arm, repair) for one in (arm, reference))
    difference = _columns(EQUAL_LOSS, contrast(there, reference_there, nested))
    return difference | {"choice": _choice(there, reference_there)}


def _on_selection(comparison: str, arm: Trajectory, reference: Trajectory, levels: Levels) -> Row:
    """A comparison on the selection split, by kind of log loss.

    What the selection examples add to the variance is known at the end of the runs alone, and taken from there.
    """
    nested = not same_calibration(arm.measures)
    row: Row = {}
    for kind in HISTORY:
        d_S = [
            value(arm.history(seed), comparison, kind, level) - value(reference.history(seed), comparison, kind, level)
            for seed, level in levels.items()
        ]
        end_SN = [arm.losses[kind][seed] - reference.losses[kind][seed] for seed in levels]
        d_SN = torch.from_numpy(np.stack([d + end_N - end_N.mean() for d, end_N in zip(d_S, end_SN, strict=True)]))
        move = _move(comparison, kind, arm, reference, levels)
        row |= fields(f"{comparison}_{kind}", difference_of("log_loss", d_SN, nested, None, move))
    return row


def _move(comparison: str, kind: str, arm: Trajectory, reference: Trajectory, levels: Levels) -> Array | None:
    """The change [V, B, S] of a comparison's mean under other choices of both rates; None where either had none."""
    moves = [_moved(side, comparison, kind, levels) for side in (arm, reference)]
    if moves[0] is None or moves[1] is None or moves[0].shape != moves[1].shape:
        return None
    return moves[0] - moves[1]


def _moved(trajectory: Trajectory, comparison: str, kind: str, levels: Levels) -> Array | None:
    arm, again = trajectory.measures.arm, trajectory.measures.redrawn_choice
    if again is None:
        return None
    middle = float(np.median(list(levels.values())))  # of a tuning seed that is not compared
    value_RS = [
        [
            value(trajectory.histories[trial.key], comparison, kind, levels.get(trial.seed, middle))
            for trial in arm.tried[r]
        ]
        for r in again.costs
    ]
    return shift_of(arm, again, np.array(value_RS))


def _choice(arm: Measures, reference: Measures) -> str:
    """Whether intervals count the choice of both rates, see COUNTED."""
    if arm.arm.status == reference.arm.status == "fixed":
        return FIXED
    return LEFT_OUT if shift(arm, reference, ("raw", "log_loss", 1.0)) is None else COUNTED
