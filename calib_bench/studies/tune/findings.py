"""Sentences on what tuning beta gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calib_bench.analysis import collapse
from calib_bench.analysis.findings import Sentences
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


class Says(Sentences):
    """What the study of tuning beta says."""

    NOT_FINISHED = (
        "{where}With {budget} configurations each, the search over beta and rate chose {beta}; no seed has finished at "
        "both."
    )
    GAIN = (
        "{where}With {budget} configurations each, the search over beta and rate chose {beta}; against the best rate "
        "at {reference} it changed {gains} (95%, {seeds} seeds)."
    )
    ADVICE = "{where}Advice: {advice}."
    REVOKED = "stay at {reference}; that tuning beta gains anything is not established, since {why}"
    TRAIN = "train at {beta}; what it gains, no temperature after training can give"
    WORSE = "stay at {reference}; on the test split the search's choice is worse"
    SCALE = "stay at {reference} and scale the temperature after training; that {beta} gains more is not established"
    OPEN = "stay at {reference}; whether tuning beta gains anything is inconclusive"
    AT_EDGE = "{pair}: the chosen {what}, {value:.3g}, is at the edge of {low:.3g} to {high:.3g}."
    DROPPED = "{pair}: {dropped} seeds are left out, which diverged at a chosen rate."
    FEW_SEEDS = f"Few seeds: {FEW_CHOSE}, so that no gain is established; give tune_seeds={FEWEST_SEEDS}."


def sentences(grid: Grid, row: Mapping[str, Any], several: bool) -> list[str]:
    """What both searches chose and the gain of tuning beta, then advice.

    Args:
        grid: the study's.
        row: of `rows.gain_of`; one comparison, so that its p-values need no adjustment.
        several: begin with the name of the pair.
    """
    about = {"where": f"{label(row)}: " if several else "", "budget": Options.of(grid).budget, **_betas(grid, row)}
    if "log_loss_total" not in row:
        return [Says.NOT_FINISHED.of(**about)]
    gains = ", ".join(f"{name} by {cell(row, column)} {unit}".rstrip() for column, (name, unit) in RESULTS.items())
    return [
        Says.GAIN.of(**about, gains=gains, seeds=row["seeds"]),
        Says.ADVICE.of(**about, advice=_advice(grid, row)),
    ]


def _betas(grid: Grid, row: Mapping[str, Any]) -> dict[str, str]:
    return {"beta": f"beta={row['tuned_beta']:.3g}", "reference": f"beta={grid.reference:g}"}


def _advice(grid: Grid, row: Mapping[str, Any]) -> str:
    """Text on which beta to train at."""
    return _advised(row).of(**_betas(grid, row), why=revoked(row))


def _advised(row: Mapping[str, Any]) -> Says:
    """Which advice the intervals of the gain allow."""
    if revoked(row):
        return Says.REVOKED
    total, dyn, accuracy = (_sign(row, column) for column in RESULTS)
    if dyn < 0 or accuracy > 0:
        return Says.TRAIN
    if dyn > 0 or accuracy < 0:
        return Says.WORSE
    return Says.SCALE if total < 0 else Says.OPEN


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
            messages.append(Says.AT_EDGE.of(pair=label(row), what=what, value=value, low=low, high=high))
    if row["dropped"]:
        messages.append(Says.DROPPED.of(pair=label(row), dropped=row["dropped"]))
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
        out.append(Says.FEW_SEEDS)
    return (*out, *collapse.warnings(collapses), *one_seed(grid))


def label(row: Mapping[str, Any]) -> str:
    """The name of a pair of searches in a sentence."""
    return ", ".join(str(row[key]) for key in ("model", "objective", "variant") if row.get(key))
