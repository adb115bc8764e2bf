"""An arm minus the reference, split into what a temperature repairs and what it cannot.

Temperature scaling splits a proper score R of an arm a in two: conf(a) = R(raw) - R(repaired), what a temperature
fitted after training repairs, and dyn(a) = R(repaired), what none can. Against a reference arm, delta_total =
delta_conf + delta_dyn exactly, and accuracy is entirely in the second, since a temperature never changes an argmax
(Guo et al., 2017, arXiv 1706.04599; the dynamics of beta: Agarwala et al., 2023, arXiv 2010.07344).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from calib_bench.analysis.calibration_variance import fitted_to, same_calibration
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.measure import SPLIT, Measures
from calib_bench.analysis.rate_choice import LOG_KAPPA, shift, with_choice
from calib_bench.analysis.result_rows import Row, bounded, doubtful, fields
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import Fitted, Interval, crossed_interval, share, within
from calib_bench.inference.arrays import Array
from calib_bench.inference.scores import with_doubt

PARTS = ("total", "conf", "dyn")
DIFFERENCES = ("accuracy", *(f"log_loss_{part}" for part in PARTS))
"""Columns of differences from the reference that most tables show."""


def is_reference(name: Mapping[str, Any], grid: Grid) -> bool:
    """Whether the arm so named is the one that others of its family are compared with."""
    return name["beta"] == grid.reference and name["objective"] == CROSS_ENTROPY


def contrast(arm: Measures, reference: Measures | None, nested: bool) -> Row:
    """The arm minus the reference, over the seeds that finished in both.

    What is left after the temperature, and so what it repairs, varies with the calibration examples it is fitted on:
    they are a source of variance beside seeds and test examples.

    Returns:
        For log loss (nats) and Brier: `<score>_total`, `_conf`, `_dyn`, and `accuracy` (raw), each with `_low`,
        `_high`, `_p`; `<score>_conf_share`, of the total, with its limits (Fieller), left out where they are not
        bounded; `doubtful`, where limits are in doubt; kappa of the arm; seeds used, and dropped because either side
        has none. The choice of both arms' rates is counted, see `calib_bench.analysis.rate_choice`.
    """
    if reference is None:
        return {"seeds": 0, "dropped": len(arm.arm.trials)}
    seeds = [seed for seed in arm.seeds if seed in reference.seeds]
    row: Row = {"seeds": len(seeds), "dropped": len({*arm.arm.trials, *reference.arm.trials}) - len(seeds)}
    if not seeds:
        return row
    pair = _Pair(arm, reference, arm.places(seeds), reference.places(seeds))
    intervals = {"accuracy": pair.accuracy(nested)}
    row |= fields("accuracy", intervals["accuracy"])
    for score in SPLIT:
        parts, conf_share = pair.split(score, nested)
        for name, limits in parts.items():
            row |= fields(name, limits)
        row |= conf_share
        intervals |= parts
    return row | doubtful(intervals) | kappa(arm, pair.ours)


@dataclass(frozen=True)
class _Pair:
    """An arm and its reference over the seeds that finished in both, which have the places `ours` and `theirs`."""

    arm: Measures
    reference: Measures
    ours: list[int]
    theirs: list[int]

    @property
    def correct(self) -> list[Tensor]:
        """Whether the answers of the arm and of its reference are right, [S, N] each."""
        sides = (self.arm, self.ours), (self.reference, self.theirs)
        return [one.examples["raw"]["correct"][places] for one, places in sides]

    def accuracy(self, nested: bool) -> Interval:
        """The difference of accuracy."""
        right, reference_right = self.correct
        move = shift(self.arm, self.reference, ("raw", "correct", 1))
        difference = difference_of("accuracy", right - reference_right, nested, None, move)
        return with_doubt(difference, self.correct, nested)

    def split(self, score: str, nested: bool) -> tuple[dict[str, Interval], Row]:
        """The difference of a score and its parts, by column, and the columns of the share of confidence."""
        total, dyn = (self._difference(method, score) for method in ("raw", "temperature_scaling"))
        after = fitted_to(score, (1, self.arm, self.ours), (-1, self.reference, self.theirs))
        fits = (None, None if after is None else after.negative(), after)
        raw, repaired = ("raw", score, 1.0), ("temperature_scaling", score, 1.0)
        factors = ((raw,), (raw, (*repaired[:2], -1.0)), (repaired,))
        moves = [shift(self.arm, self.reference, *parts) for parts in factors]
        intervals = {}
        for part, values, fit, move in zip(PARTS, (total, total - dyn, dyn), fits, moves, strict=True):
            difference = difference_of(score, values, nested, fit, move)
            intervals[f"{score}_{part}"] = with_doubt(difference, self.correct, nested)
        return intervals, _share(f"{score}_conf_share", total - dyn, total, nested, fits[1], moves)

    def _difference(self, method: str, score: str) -> Tensor:
        return self.arm.examples[method][score][self.ours] - self.reference.examples[method][score][self.theirs]


def interval(
    name: str, d_SN: Tensor, nested: bool, metric: str = "", fit: Fitted | None = None, move: Array | None = None
) -> Row:
    """`difference_of` as columns `name`, `_low`, `_high` and `_p`; of the metric `name` where none is named."""
    return fields(name, difference_of(metric or name, d_SN, nested, fit, move))


def difference_of(
    metric: str, d_SN: Tensor, nested: bool, fit: Fitted | None = None, move: Array | None = None
) -> Interval:
    """The interval of a mean difference, within the range of such differences.

    Args:
        metric: what it is a difference of; its range bounds the limits.
        fit: what a fitted temperature adds, see `calibration_variance.fitted_to`.
        move: [V, B, S], by how much other choices of a rate would change the mean, see `inference.choice_variance`;
            that variance is added.
    """
    limits = crossed_interval(d_SN, nested=nested, fit=fit)
    return within(with_choice(limits, move), metric, difference=True)


def _share(
    name: str, part_SN: Tensor, whole_SN: Tensor, nested: bool, fit: Fitted | None, moves: Sequence[Array | None]
) -> Row:
    total, conf, _ = moves
    choice = (conf, total) if conf is not None and total is not None else None
    return bounded(name, share(part_SN, whole_SN, nested=nested, fit=fit, choice=choice))


def kappa(arm: Measures, rows: list[int]) -> Row:
    """Geometric mean of kappa over some seeds, its interval over seeds and calibration examples; none at a bound.

    The choice of the arm's rate is counted.
    """
    if arm.log_kappa is None or not rows:
        return {}
    log_interval = crossed_interval(arm.log_kappa[rows], nested=not same_calibration(arm))
    log_interval = with_choice(log_interval, shift(arm, None, ("temperature_scaling", LOG_KAPPA, 1.0)))
    if {arm.seeds[i] for i in rows} & set(arm.at_bound):
        return {"kappa": math.exp(log_interval.mean)}
    return Estimate.of_interval(log_interval).exp().limits("kappa")
