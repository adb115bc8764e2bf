"""Tables of peak and reliability over beta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.result_rows import marks
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.analysis.tuned_arms import intervals
from calib_bench.core.fate import GUESS
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table

if TYPE_CHECKING:
    import pandas as pd


def stability_tables(frames: Mapping[str, pd.DataFrame], grid: Grid, nested: bool) -> dict[str, Table]:
    """The peaks, the seeds and, where there is one, the gain of choosing beta, each with its note."""
    ref = f"beta={grid.reference:g}"
    peaks = Table(
        "Peak and reliability over beta",
        display_columns(frames["peaks"], grid),
        table_note(
            grid,
            f"best, worst: expected result of the best and the worst of so many (of) seeds, mean over all choices of "
            f"them, judged on the test split; change: minus that of {ref}, paired by seed; "
            f"{intervals(grid, nested)}, by jackknife over seeds, {len(grid.seed)} seeds, which count "
            "the choice of rates by what it changes in the mean seed; seeds that helped to choose are at the rate they "
            "chose, like all others, so that seeds differ by nothing else",
            f"failed: share of trials at the chosen rate that diverged or ended at {GUESS:.0%} or more of the loss of "
            "guessing (the entropy of the labels), of seeds that did not choose the rate where there are such, exact "
            "limits; diverged seeds have no result and are left out of the others",
            "* Holm-adjusted p < .05 over the arms, for each result and column",
            *marks(frames["peaks"]),
        ),
        paper=True,
    )
    tables = {"peaks": peaks, "seeds": sown.table(frames["seeds"], grid)}
    return tables | ({"gain": sown.gain_table(frames["gain"], grid)} if len(frames["gain"]) else {})
