"""The table of switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.analysis.result_rows import marks
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.analysis.tuned_arms import intervals
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.beta_switch.rows import ALL_ALONG, NEVER

if TYPE_CHECKING:
    import pandas as pd


def switch_tables(frame: pd.DataFrame, grid: Grid, nested: bool) -> dict[str, Table]:
    """The table `switches`, one row a switched arm and arm that it is compared with."""
    ref = f"beta={grid.reference:g}"
    return {
        "switches": Table(
            "Switching beta in the course of training",
            display_columns(frame, grid),
            table_note(
                grid,
                f"beta switches between {ref} and beta after the share `at` of the updates, and no prediction changes "
                f"there; {intervals(grid, nested)}, up to {len(grid.seed)} seeds",
                f"against {NEVER}: minus the arm that stays where it began, what the rest of training changes; against "
                f"{ALL_ALONG}: minus the arm that was from the start where this one ends, what the beginning changes; "
                f"against reference: beta minus {ref}, both all along",
                "decided: the share of the difference between both betas that was settled before the switch, where the "
                "data bound it (Fieller's interval; the choices of rates and the calibration examples are counted)",
                "one rate throughout a run, tuned for each arm with the same budget; dyn: after temperature scaling; * "
                "Holm-adjusted p < .05 over the rows with the same `against`",
                *marks(frame),
            ),
            paper=True,
        )
    }
