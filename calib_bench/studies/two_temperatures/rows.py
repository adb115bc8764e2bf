"""Rows of the plane of the two temperatures: shares of variance, differences at equal beta^2 eta0, every cell."""

from __future__ import annotations

import numpy as np

from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields, limits
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.inference import Fitted, difference_interval, fitted, rate, variance_shares
from calib_bench.inference.grouped import explained
from calib_bench.studies.two_temperatures import plane
from calib_bench.studies.two_temperatures.plane import METRICS, Cell

SETS = ("all that finished", "all that learned")


def family_rows(grid: Grid, store: Results, cells: list[Cell]) -> dict[str, list[Row]]:
    """The rows of a family in each table."""
    classes = int(store.split_info(cells[0].trials[0])["classes"])
    return {
        "shares": share_rows(cells, classes),
        "block": block_rows(cells),
        "at_equal": at_equal_rows(cells, grid),
        "cells": cell_rows(cells),
    }


def share_rows(cells: list[Cell], classes: int) -> list[Row]:
    """The share of the variance between cells that one number accounts for, a row a metric and set of cells."""
    rows: list[Row] = []
    complete = [cell for cell in cells if cell.whole]
    for label, subset in zip(SETS, (complete, plane.learned(cells, classes)), strict=True):
        if len(subset) > 2:
            rows += [
                {"metric": metric, "cells": len(subset), "of": label, **_shares(subset, metric)} for metric in METRICS
            ]
    return rows


def _shares(cells: list[Cell], metric: str) -> Row:
    """One metric's shares, by what groups the cells, see `Cell.level`."""
    row: Row = {}
    for grouping in ("effective", "eta0", "beta"):
        row |= limits(grouping, explained(plane.measured(cells, metric), [cell.level(grouping) for cell in cells]))
    return row


def block_rows(cells: list[Cell]) -> list[Row]:
    """The complete layout of beta^2 eta0 by beta, every cell of which finished."""
    layout = plane.block(cells)
    if not layout:
        return []
    rows = []
    for metric in METRICS:
        shares = variance_shares(np.stack([plane.measured(line, metric) for line in layout]))
        row: Row = {"metric": metric, "temperatures": len(layout), "betas": len(layout[0])}
        row |= limits("effective", shares.first) | limits("beta", shares.second)
        row |= limits("interaction", shares.interaction) | limits("seed", shares.seed)
        rows.append(row | {"p_effective": shares.p_first, "p_beta": shares.p_second})
    return rows


def at_equal_rows(cells: list[Cell], grid: Grid) -> list[Row]:
    """Each beta against the reference at the same beta^2 eta0, paired by seed and example."""
    finished = [cell for cell in cells if cell.examples]
    references = {cell.level("effective"): cell for cell in finished if cell.beta == grid.reference}
    rows = []
    for cell in finished:
        reference = references.get(cell.level("effective"))
        if reference is not None and cell.beta != grid.reference:
            rows.append(_difference(cell, reference, nested=grid.split == "seed"))
    return rows


def _difference(cell: Cell, reference: Cell, nested: bool) -> Row:
    """A cell less the reference's at the same beta^2 eta0."""
    row: Row = {"beta": cell.beta, "effective": cell.effective}
    if cell.mixed or reference.mixed:
        row[TWO_KINDS] = "this arm" if cell.mixed else "reference"
    for metric, values in cell.examples.items():
        fit = _fitted(cell, reference, not nested) if metric == "repaired_log_loss" else None
        row |= fields(metric, difference_interval(metric, values - reference.examples[metric], nested, fit))
    return row


def _fitted(one: Cell, against: Cell, shared: bool) -> Fitted | None:
    """What calibration examples add to the difference of two cells' repaired log losses."""
    if one.temperatures is None or against.temperatures is None:
        return None
    (log_T, slopes), (other_T, others) = one.temperatures, against.temperatures
    if log_T.shape != other_T.shape:
        return None
    slope, curvature = np.stack([slopes, others], 1)
    return fitted(np.stack([log_T, other_T]), slope, curvature, (1, -1), shared)


def cell_rows(cells: list[Cell]) -> list[Row]:
    rows = []
    for one in sorted(cells, key=lambda c: (c.beta, c.eta0)):
        row: Row = {"beta": one.beta, "eta0": one.eta0, "effective": one.effective, "failed": one.failed}
        if one.lost:
            row |= limits("collapsed", rate(one.lost, len(one.trials)))
        for metric in METRICS:
            row |= {metric: float(one.values[metric].mean())}
        rows.append(row)
    return rows
