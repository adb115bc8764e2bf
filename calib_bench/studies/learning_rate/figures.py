"""Drawings of the learning-rate study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib_bench.core.study import Analysis
from calib_bench.report.drawing import (
    WIDTH,
    dodge_factor,
    draw_estimates,
    empty_figure,
    figure_legend,
    plain,
    set_beta_axis,
)
from calib_bench.report.panels import new_figure
from calib_bench.report.plane_drawing import colorbar, path, plane, power_lines, scale
from calib_bench.studies.learning_rate.phase import CRITICAL, FRONTIER, LIMIT, RIDGE, UNITS, Phase, column
from calib_bench.studies.learning_rate.result import LearningRateResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NO_PLANE = "no plane is complete yet"
LABELS = {
    "lr": "learning rate eta",
    "lr_eff": "effective rate beta^2 eta",
    "lr_rel": "relative rate eta lambda_max / 2",
}
LOOKS: dict[str, dict[str, Any]] = {
    RIDGE: {"color": "k", "marker": "o"},
    FRONTIER: {"color": "C1", "marker": "s"},
    CRITICAL: {"color": "C3", "linestyle": "--"},
}
KEYS = {RIDGE: "best rate", FRONTIER: "training fails above", CRITICAL: f"critical rate {LIMIT}"}


def phase_plane(analysis: Analysis) -> Figure:
    """The selection score over beta and rate in three units, with the ridge, the frontier and the critical rate: a
    level ridge is a unit in which one rate serves every beta.
    """
    phases = LearningRateResult.of(analysis).phases
    if not phases:
        return empty_figure(NO_PLANE)
    frames = [pd.DataFrame(one.cells()) for one in phases]
    cap = LearningRateResult.of(analysis).cap
    norm = scale(pd.concat(frames)["score"], cap)
    figure, axes = new_figure(WIDTH, 3.5 * len(phases), len(phases), len(UNITS))
    for one, frame, line in zip(phases, frames, axes, strict=True):
        for axis, unit in zip(line, UNITS, strict=True):
            if not frame[unit].notna().any():
                axis.set_visible(False)
                continue
            drawn = plane(axis, frame, "beta", unit, "score", norm)
            low, high = axis.get_ylim()
            for what, look in LOOKS.items():
                rates = np.exp(one.log_rates(what, unit, one.found.means_A))
                finite = np.isfinite(rates)
                path(axis, np.array(one.betas)[finite].tolist(), rates[finite].tolist(), **look)
                if what != CRITICAL and finite.any():
                    low, high = min(low, rates[finite].min() / 1.3), max(high, rates[finite].max() * 1.3)
            axis.set_ylim(low, high)
            axis.set(xlabel="beta", ylabel=LABELS[unit])
        line[0].set_title(_title(one, phases), loc="left")
        colorbar(drawn, list(line), "selection score")
    keys = [(KEYS[what], look) for what, look in LOOKS.items()]
    crosses = {"color": "0.25", "marker": "x", "linestyle": "none"}
    figure_legend(figure, [*keys, ("no better than guessing (larger: more seeds)", crosses)])
    return figure


def ridge(analysis: Analysis) -> Figure:
    """The best rate, the frontier and the critical rate over beta, with intervals, beside lines of powers -1 and -2:
    the line that a curve runs along is its law.
    """
    phases = LearningRateResult.of(analysis).phases
    if not phases:
        return empty_figure(NO_PLANE)
    figure, axes = new_figure(WIDTH, 3.2 * len(phases), len(phases), len(UNITS))
    for one, line in zip(phases, axes, strict=True):
        rows = pd.DataFrame(one.rows())
        for axis, unit in zip(line, UNITS, strict=True):
            for i, (what, look) in enumerate(LOOKS.items()):
                if column(what, unit) in rows:
                    draw_estimates(axis, rows["beta"] * dodge_factor(i, 3), rows, column(what, unit), **look)
            set_beta_axis(axis, one.betas)
            axis.set_yscale("log")
            axis.set_ylabel(LABELS[unit])
            if axis.lines:
                plain(axis.yaxis)
            else:
                axis.set_visible(False)
            if unit == "lr":
                _guides(axis, one)
        line[0].set_title(_title(one, phases), loc="left")
    grey = {"color": "0.35", "linewidth": 0.7, "linestyle": ":"}
    figure_legend(figure, [*((KEYS[what], look) for what, look in LOOKS.items()), ("powers -1 and -2 of beta", grey)])
    return figure


def _guides(axis: Axes, one: Phase) -> None:
    """Powers -1 and -2 through the critical rate, or the best one, at the middle beta."""
    middle = len(one.betas) // 2
    for what in (CRITICAL, RIDGE):
        rate = float(np.exp(one.log_rates(what, "lr", one.found.means_A))[middle])
        if np.isfinite(rate):
            for power in (-1.0, -2.0):
                power_lines(axis, power, [(one.betas[middle], rate)], linestyle=":")
            return


def _title(one: Phase, phases: list[Phase]) -> str:
    name = f"{one.name['model']} {one.name['variant'] or ''}".strip()
    return f"{name}, {one.name['objective']}" if len({p.name["objective"] for p in phases}) > 1 else name
