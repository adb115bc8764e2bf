"""Tables of the study of initial logit magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from calib_bench.analysis import collapse, controls, interventions
from calib_bench.analysis.arms import rates_note, trials_note
from calib_bench.analysis.result_rows import (  # fmt: skip
    TRIALS_DOUBTFUL,
    marks,
)
from calib_bench.analysis.table_notes import display_columns, rate_unit, sample, table_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.logit_magnitude.plane import ALIKE

if TYPE_CHECKING:
    import pandas as pd


NORM = "||Z0||"
FAMILY = ("model", "variant", "objective")
MARK = "* Holm-adjusted p < .05 over the rows of"


def magnitude_tables(frames: Mapping[str, pd.DataFrame], grid: Grid) -> dict[str, Table]:
    """Every table that has rows."""
    import pandas as pd

    all_tables = {
        "plane": Table(
            "The plane: accuracy and repaired log loss (nats) over beta and correlation",
            display_columns(frames["plane"], grid),
            table_note(
                grid,
                f"initial norm: {NORM}_F / sqrt(N), Z = beta z, on the selection split before the first update, t "
                "interval over seeds; correlation: of two copies' heads, none for the model alone; repaired: after "
                f"temperature scaling; change: minus the model alone at beta={grid.reference:g}, paired by seed "
                f"and example, {MARK} the table",
                sample(frames["plane"]),
                *marks(frames["plane"]),
            ),
            paper=True,
            names=(*FAMILY, "beta", "correlation"),
        ),
        "contrasts": Table(
            f"One thing moved: beta at equal {NORM}, {NORM} at equal beta",
            display_columns(frames["contrasts"], grid),
            table_note(
                grid,
                "Differences of test accuracy and of repaired log loss (nats), paired by seed and example, against "
                f"the cell at `from`; magnitudes within a factor of {ALIKE:g} count as equal",
                sample(frames["contrasts"]),
                f"{MARK} a kind",
                *marks(frames["contrasts"]),
            ),
            names=(*FAMILY, "moves", "beta"),
        ),
        "shares": Table(
            "Shares of the variance of one trained model's result",
            display_columns(frames["shares"], grid),
            table_note(
                grid,
                "Of a model with a random cell of the design and a random seed. other: the main effect of beta, or of "
                "the head's rate; magnitude: all that the initial magnitude does at given levels of the other, so the "
                "interaction is part of it. Shares are of the ranges covered here. Intervals: jackknife over seeds; "
                f"{MARK} a metric, planes and 2x2 apart, by permutation within seeds",
                *marks(frames["shares"]),
            ),
            paper=True,
            names=(*FAMILY, "design", "metric"),
        ),
        **interventions.tables(grid, {**frames, "interventions": frames["shares"].iloc[:0]}),
        "controls": controls.table(frames["controls"], grid),
        "collapse": collapse.table(pd.DataFrame(collapse.rows(frames["trials"], grid)), grid),
        "rates": Table(
            "Learning rates tried",
            display_columns(frames["rates"], grid),
            table_note(
                grid,
                f"Mean {grid.select.replace('_', ' ')} on the selection split over the tuning seeds; inf: diverged",
                rates_note(frames["rates"]),
                rate_unit(grid),
            ),
        ),
        "trials": Table(
            "Trials at the chosen rates, test split",
            display_columns(frames["trials"], grid),
            table_note(grid, trials_note(frames["rates"]), *marks(frames["trials"], TRIALS_DOUBTFUL)),
        ),
    }
    return {name: table for name, table in all_tables.items() if len(table.frame)}
