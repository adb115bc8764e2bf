"""Sentences on what the two temperatures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import Sentences, established, findings_of, hints
from calib_bench.analysis.result_rows import Row, cell
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.studies.two_temperatures import plane
from calib_bench.studies.two_temperatures.plane import Cell
from calib_bench.studies.two_temperatures.rows import SETS

NAMES = {
    "error": "error rate", "log_loss": "log loss", "repaired_log_loss": "log loss after temperature scaling",
    "kappa": "kappa",
}  # fmt: skip


class Says(Sentences):
    """What the study of two temperatures says."""

    EFFECTIVE = "{model}, {cells} cells, {of}: adjusted R^2 of cells given beta^2 eta0 alone: {shares}."
    ETA0 = "Given the rate alone, eta0: {shares}."
    BLOCK = (
        "In the {temperatures} x {betas} cells that all finished at equal beta^2 eta0, beta's share is {beta}, and its "
        "interaction's {interaction}."
    )
    DIFFER = (
        "Error rate of {pairs} pairs of a beta and the reference at equal beta^2 eta0: a difference is established in "
        "{number}{hints}."
    )
    FEW_SEEDS = "Fewer than three seeds: shares of variance have no intervals."
    LOST = "{model}: in {lost} of {cells} cells a seed diverged or failed; they count in no share."
    MIXED = (
        "{model}: in {number} of {cells} cells only some seeds collapsed ({listed}): means and shares depend on how "
        "many did, and no difference is established."
    )
    NO_BLOCK = "{model}: no two neighbouring betas finished at two equal beta^2 eta0."


def verdict(names: Sequence[Row], frames: dict[str, pd.DataFrame]) -> tuple[str, ...]:
    """What the two temperatures share, and what not, family by family.

    Args:
        names: columns that name each family.
        frames: rows of every family: "shares", "block", and "at_equal", Holm-adjusted.
    """
    return tuple(sentence for name in names for sentence in _family_sentences(name, frames))


def _family_sentences(name: Row, frames: dict[str, pd.DataFrame]) -> list[str]:
    """Sentences on what beta^2 eta0 alone tells of a cell, and on what beta adds."""
    sentences: list[str] = []
    shares = _rows_of(frames["shares"], name)
    for label in SETS:
        rows = [row for row in shares if row["of"] == label]
        if rows:
            about = {"model": name["model"], "cells": rows[0]["cells"], "of": label}
            sentences.append(Says.EFFECTIVE.of(**about, shares=_cells(rows, "effective")))
            sentences.append(Says.ETA0.of(shares=_cells(rows, "eta0")))
    block = _rows_of(frames["block"], name)
    if block:
        parts = {column: _cells(block, column) for column in ("beta", "interaction")}
        sentences.append(Says.BLOCK.of(temperatures=block[0]["temperatures"], betas=block[0]["betas"], **parts))
    equal = _rows_of(frames["at_equal"], name)
    return [*sentences, _differ(equal)] if equal else sentences


def _cells(rows: Sequence[Mapping[Any, Any]], column: str) -> str:
    """One share of every metric."""
    return "; ".join(f"{NAMES[row['metric']]} {cell(row, column)}" for row in rows)


def _differ(rows: Sequence[Mapping[Any, Any]]) -> str:
    """In how many pairs at equal beta^2 eta0 the error rate surely differs."""
    findings = findings_of(rows, "error")
    return Says.DIFFER.of(pairs=len(rows), number=len(established(findings)), hints=hints(findings))


def _rows_of(frame: pd.DataFrame, name: Row) -> list[dict[str, Any]]:
    rows: Any = frame.to_dict("records")
    return [row for row in rows if all(row[key] == value for key, value in name.items())]


def warnings(grid: Grid, family_cells: list[list[Cell]]) -> tuple[str, ...]:
    """What a reader must know before quoting a number."""
    messages = smoke_warnings(grid)
    if len(grid.seed) < 3:
        messages.append(Says.FEW_SEEDS)
    for cells in family_cells:
        messages += _family_warnings(cells)
    return tuple(messages)


def _family_warnings(cells: list[Cell]) -> Iterator[str]:
    """On cells of one family that did not finish, or whose seeds collapsed in part."""
    about = {"model": cells[0].trials[0].model, "cells": len(cells)}
    lost = sum(not one.whole for one in cells)
    if lost:
        yield Says.LOST.of(**about, lost=lost)
    split = [f"beta={one.beta:.3g} eta0={one.eta0:.3g}" for one in cells if one.mixed]
    if split:
        yield Says.MIXED.of(**about, number=len(split), listed=", ".join(split))
    if not plane.block(cells):
        yield Says.NO_BLOCK.of(**about)
