"""Sentences on what the two temperatures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.result_rows import (
    Row,
    cell,
    excludes_zero,
    is_significant,
    why_loose,
)
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.studies.two_temperatures import plane
from calib_bench.studies.two_temperatures.plane import Cell
from calib_bench.studies.two_temperatures.rows import SETS

if TYPE_CHECKING:
    import pandas as pd


NAMES = {
    "error": "error rate", "log_loss": "log loss", "repaired_log_loss": "log loss after temperature scaling",
    "kappa": "kappa",
}  # fmt: skip


def verdict(names: Sequence[Row], frames: dict[str, pd.DataFrame]) -> tuple[str, ...]:
    """What the two temperatures share, and what not, family by family.

    Args:
        names: columns that name each family.
        frames: rows of every family: "shares", "block", and "at_equal", Holm-adjusted.
    """
    return tuple(sentence for name in names for sentence in _family_sentences(name, frames))


def _family_sentences(name: Row, frames: dict[str, pd.DataFrame]) -> list[str]:
    """Sentences on the variance that beta^2 eta0 alone accounts for, and on what beta adds."""
    sentences: list[str] = []
    shares = _rows_of(frames["shares"], name)
    for label in SETS:
        share_rows = [row for row in shares if row["of"] == label]
        if share_rows:
            cells = share_rows[0]["cells"]
            parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'effective')}" for row in share_rows)
            sentences.append(
                f"{name['model']}, {cells} cells, {label}: beta^2 eta0 alone accounts for these shares of the variance "
                f"between cells: {parts}."
            )
            parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'eta0')}" for row in share_rows)
            sentences.append(f"The rate alone, eta0, accounts for: {parts}.")
    block = _rows_of(frames["block"], name)
    if block:
        parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'beta')} and {cell(row, 'interaction')}" for row in block)
        sentences.append(
            f"At equal beta^2 eta0, in the {block[0]['temperatures']} x {block[0]['betas']} cells that all finished, "
            f"beta adds a share of its own and one that depends on the temperature: {parts}."
        )
    equal = _rows_of(frames["at_equal"], name)
    return [*sentences, _differ(equal)] if equal else sentences


def _differ(rows: Sequence[Mapping[Any, Any]]) -> str:
    """How many pairs at equal beta^2 eta0 surely differ."""
    sure = [row for row in rows if is_significant(row, "error")]
    hints = [row for row in rows if row not in sure and excludes_zero(row, "error")]
    more = f"; {len(hints)} may, {why_loose(hints)}" if hints else ""
    return (
        f"Of {len(rows)} pairs of a beta and the reference at equal beta^2 eta0, {len(sure)} differ in error rate "
        f"after Holm's correction{more}."
    )


def _rows_of(frame: pd.DataFrame, name: Row) -> list[dict[str, Any]]:
    rows: Any = frame.to_dict("records")
    return [row for row in rows if all(row[key] == value for key, value in name.items())]


def warnings(grid: Grid, family_cells: list[list[Cell]]) -> tuple[str, ...]:
    """What a reader must know before quoting a number."""
    messages = smoke_warnings(grid)
    if len(grid.seed) < 3:
        messages.append("Fewer than three seeds: shares of variance have no intervals.")
    for cells in family_cells:
        messages += [f"{cells[0].trials[0].model}: {text}" for text in _family_warnings(cells)]
    return tuple(messages)


def _family_warnings(cells: list[Cell]) -> Iterator[str]:
    """On cells of one family that did not finish, or whose seeds collapsed in part."""
    lost = sum(not one.whole for one in cells)
    if lost:
        yield f"in {lost} of {len(cells)} cells a seed diverged or failed; they count in no share."
    split = [one for one in cells if one.mixed]
    if split:
        listed = ", ".join(f"beta={one.beta:.3g} eta0={one.eta0:.3g}" for one in split)
        yield (
            f"in {len(split)} of {len(cells)} cells some seeds collapsed and others "
            f"did not ({listed}); their means, and shares of variance that rest on them, depend on how many did, "
            "and no difference from them is established."
        )
    if not plane.block(cells):
        yield "no two neighbouring betas finished at two equal beta^2 eta0."
