"""Sentences on what tuning beta gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calib_bench.analysis import collapse
from calib_bench.analysis.result_rows import FEW_CHOSE, Row, cell, few_chose, revoked
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.analysis.warnings import one_seed
from calib_bench.core.settings import Grid
from calib_bench.planning.tuning import FEWEST_SEEDS
from calib_bench.studies.tune.options import Options
from calib_bench.studies.tune.searches import Pair

NEAR = 1.05
"""A winner within this factor of a bound of its search is said to be at the edge."""


RESULTS = {
    "log_loss_total": ("test log loss", "nats"),
    "log_loss_dyn": ("log loss once both are temperature scaled", "nats"),
    "accuracy": ("accuracy", ""),
}
"""Columns of the gain, with what sentences call them and their units."""


def sentences(grid: Grid, row: Mapping[str, Any], several: bool) -> list[str]:
    """What both searches chose and the gain of tuning beta, then advice.

    Args:
        grid: the study's.
        row: of `rows.gain_of`; one comparison, so that its p-values need no adjustment.
        several: begin with the name of the pair.
    """
    where = f"{label(row)}: " if several else ""
    chose = f"the search over beta and rate chose beta={row['tuned_beta']:.3g}"
    head = f"{where}With {Options.of(grid).budget} configurations each, {chose}"
    if "log_loss_total" not in row:
        return [f"{head}; no seed has finished at both."]
    gains = ", ".join(f"{name} by {cell(row, column)} {unit}".rstrip() for column, (name, unit) in RESULTS.items())
    against = f"against the best rate at beta={grid.reference:g} it changed {gains} (95%, {row['seeds']} seeds)"
    return [f"{head}; {against}.", f"{where}Advice: {_advice(grid, row)}."]


def _advice(grid: Grid, row: Mapping[str, Any]) -> str:
    """Text on which beta to train at, as far as the intervals of the gain go."""
    beta, stay = f"beta={row['tuned_beta']:.3g}", f"stay at beta={grid.reference:g}"
    if why := revoked(row):
        return f"{stay}; that tuning beta gains anything is not established, since {why}"
    total, dyn, accuracy = (_sign(row, column) for column in RESULTS)
    if dyn < 0 or accuracy > 0:
        return f"train at {beta}; what it gains, no temperature after training can give"
    if dyn > 0 or accuracy < 0:
        return f"{stay}; on the test split the search's choice is worse"
    if total < 0:
        return f"{stay} and scale the temperature after training; that gives what {beta} gained"
    return f"{stay}; whether tuning beta gains anything is inconclusive"


def _sign(row: Mapping[str, Any], column: str) -> int:
    """The sign of a change whose interval leaves 0 out; else 0."""
    return int(row[f"{column}_low"] > 0) - int(row[f"{column}_high"] < 0)


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
    return (*out, *collapse.warnings(collapses), *one_seed(grid))


def label(row: Mapping[str, Any]) -> str:
    """The name of a pair of searches in a sentence."""
    return ", ".join(str(row[key]) for key in ("model", "objective", "variant") if row.get(key))
