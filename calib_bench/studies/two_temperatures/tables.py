"""Tables of the plane of the two temperatures."""

from __future__ import annotations

from calib_bench.analysis import controls
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.studies.two_temperatures.plane import LEARNED

SEEDS = "{seeds}, test split"
TABLES = {
    "shares": TableSpec(
        "What one number tells of a cell: adjusted R^2",
        (
            SEEDS,
            "Adjusted R^2 of cells (means over seeds, seed noise taken out) given beta^2 eta0 (effective), eta0 or "
            "beta: 1 where it tells all, 0 where it tells as little as cells grouped at random, below 0 where less; "
            "log losses and kappa by their logarithm",
            f"95% jackknife intervals over seeds. Learned: repaired log loss below {LEARNED:g} log K",
        ),
        paper=True,
        names=("model", "metric", "of"),
    ),
    "block": TableSpec(
        "Shares of variance of beta^2 eta0 and beta in the complete block",
        (
            SEEDS,
            "Of one run's result: main effects, interaction, seed; 95% jackknife intervals over seeds; permutation "
            "p-values within seeds",
        ),
        names=("model", "metric"),
    ),
    "at_equal": TableSpec(
        "Each beta less {reference} at equal beta^2 eta0",
        (
            SEEDS,
            "Paired by seed and example, 95% intervals over both, which count the calibration examples that "
            f"temperatures were fitted on; {STAR} over the table",
        ),
    ),
    "controls": controls.TABLE,
    "cells": TableSpec(
        "Every cell",
        (SEEDS, "Means over seeds; failed: share not finished"),
        columns={"collapsed": "collapsed: parted from the better half of the seeds by a gap, exact limits"},
    ),
}
