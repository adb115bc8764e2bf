"""Tables of the plane of beta and rate, and its part on each beta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import beta_rate_plane, controls
from calib_bench.analysis.result_rows import Row, cell, marks
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.core.fate import GUESS
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Detail, Table
from calib_bench.studies.learning_rate import phase
from calib_bench.studies.learning_rate.findings import PHRASES, by_plane

if TYPE_CHECKING:
    import pandas as pd


ENDS = ("", "_low", "_high")


def details(analysis: Analysis) -> list[Detail]:
    """Each beta: its best rate, the rate where training begins to fail and the critical one, in three units."""
    import pandas as pd

    frame = analysis.tables["phase"].frame
    groups = by_plane(frame) if len(frame) else []
    beta_details = []
    for where, rows in groups:
        for row in rows.to_dict("records"):
            present = [what for what in PHRASES if phase.column(what, "lr") in row]
            table = [{"rate": PHRASES[what].split(" goes")[0]} | _units(row, what) for what in present]
            parts = [f"{one['rate']} {cell(one, 'lr')}" for one in table if one["lr"] == one["lr"]]
            edge = () if row["inside"] else ("The best rate is at the edge of the grid.",)
            display_columns = Table("In three units", pd.DataFrame(table), names=("rate",))
            beta_details.append(Detail(f"{where}beta = {row['beta']:.3g}", ", ".join(parts), edge, display_columns))
    return beta_details


def _units(row: Mapping[str, Any], what: str) -> Row:
    """A rate's columns, the rate's own name left out of theirs."""
    columns = {unit: phase.column(what, unit) for unit in phase.UNITS}
    return {f"{unit}{end}": row.get(f"{name}{end}", math.nan) for unit, name in columns.items() for end in ENDS}


def plane_tables(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> dict[str, Table]:
    """The slopes, the rates over beta, the cells and the controls, each with the note that says how to read it."""
    n = f"{len(grid.seed)} seeds, every one of them in every cell"
    how = "95% percentile intervals, seeds and selection examples resampled together"
    fails = f"fails: diverges, or ends at {GUESS:.0%} or more of the loss of guessing, the entropy of the labels"
    control_tables = {"controls": controls.table(frames["controls"], grid)} if len(frames["controls"]) else {}
    tables = {
        "slopes": Table(
            "Slopes over beta on log-log axes",
            display_columns(frames["slopes"], grid),
            table_note(
                grid,
                f"least squares over the betas of the range where the rate is known and, for the best one, inside the "
                f"grid; {n}; {how}; theory: of {phase.LIMIT} at zero initial logits",
                "* Holm-adjusted p < .05 that the slope is not 0, for each rate and unit",
                *marks(frames["slopes"]),
            ),
            paper=True,
        ),
        "phase": Table(
            "The best rate, the rate where training begins to fail, and the critical rate",
            display_columns(frames["phase"], grid),
            table_note(
                grid,
                f"lr: the rate; lr eff: beta^2 rate; lr rel: rate lambda_max / 2; geometric means over {n}; {how}",
                "best rate: vertex of a parabola through the lowest mean selection score and its neighbours; inside: "
                f"it has a worse rate on either side; {fails}, bracketed for every seed to a factor of "
                f"{beta_rate_plane.FINE:.2f}; critical rate: {phase.LIMIT} of the Hessian at initialization, on a "
                "batch of training examples; headroom: where training fails over the best rate",
                "collapsed: share of seeds at the best rate of the grid that fail, or part from the better half by a "
                "gap (exact limits)"
                if "collapsed" in frames["phase"]
                else "",
            ),
            paper=True,
            first=(
                "seeds",
                "inside",
                *(phase.column(w, "lr") for w in (phase.RIDGE, phase.FRONTIER, phase.CRITICAL)),
                "headroom",
                "limit",
            ),
        ),
        "cells": Table(
            "Every cell of the plane",
            display_columns(frames["cells"], grid),
            table_note(grid, f"{grid.select.replace('_', ' ')} on the selection split, mean over seeds; failed: share"),
        ),
    }
    return tables | control_tables
