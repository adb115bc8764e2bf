"""Tables of the best beta of each architecture, and the page's part on each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.analysis import best_beta
from calib_bench.analysis.result_rows import cell, marks
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Detail, Table
from calib_bench.studies.width_depth.result import WidthDepthResult

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


KEYS = ("model", "variant", "objective")
"""Columns that name an architecture."""


def details(analysis: Analysis) -> list[Detail]:
    """Each architecture: its best betas, and its results over beta."""

    result = WidthDepthResult.of(analysis)
    points, best = result.points, result.best
    title_keys = KEYS if points["objective"].nunique() > 1 else KEYS[:2]
    model_details = []
    for keys, rows in points.fillna({"variant": ""}).groupby(list(KEYS), sort=False):
        name = dict(zip(KEYS, keys, strict=True))
        parts = [f"{cell(row, 'best_beta')} by {row['result']}{best_beta.edge(row)}" for row in _best_rows(best, name)]
        title = " ".join(str(name[key]) for key in title_keys if name[key])
        table = Table("Over beta, test split", rows[[c for c in rows if c not in KEYS]], names=("beta",))
        model_details.append(Detail(title, f"best beta {', '.join(parts)}" if parts else "", table=table))
    return model_details


def _best_rows(best: pd.DataFrame, name: Mapping[str, object]) -> list[dict[str, Any]]:
    """The best betas of one architecture, a row a result."""
    if not len(best):
        return []
    filled = best.fillna({"variant": ""})
    matches = (filled[list(KEYS)] == [name[key] for key in KEYS]).all(axis=1)
    rows: Any = filled[matches].to_dict("records")
    return list(rows)


def width_tables(grid: Grid, best: pd.DataFrame, trends: pd.DataFrame, points: pd.DataFrame) -> dict[str, Table]:
    n = f"{len(grid.seed)} seeds, test split"
    tables = {"best_beta": best_beta.table(best, grid)}
    if len(trends):
        tables["trends"] = Table(
            "How the best beta moves with width, depth and normalization",
            display_columns(trends, grid),
            table_note(
                grid,
                "architectures that differ in that alone; slope: of log best beta over log width or log depth, and for "
                f"norm the log of the ratio with normalization to without; {best_beta.how(best)}",
                "* Holm-adjusted p < .05 that it is 0, for each result",
                *marks(trends),
            ),
            paper=True,
        )
    tables["curves"] = Table(
        "Every architecture over beta",
        display_columns(points, grid),
        table_note(
            grid,
            f"{n}; error: 1 - accuracy",
            "choices of rates and calibration examples are counted",
            *marks(points),
        ),
    )
    return tables
