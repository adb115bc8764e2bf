"""Tables of the plane of beta and rate, and its part on each beta."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from calib_bench.analysis import beta_rate_plane, controls
from calib_bench.analysis.result_rows import Row, cell
from calib_bench.analysis.table_notes import by_objective
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.fate import GUESS
from calib_bench.core.study import Analysis, Detail, Table
from calib_bench.studies.learning_rate import phase
from calib_bench.studies.learning_rate.findings import PHRASES

ENDS = ("", "_low", "_high")
HOW = "95% percentile intervals, seeds and selection examples resampled together"
TABLES = {
    "slopes": TableSpec(
        "Slopes over beta on log-log axes",
        (
            "least squares over the betas of the range where the rate is known and, for the best one, inside the "
            f"grid; {{seeds}}, every one of them in every cell; {HOW}; theory: of {phase.LIMIT} at zero initial logits",
            f"{STAR} that the slope is not 0, for each rate and unit",
        ),
        paper=True,
    ),
    "phase": TableSpec(
        "The best rate, the rate where training begins to fail, and the critical rate",
        (
            f"lr: the rate; lr eff: beta^2 rate; lr rel: rate lambda_max / 2; geometric means over {{seeds}}, every "
            f"one of them in every cell; {HOW}",
            "best rate: vertex of a parabola through the lowest mean selection score and its neighbours; inside: it "
            "has a worse rate on either side",
            f"fails: diverges, or ends at {GUESS:.0%} or more of the loss of guessing, the entropy of the labels, "
            f"bracketed for every seed to a factor of {beta_rate_plane.FINE:.2f}",
            f"critical rate: {phase.LIMIT} of the Hessian at initialization, on a batch of training examples; "
            "headroom: where training fails over the best rate",
        ),
        columns={
            "collapsed": "collapsed: share of seeds at the best rate of the grid that fail, or part from the better "
            "half by a gap (exact limits)"
        },
        paper=True,
        first=("seeds", "inside", *(phase.column(rate, "lr") for rate in phase.RATES), "headroom", "limit"),
    ),
    "cells": TableSpec("Every cell of the plane", ("{score} on the selection split, mean over seeds; failed: share",)),
    "controls": controls.TABLE,
}


def details(analysis: Analysis) -> list[Detail]:
    """Each beta: its best rate, the rate where training begins to fail and the critical one, in three units."""
    beta_details = []
    groups = by_objective(analysis.tables["phase"].frame) if "phase" in analysis.tables else ()
    for where, rows in groups:
        for row in rows.to_dict("records"):
            table = [
                {"rate": PHRASES[what].split(" goes")[0]} | _units(row, what)
                for what in phase.RATES
                if phase.column(what, "lr") in row
            ]
            parts = [f"{one['rate']} {cell(one, 'lr')}" for one in table if one["lr"] == one["lr"]]
            edge = () if row["inside"] else ("The best rate is at the edge of the grid.",)
            units = Table("In three units", pd.DataFrame(table), names=("rate",))
            beta_details.append(Detail(f"{where}beta = {row['beta']:.3g}", ", ".join(parts), edge, units))
    return beta_details


def _units(row: Mapping[str, Any], what: str) -> Row:
    """A rate's columns, the rate's own name left out of theirs."""
    columns = {unit: phase.column(what, unit) for unit in phase.UNITS}
    return {f"{unit}{end}": row.get(f"{name}{end}", math.nan) for unit, name in columns.items() for end in ENDS}
