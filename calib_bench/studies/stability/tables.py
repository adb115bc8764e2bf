"""Tables of peak and reliability over beta."""

from __future__ import annotations

from calib_bench.analysis import seed_spread
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.fate import GUESS

TABLES = {
    "peaks": TableSpec(
        "Peak and reliability over beta",
        (
            "best, worst: expected result of the best and the worst of so many (of) seeds, mean over all choices of "
            "them, judged on the test split; change: minus that of {reference}, paired by seed; {intervals}, by "
            "jackknife over seeds, {seeds}, which count the choice of rates by what it changes in the mean seed; "
            "seeds that helped to choose are at the rate they chose, like all others, so that seeds differ by "
            "nothing else",
            f"failed: share of trials at the chosen rate that diverged or ended at {GUESS:.0%} or more of the loss of "
            "guessing (the entropy of the labels), of seeds that did not choose the rate where there are such, exact "
            "limits; diverged seeds have no result and are left out of the others",
            f"{STAR} over the arms, for each result and column",
        ),
        paper=True,
    ),
    "seeds": seed_spread.TABLE,
    "gain": seed_spread.GAIN_TABLE,
}
