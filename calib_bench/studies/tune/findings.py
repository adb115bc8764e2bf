"""Sentences on what tuning beta gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calib_bench.analysis import collapse
from calib_bench.analysis.format import estimate
from calib_bench.analysis.result_rows import FEW_CHOSE, Row, few_chose, revoked
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.planning.tuning import FEWEST_SEEDS
from calib_bench.studies.tune.options import Options
from calib_bench.studies.tune.searches import Pair

NEAR = 1.05
"""A winner within this factor of a bound of its search is said to be at the edge."""


def sentences(grid: Grid, row: Mapping[str, Any], several: bool) -> list[str]:

    where = f"{label(row)}: " if several else ""
    head = (
        f"{where}With {Options.of(grid).budget} configurations each, the search over beta and rate chose beta="
        f"{row['tuned_beta']:.3g} and the search at beta={grid.reference:g} its best rate"
    )
    if "log_loss_total" not in row:
        return [f"{head}; no seed has finished at both."]

    def cell(column: str) -> str:
        return estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])

    sentence = (
        f"{head}: test log loss changed by {cell('log_loss_total')} nats, by {cell('log_loss_dyn')} once both are "
        f"temperature scaled, accuracy by {cell('accuracy')} (95% intervals, {row['seeds']} seeds)."
    )
    return [sentence, where + _advice(grid, row)]


def _advice(grid: Grid, row: Mapping[str, Any]) -> str:
    def sign(column: str) -> int:
        return int(row[f"{column}_low"] > 0) - int(row[f"{column}_high"] < 0)

    beta, reference = f"beta={row['tuned_beta']:.3g}", f"beta={grid.reference:g}"
    if why := revoked(row):
        return f"Advice: stay at {reference}; that tuning beta gains anything is not established, since {why}."
    if sign("log_loss_dyn") < 0 or sign("accuracy") > 0:
        return f"Advice: train at {beta}; what it gains, no temperature after training can give."
    if sign("log_loss_dyn") > 0 or sign("accuracy") < 0:
        return f"Advice: stay at {reference}; on the test split the search's choice is worse."
    if sign("log_loss_total") < 0:
        return f"Advice: stay at {reference} and scale the temperature after training; that gives what {beta} gained."
    return f"Advice: stay at {reference}; whether tuning beta gains anything is inconclusive."


def pair_warnings(pair: Pair, row: Mapping[str, Any]) -> list[str]:
    """On winners at the edge of their search, and on seeds that are left out."""
    chosen = (
        ("beta", row["tuned_beta"], pair.betas),
        ("rate", row["tuned_rate"], pair.rates),
        ("reference's rate", row["reference_rate"], pair.rates),
    )
    messages = []
    for what, value, (low, high) in chosen:
        if value < low * NEAR or value > high / NEAR:
            messages.append(f"{label(row)}: the chosen {what}, {value:.3g}, is at the edge of {low:.3g} to {high:.3g}.")
    if row["dropped"]:
        messages.append(f"{label(row)}: {row['dropped']} seeds are left out, which diverged at a chosen rate.")
    return messages


def warnings(grid: Grid, messages: Sequence[str], gains: Sequence[Row], collapses: Sequence[Row]) -> tuple[str, ...]:
    """What a reader must know before quoting a number.

    Args:
        settings: resolved.
        messages: those of single pairs.
        gains: rows of `Gain.row`.
        collapses: of `calib_bench.analysis.collapse.rows`.
    """
    out = [*smoke_warnings(grid), *messages]
    if any(few_chose(row) for row in gains):
        out.append(f"Few seeds: {FEW_CHOSE}, so that no gain is established; give tune_seeds={FEWEST_SEEDS}.")
    out += collapse.warnings(collapses)
    if len(grid.seed) == 1:
        out.append("One seed: intervals hold for this one initialization and batch order.")
    return tuple(out)


def label(row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[key]) for key in ("model", "objective", "variant") if row.get(key))
