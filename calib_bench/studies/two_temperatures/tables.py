"""Tables of the plane of the two temperatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.analysis import controls
from calib_bench.analysis.result_rows import (
    marks,
)
from calib_bench.analysis.table_notes import smoke_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.studies.two_temperatures import plane

if TYPE_CHECKING:
    import pandas as pd


def plane_tables(grid: Grid, frames: dict[str, pd.DataFrame]) -> dict[str, Table]:
    """Every table that has rows, each with the note that says how to read it."""
    smoke = smoke_note(grid)
    seeds = f"{len(grid.seed)} seeds, test split. "
    lost = "collapsed" in frames["cells"]
    every = {
        "shares": Table(
            "What one number accounts for, of the variance between cells", frames["shares"],
            f"{smoke}{seeds}Adjusted share of the variance between cells (means over seeds, seed noise taken out) that "
            "lies between cells of different beta^2 eta0 (effective), of different eta0, of different beta; log losses "
            "and kappa by their logarithm. 95% jackknife intervals over seeds. Learned: repaired log loss below "
            f"{plane.LEARNED:g} log K.", paper=True, names=("model", "metric", "of"),
        ),
        "block": Table(
            "Shares of variance of beta^2 eta0 and beta in the complete block", frames["block"],
            f"{smoke}{seeds}Of one run's result: main effects, interaction, seed; 95% jackknife intervals over seeds; "
            "permutation p-values within seeds.", names=("model", "metric"),
        ),
        "at_equal": Table(
            f"Each beta less beta={grid.reference:g} at equal beta^2 eta0", frames["at_equal"],
            f"{smoke}{seeds}Paired by seed and example, 95% intervals over both, which count the calibration examples "
            "that temperatures were fitted on; a star: p < .05 after Holm's "
            "correction over the table." + "".join(f" {text}." for text in marks(frames["at_equal"])),
        ),
        "controls": controls.table(frames["controls"], grid),
        "cells": Table(
            "Every cell", frames["cells"].drop(columns="collapsed_p", errors="ignore"),
            f"{smoke}{seeds}Means over seeds; failed: share not finished"
            + ("; collapsed: parted from the better half of the seeds by a gap, exact limits." * lost or "."),
        ),
    }  # fmt: skip
    return {name: table for name, table in every.items() if len(table.frame)}
