"""Intervals and tests: what a difference between arms, or a calibration error, is worth.

Arms are paired by seed and share the test examples, so per-example differences have two crossed sources of variance;
with `nested`, seeds have test examples of their own and are the only independent units. Everything is a pure function
of its arguments, seeds included, and gives `Interval`s, which say how they were found, or why there is none.
"""

from calib_bench.inference.binned import (
    Binned,
    binned_interval,
    classwise_interval,
    ece_interval,
    ece_null,
    ece_null_of,
)
from calib_bench.inference.bootstrap import Statistic, crossed_bootstrap
from calib_bench.inference.collapse import collapsed
from calib_bench.inference.contrast import TwoByTwo, share, two_by_two
from calib_bench.inference.decisions import DECISIONS, decision_intervals, decision_n
from calib_bench.inference.extremes import best_of
from calib_bench.inference.factorial import VarianceShares, permutation_p, variance_shares
from calib_bench.inference.fitted import Fitted, apart, at_threshold, fitted, jackknifed, refitted
from calib_bench.inference.interval import (
    DIFFERS,
    EQUAL,
    FEW_ERRORS,
    FEWEST,
    SKEWED,
    UNDECIDED,
    Interval,
    crossed_interval,
    equivalence,
    holm,
    simultaneous,
)
from calib_bench.inference.ranking import aurc_interval, aurc_n
from calib_bench.inference.resampled import Resampled, percentile, resampled_means
from calib_bench.inference.scores import difference_interval, score_interval, within
from calib_bench.inference.selection import (
    SelectedGain,
    choice_variance,
    redrawn_choice,
    redrawn_choice_apart,
    selected_gain,
    widened,
)
from calib_bench.inference.spread import rate, spread, spread_ratio

__all__ = [
    "DECISIONS",
    "DIFFERS",
    "EQUAL",
    "FEWEST",
    "FEW_ERRORS",
    "SKEWED",
    "UNDECIDED",
    "Binned",
    "Fitted",
    "Interval",
    "Resampled",
    "SelectedGain",
    "Statistic",
    "TwoByTwo",
    "VarianceShares",
    "apart",
    "at_threshold",
    "aurc_interval",
    "aurc_n",
    "best_of",
    "binned_interval",
    "choice_variance",
    "classwise_interval",
    "collapsed",
    "crossed_bootstrap",
    "crossed_interval",
    "decision_intervals",
    "decision_n",
    "difference_interval",
    "ece_interval",
    "ece_null",
    "ece_null_of",
    "equivalence",
    "fitted",
    "holm",
    "jackknifed",
    "percentile",
    "permutation_p",
    "rate",
    "redrawn_choice",
    "redrawn_choice_apart",
    "refitted",
    "resampled_means",
    "score_interval",
    "selected_gain",
    "share",
    "simultaneous",
    "spread",
    "spread_ratio",
    "two_by_two",
    "variance_shares",
    "widened",
    "within",
]
