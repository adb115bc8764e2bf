"""Drawings of the study of architectures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from calib_bench.report.panels import new_figure, rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PANELS = (("repaired_log_loss", "repaired log loss (nats)"), ("error", "error"))
NO_TRIAL = "no trial at a chosen rate has finished yet"
NO_BEST = "no architecture has three betas at which every seed finished yet"
MARKERS = "osD^v<>P"


def over_beta(analysis: Analysis) -> Figure:
    """Repaired log loss and error over beta, a line an architecture: lowest at its best beta."""
    if not len(rows_of(analysis, "curves", PANELS[0][0])):
        return empty_figure(NO_TRIAL)
    points = rows_of(analysis, "curves")
    figure, (axes,) = new_figure(WIDTH, 3.8, 1, len(PANELS))
    groups = [(name, rows.sort_values("beta")) for name, rows in points.groupby(_names(points), sort=False)]
    looks = {name: _look(i) for i, (name, _) in enumerate(groups)}
    for axis, (column, label) in zip(axes, PANELS, strict=True):
        for i, (name, rows) in enumerate(groups):
            x = rows["beta"] * dodge_factor(i, len(groups))
            draw_estimates(axis, x, rows, column, least=rows[column].min() / 10, **looks[name])
        set_beta_axis(axis, points["beta"])
        axis.set(yscale="log", ylabel=label)
        plain(axis.yaxis)
    figure_legend(figure, [(str(name), look) for name, look in looks.items()])
    return figure


def best_beta(analysis: Analysis) -> Figure:
    """The best beta of each architecture with its interval, by repaired log loss and by error: intervals that overlap
    may hold one best beta, and end at the smallest and largest beta tried.
    """
    best, points = rows_of(analysis, "best_beta"), rows_of(analysis, "curves")
    if not len(best):
        return empty_figure(NO_BEST)
    names = list(dict.fromkeys(_names(best)))
    figure, ((axis,),) = new_figure(WIDTH * 0.7, 1.2 + 0.36 * len(names))
    results = list(dict.fromkeys(best["result"]))
    for i, result in enumerate(results):
        rows = best[best["result"] == result]
        y = [names.index(name) + 0.22 * (i - (len(results) - 1) / 2) for name in _names(rows)]
        look: dict[str, Any] = {"color": f"C{i}", "marker": MARKERS[i], "linestyle": "none"}
        axis.plot(rows["best_beta"], y, label=result, **look)
        axis.hlines(y, rows["best_beta_low"], rows["best_beta_high"], color=look["color"], linewidth=1.2)
    axis.set_yticks(range(len(names)), names)
    axis.set(xscale="log", xlabel="best beta", ylim=(len(names) - 0.4, -0.6))
    set_beta_axis(axis, points["beta"])
    axis.set(xlabel="best beta", xlim=(points["beta"].min() / 1.5, points["beta"].max() * 1.5))
    keys = [(f"by {r}", {"color": f"C{i}", "marker": MARKERS[i]}) for i, r in enumerate(results)]
    figure_legend(figure, keys)
    return figure


def _names(frame: pd.DataFrame) -> pd.Series:
    """A name for each row's architecture, with its variant and objective where there are several."""
    names = frame["model"].astype(str)
    for key in ("variant", "objective"):
        if frame[key].nunique() > 1:
            names = names + " " + frame[key].fillna("").astype(str)
    return names


def _look(i: int) -> dict[str, Any]:
    return {"color": f"C{i % 7}", "marker": MARKERS[i % len(MARKERS)], "linestyle": "-" if i < 7 else "--"}
