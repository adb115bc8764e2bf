"""Intervals of named scores, which stay where the score can be, and what an interval of few errors is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from calib_bench.inference.arrays import SeedRows
from calib_bench.inference.fitted import Fitted
from calib_bench.inference.interval import Interval, crossed_interval, few_errors

RANGES: dict[str, tuple[float, float]] = {
    "error": (0, 1), "repaired_log_loss": (0, math.inf),
    "accuracy": (0, 1), "mean_confidence": (0, 1), "log_loss": (0, math.inf), "mean_entropy": (0, math.inf),
    "brier": (0, 2), "ece": (0, 1), "ece_positive": (0, 1), "adaptive_ece": (0, 1), "classwise_ece": (0, 1),
    "smece": (0, 1), "smece_positive": (0, 1), "mce": (0, 1), "aurc": (0, 1), "e_aurc": (0, 1),
    "auroc": (0, 1), "augrc": (0, 0.5), "coverage_at_5_risk": (0, 1), "risk_at_80_coverage": (0, 1),
    "lac_coverage": (0, 1), "aps_coverage": (0, 1), "raps_coverage": (0, 1),
    "lac_size": (0, math.inf), "aps_size": (0, math.inf), "raps_size": (0, math.inf),
}  # fmt: skip
"""Where each score can be. A squared error without its bias can be negative, and has no range here."""
SCALE = {
    "accuracy": "share", "error": "share", "log_loss": "log", "brier": "log",
    "lac_coverage": "share", "aps_coverage": "share", "raps_coverage": "share",
}  # fmt: skip
"""On what scale a mean over examples has its limits (`crossed_interval`); others are cut at the ends of their range."""


def score_interval(metric: str, d_SN: SeedRows, nested: bool = False, fit: Fitted | None = None) -> Interval:
    """`crossed_interval` of an arm's mean score, on the scale of that score and within its range."""
    return within(crossed_interval(d_SN, nested=nested, scale=SCALE.get(metric, "identity"), fit=fit), metric)


def difference_interval(metric: str, d_SN: SeedRows, nested: bool = False, fit: Fitted | None = None) -> Interval:
    """`crossed_interval` of a mean difference of two arms' scores, within the range of such differences."""
    return within(crossed_interval(d_SN, nested=nested, fit=fit), metric, difference=True)


def with_doubt(interval: Interval, arms: Sequence[SeedRows], nested: bool) -> Interval:
    """The interval, in doubt where any of the arms it is of has few wrong examples.

    Args:
        arms: of each arm whether its top labels were right, [S, N]; with `nested` S rows.
    """
    doubt = max(few_errors(correct_SN, nested) for correct_SN in arms)
    return interval if math.isnan(interval.low) or not doubt else replace(interval, doubt=doubt)


def within(interval: Interval, metric: str, difference: bool = False) -> Interval:
    """The interval cut where the score (a difference of two) can be no further: it covers what it covered."""
    low, high = RANGES.get(metric, (-math.inf, math.inf))
    if difference:
        low, high = low - high, high - low
    if math.isnan(interval.low):
        return interval
    return replace(interval, low=min(max(interval.low, low), high), high=max(min(interval.high, high), low))
