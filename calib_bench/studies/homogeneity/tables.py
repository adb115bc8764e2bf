"""Tables of the study of the homogeneity law, each with the note that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.homogeneity.measure import AGREES
from calib_bench.studies.homogeneity.nets import RANGE
from calib_bench.studies.homogeneity.options import Options

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("model", "optimizer")
RULE = (
    "verdict, by a rule declared before the run: equivalent: the 95% interval lies within ±{margin}; else established "
    "miss: it leaves out 0 and Holm's p over {family} is below .05; suggestive miss: it leaves out 0, but not after "
    "Holm; inconclusive otherwise"
)
"""The declared rule: {margin} is what does not matter, {family} what Holm's adjustment is over."""
SPREAD = "{number} seeds, 95% t intervals over seeds"
TABLES = {
    "slopes": TableSpec(
        "Slopes over beta beside the law",
        (
            "least squares on log-log axes for each seed; {spread}; prediction: -2 / L of sgd, -1 / L of adam; degree: "
            "L, the mean over seeds at initialization, and its standard deviation; slope: of the rate; slope hom: of "
            "the rate in lr_hom = rate beta^(2/L), of adam rate beta^(1/L), which is slope minus prediction",
            "by layers: the prediction with the number of layers for L, 2 under layer normalization; biases lower L at "
            "initialization",
            "best rate: vertex of a parabola through a seed's lowest selection score and its neighbours; failure: "
            "where training begins to fail, known to a factor of {fine}; left out: seeds whose best rate stands at the "
            "end of the grid, or that were not seen to fail, at some beta; softmax regression fails at no rate: large "
            "steps scale its logits, which temperature scaling undoes",
            "judged over {range} alone",
            RULE.replace("{family}", "nets, for each of the two rates"),
        ),
        paper=True,
        names=(*NAMES, "rate"),
        first=("range", "degree", "seeds", "prediction", "slope", "slope_hom", "verdict"),
    ),
    "rates": TableSpec(
        "Best rate and the rate where training fails, over beta",
        (
            "geometric means over the seeds where the rate was found; {spread}; lr hom: the rate times beta^(2/L), of "
            "adam times beta^(1/L); scaled start: where training fails at beta = 1 from initial weights times "
            "beta^(1/L), which stands for this beta, tuning seeds alone; headroom: failure over best rate",
        ),
        names=(*NAMES, "beta"),
        first=("best_rate_lr", "best_rate_lr_hom", "failure_lr", "failure_lr_hom", "scaled_start_lr_hom", "headroom"),
    ),
    "regret": TableSpec(
        "What a carried rate costs",
        (
            "log loss, in nats, at the rate in lr_hom that is best at beta = 1 minus that at the rate tuned at this "
            "beta; both chosen by the same {tune_seeds} seeds and judged on others; ratio: of the two rates; 95% "
            "intervals over seeds and examples together; same rate: the rate of beta = 1 as it stands, on the test "
            "split",
            "failed: runs that diverged or end no better than guessing; the losses leave out those that diverged, and "
            "no case is equivalent where more carried than tuned runs failed",
            RULE.replace("{margin}", "{regret_margin} nats on the test split").replace("{family}", "nets and betas"),
        ),
        paper=True,
        names=(*NAMES, "beta"),
    ),
    "saddle": TableSpec(
        "Leaving the start",
        (
            "steps: updates until the selection loss is half of that of guessing, at the carried rate; share: of the "
            "run; never: seeds that do not get there, or fail first; scale: s = beta^(1/L), by which the same run at "
            "beta = 1 has smaller initial weights; growth: slope of log steps over log s for {range}; law: -(L - 2), "
            "of the time in which gradient descent leaves the saddle at zero, 0 up to L = 2, where it grows as log 1/s "
            "at most, and 0 of Adam, whose steps do not shrink with the gradient",
            "{spread}",
        ),
        names=(*NAMES, "beta"),
    ),
    "exact": TableSpec(
        "The exact control: nets without biases",
        (
            "float64, one seed: a run at beta from initial weights times beta^(-1/L), all numbers of the recipe "
            "carried, against the run at beta = 1; difference: largest of the test logits times beta, over the largest "
            "logit; passed: below {agrees}",
        ),
        names=NAMES,
    ),
    "scaled_start": TableSpec(
        "Scale of the initial weights in place of beta",
        (
            "log of the rate where training fails at beta over that at beta = 1 from initial weights times beta^(1/L), "
            "the second times beta^(-2/L); mean over betas for each tuning seed, 95% t intervals over those; largest: "
            "of one seed and beta, without sign",
            RULE.replace("{margin}", "{fine} as a factor, to which a frontier is known").replace("{family}", "nets"),
        ),
        names=NAMES,
    ),
}
"""In reading order."""


def law_tables(grid: Grid, frames: Mapping[str, pd.DataFrame], options: Options) -> dict[str, Table]:
    """The tables that have a row, in reading order."""
    fields = {
        "spread": SPREAD.format(number=len(grid.seed)),
        "tune_seeds": f"{grid.tune_seeds}",
        "margin": f"{options.margin:g}",
        "regret_margin": f"{options.regret_margin:g}",
        "range": RANGE,
        "fine": f"{beta_rate_plane.FINE:.2f}",
        "agrees": f"{AGREES:g}",
    }
    return {name: spec.table(frames[name], grid, **fields) for name, spec in TABLES.items() if len(frames[name])}
