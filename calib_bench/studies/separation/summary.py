"""The verdict in three plain sentences: dynamics, confidence, controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import controls
from calib_bench.analysis.result_rows import cell, excludes_zero, is_significant, why_loose
from calib_bench.analysis.table_notes import betas, families
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.studies.separation.findings import MARGIN, is_equal

if TYPE_CHECKING:
    import pandas as pd


Row = Mapping[str, Any]
MOST = 3
"""Most families of arms that are summarized one by one."""
DYNAMICS = ("log_loss_dyn", "accuracy")
"""Columns that only what is learned moves."""


def summary(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Summary of dynamics, confidence and controls; empty without a comparison or with more than MOST families."""
    contrasts = frames["separation"]
    if "log_loss_total" not in contrasts:
        return ()
    measured = contrasts[contrasts["log_loss_total"].notna() & (contrasts["objective"] == CROSS_ENTROPY)]
    groups = [(where, rows.to_dict("records")) for where, rows in families(measured)]
    if not groups or len(groups) > MOST:
        return ()
    sentences = []
    for where, rows in groups:
        sentences += [where + _dynamics(rows, grid), where + _confidence(rows)]
    return (*sentences, *controls.outcome(frames["controls"]))


def _dynamics(rows: Sequence[Row], grid: Grid) -> str:
    """Sentence on what no temperature can repair: the repaired log loss, and accuracy."""
    sure = [row for row in rows if any(_changed(row, column) for column in DYNAMICS)]
    if not sure:
        return _no_dynamics(rows, grid)
    worst = max(sure, key=lambda row: abs(row["log_loss_dyn"]))
    parts = " and ".join(_dynamics_parts(worst))
    others = [row for row in sure if row is not worst]
    rest = [row for row in rows if row not in sure]
    more = f"; also established at {betas(others)}" if others else ""
    silent = f" No effect is established at {betas(rest)}." if rest else ""
    return (
        f"Beta changes what is learned, not only how confident the model is: trained at {betas([worst])} instead of "
        f"{grid.reference:g}, {parts}, which no temperature could repair{more}.{silent}"
    )


def _dynamics_parts(row: Row) -> list[str]:
    """By how much log loss after temperature scaling and accuracy changed, each where it surely did."""
    parts = []
    if _changed(row, "log_loss_dyn"):
        parts.append(
            f"log loss after temperature scaling is {_way(row, 'log_loss_dyn')} by {_size(row, 'log_loss_dyn')} nats"
        )
    if _changed(row, "accuracy"):
        parts.append(f"accuracy is {_way(row, 'accuracy')} by {_size(row, 'accuracy')}")
    return parts


def _no_dynamics(rows: Sequence[Row], grid: Grid) -> str:
    """Where nothing that is learned surely differs: whether it is equal."""
    reference = f"beta={grid.reference:g}"
    if all(is_equal(row, column) for row in rows for column in DYNAMICS):
        return (
            f"Beta made no difference to what was learned: at every beta, log loss after temperature scaling and "
            f"accuracy equal those of {reference} within {MARGIN:g}."
        )
    hints = [row for row in rows if any(excludes_zero(row, column) for column in DYNAMICS)]
    hint = f" There may be one at {betas(hints)}, but {why_loose(hints)}." if hints else ""
    return (
        f"No effect of beta on what is learned is established: after temperature scaling, log loss and accuracy "
        f"do not differ significantly from those at {reference}.{hint}"
    )


def _confidence(rows: Sequence[Row]) -> str:
    """Sentence on what a temperature repairs."""
    sure = [row for row in rows if _changed(row, "log_loss_conf")]
    if sure:
        most = max(sure, key=lambda row: abs(row["log_loss_conf"]))
        others = [row for row in sure if row is not most]
        more = f"; likewise at {betas(others)}" if others else ""
        return (
            f"Confidence changes too: at {betas([most])} it makes log loss {_way(most, 'log_loss_conf')} by "
            f"{_size(most, 'log_loss_conf')} nats, which temperature scaling repairs{more}."
        )
    if all(is_equal(row, "log_loss_conf") for row in rows):
        return f"Confidence hardly matters: what temperature scaling could repair differs by less than {MARGIN:g} nats."
    return "No change of confidence that temperature scaling would repair is established."


def _changed(row: Row, column: str) -> bool:
    return is_significant(row, column) and not is_equal(row, column)


def _way(row: Row, column: str) -> str:
    return "higher" if row[column] > 0 else "lower"


def _size(row: Row, column: str) -> str:
    """The change without its sign, limits in order."""
    if row[column] > 0:
        return cell(row, column)
    flipped = {column: -row[column], f"{column}_low": -row[f"{column}_high"], f"{column}_high": -row[f"{column}_low"]}
    return cell(flipped, column)
