"""Tables of the study of initial logit magnitude."""

from __future__ import annotations

from calib_bench.analysis import interventions
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.studies.logit_magnitude.plane import ALIKE

NORM = "||Z0||"
FAMILY = ("model", "variant", "objective")

TABLES = {
    "plane": TableSpec(
        "The plane: accuracy and repaired log loss (nats) over beta and correlation",
        (
            f"initial norm: {NORM}_F / sqrt(N), Z = beta z, on the selection split before the first update, t "
            "interval over seeds; correlation: of two copies' heads, none for the model alone; repaired: after "
            "temperature scaling",
            f"change: minus the model alone at {{reference}}, paired by seed and example, {STAR} over the rows of the "
            "table",
            "{sample}",
        ),
        paper=True,
        names=(*FAMILY, "beta", "correlation"),
    ),
    "contrasts": TableSpec(
        f"One thing moved: beta at equal {NORM}, {NORM} at equal beta",
        (
            "Differences of test accuracy and of repaired log loss (nats), paired by seed and example, against the "
            f"cell at `from`; magnitudes within a factor of {ALIKE:g} count as equal",
            "{sample}",
            f"{STAR} over the rows of a kind",
        ),
        names=(*FAMILY, "moves", "beta"),
    ),
    "shares": TableSpec(
        "Shares of the variance of one trained model's result",
        (
            "Of a model with a random cell of the design and a random seed. other: the main effect of beta, or of "
            "the head's rate; magnitude: all that the initial magnitude does at given levels of the other, so the "
            "interaction is part of it",
            "Shares are of the ranges covered here",
            f"Intervals: jackknife over seeds at the chosen rates, cut at 0 and 1, where an estimate may lie beyond; "
            f"{STAR} over the rows of a metric, planes and 2x2 apart, by permutation within seeds",
        ),
        paper=True,
        names=(*FAMILY, "design", "metric"),
    ),
    "two_by_two": interventions.TABLES["two_by_two"],
}
ADJUSTED = {"plane": (), "contrasts": ("moves",), "shares": ("other", "metric"), "two_by_two": ("metric",)}
"""Tables that Holm's correction is made over, and the columns that tell one set of hypotheses from another."""
