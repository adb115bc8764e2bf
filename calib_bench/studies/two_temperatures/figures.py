"""Drawings of the study of the two temperatures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pandas import DataFrame

from calib_bench.core.study import Analysis
from calib_bench.report import plane_drawing
from calib_bench.report.drawing import WIDTH, empty_figure, figure_legend, plain, shades
from calib_bench.report.panels import new_figure
from calib_bench.studies.two_temperatures.plane import Cell
from calib_bench.studies.two_temperatures.result import PlaneResult
from calib_bench.studies.two_temperatures.rows import cell_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NO_CELL = "No cell has finished with every seed."
PANELS = (
    ("error", "error rate"),
    ("log_loss", "log loss (nats)"),
    ("repaired_log_loss", "repaired log loss (nats)"),
    ("kappa", "kappa = beta T*"),
)
TEMPERATURES = {"eta0": "eta0", "effective": "beta^2 eta0"}
"""Attributes of cells over which measures are drawn, and their labels."""
PLANES = ("error", "repaired_log_loss")


def plane(analysis: Analysis) -> Figure:
    """Error and repaired log loss over beta and eta0, with lines of equal beta^2 eta0: along a line colours are equal
    where the two temperatures are one. Colours of the loss end at that of guessing.
    """
    families, guess = _families(analysis), PlaneResult.of(analysis).guess
    figure, axes = new_figure(WIDTH, 3.9 * len(families), len(families), len(PLANES))
    for cells, line in zip(families, axes, strict=True):
        frame = DataFrame(cell_rows(cells))
        through = {cell.level("effective"): (cell.beta, cell.eta0) for cell in cells}
        for axis, name in zip(line, PLANES, strict=True):
            if not np.isfinite(frame[name]).any():
                axis.set_axis_off()
                continue
            drawn = plane_drawing.plane(axis, frame, "beta", "eta0", name, plane_drawing.scale(frame[name], guess))
            plane_drawing.power_lines(axis, -2, list(through.values())[::2], color="0.15", linewidth=0.8)
            axis.set(xlabel="beta", ylabel="eta0 = rate / ((1 - momentum) B)")
            plane_drawing.colorbar(drawn, axis, dict(PANELS)[name])
        line[0].set_title(_title(cells), loc="left")
    keys: list[tuple[str, dict[str, Any]]] = [("equal beta^2 eta0", {"color": "0.15", "linewidth": 0.8})]
    keys.append(("some seed diverged", {"color": "0.25", "marker": "x", "linestyle": "none"}))
    figure_legend(figure, keys)
    return figure


def collapse(analysis: Analysis) -> Figure:
    """Four measures over eta0 and over beta^2 eta0, a shade a beta: what falls on one line is shared. Losses above ten
    times that of guessing lie outside.
    """
    families = [cells for cells in _families(analysis) if any(cell.whole for cell in cells)]
    if not families:
        return empty_figure(NO_CELL)
    figure, axes = new_figure(WIDTH, 5.0 * len(families), 2 * len(families), len(PANELS), sharey="col")
    colors = shades(cell.beta for cells in families for cell in cells)
    for cells, lines in zip(families, axes.reshape(len(families), 2, -1), strict=True):
        _draw_family(lines, cells, colors, 10 * PlaneResult.of(analysis).guess)
    figure_legend(figure, [(f"beta={beta:.3g}", {"color": shade, "marker": "."}) for beta, shade in colors.items()])
    return figure


def _draw_family(lines: Sequence[Sequence[Axes]], cells: list[Cell], colors: Mapping[float, Any], most: float) -> None:
    """A line of panels for each temperature; losses end at `most`."""
    for line, (temperature, label) in zip(lines, TEMPERATURES.items(), strict=True):
        _panels(line, cells, temperature, label, colors)
    for axis, (_, title) in zip(lines[0], PANELS, strict=True):
        axis.set_title(title, loc="left")
    for axis in lines[0][1:3]:
        axis.set_ylim(top=min(axis.get_ylim()[1], most))
    lines[0][0].set_ylabel(_title(cells))


def _panels(line: Sequence[Axes], cells: list[Cell], temperature: str, label: str, colors: Mapping[float, Any]) -> None:
    """The measures of `PANELS` over one temperature, whose name is the label."""
    for axis, (metric, _) in zip(line, PANELS, strict=True):
        _over_temperature(axis, cells, temperature, metric, colors)
        axis.set_xlabel(label)


def _over_temperature(
    axis: Axes, cells: list[Cell], temperature: str, metric: str, colors: Mapping[float, Any]
) -> None:
    """A metric's mean over seeds along a temperature, "eta0" or "effective", a line a beta."""
    from matplotlib.ticker import LogLocator

    for beta, shade in colors.items():
        beta_cells = sorted((cell for cell in cells if cell.beta == beta and cell.whole), key=lambda cell: cell.eta0)
        x = [getattr(cell, temperature) for cell in beta_cells]
        axis.plot(x, [cell.values[metric].mean() for cell in beta_cells], color=shade, marker=".")
    axis.set(xscale="log", yscale="log")
    plain(axis.xaxis)
    axis.xaxis.set_major_locator(LogLocator(numticks=5))  # labels are as wide as decades are here
    plain(axis.yaxis)


def _families(analysis: Analysis) -> list[list[Cell]]:
    """The cells of each family that has any."""
    return [cells for cells in PlaneResult.of(analysis).families if cells]


def _title(cells: list[Cell]) -> str:
    trial = cells[0].trials[0]
    return f"{trial.model}, B={trial.batch}" + ("" if math.isclose(trial.momentum, 0) else f", mu={trial.momentum:g}")
