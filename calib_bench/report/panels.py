"""Figures of one form: a row of panels a family, in each panel one column of a table, with a line for each series."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.core.study import Analysis
from calib_bench.report.drawing import by_family, dodge_factor, draw_line, family_grid, figure_legend, set_beta_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Looks = Mapping[Any, Mapping[str, Any]]
"""How the line of each series looks, by its name in the table."""
Keys = Sequence[tuple[str, dict[str, Any]]]
"""What a legend says: labels and looks."""
ZERO_LINE: dict[str, Any] = {"color": "0.4", "linewidth": 0.8}
"""Look of the line where nothing changes."""


def rows_of(analysis: Analysis, table: str, column: str = "model") -> pd.DataFrame:
    """A table's rows that have a value in a column; none where there is no such table, or no such column in it."""
    frame = analysis.tables[table].frame if table in analysis.tables else pd.DataFrame()
    return frame[frame[column].notna()] if column in frame else pd.DataFrame()


def draw_families(
    frame: pd.DataFrame,
    panels: Sequence[tuple[str, str]],
    height: float,
    draw: Callable[[Axes, pd.DataFrame, str], None],
    keys: Keys,
) -> Figure:
    """A row of panels for each model and variant, which is its title.

    Args:
        frame: rows of all of them.
        panels: column and label of each.
        height: of a row, in inches.
        draw: draws a family's rows in the panel of a column.
        keys: of the legend.
    """
    figure, axes = family_grid(frame, len(panels), height)
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, (column, label) in zip(line, panels, strict=True):
            draw(axis, rows, column)
            axis.set_ylabel(label)
        line[0].set_title(name, loc="left")
    figure_legend(figure, keys)
    return figure


def draw_series(axis: Axes, rows: pd.DataFrame, column: str, by: str, looks: Looks) -> None:
    """A line over beta for each value of the column `by` that has a look."""
    for i, (value, look) in enumerate(looks.items()):
        series = rows[(rows[by] == value) & rows[column].notna()].sort_values("beta")
        draw_line(axis, series, column, dodge_factor(i, len(looks)), **look)


def draw_columns(axis: Axes, rows: pd.DataFrame, looks: Looks) -> None:
    """A line over beta for each column that has a look."""
    for i, (column, look) in enumerate(looks.items()):
        draw_line(axis, rows.sort_values("beta"), column, dodge_factor(i, len(looks)), **look)


def mark_zero(axis: Axes, betas: Sequence[float]) -> None:
    """The line where nothing changes, over an axis of these betas."""
    axis.axhline(0, **ZERO_LINE)
    set_beta_axis(axis, betas)


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its panels [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **share)
