"""Drawing of the study of switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench.core.study import Analysis
from calib_bench.report.drawing import WIDTH, dodge_factor, draw_estimates, empty_figure, figure_legend
from calib_bench.report.panels import ZERO_LINE, new_figure, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANELS = (("accuracy", "change of accuracy"), ("log_loss_dyn", "change of repaired log loss (nats)"))
CONSTANT: dict[str, dict[str, Any]] = {
    "beta all along": {"color": "0.55", "linewidth": 0.8, "linestyle": "--"},
    "its 95% interval": {"color": "0.75", "linewidth": 6, "alpha": 0.7},
    "reference all along": {"color": "0.4", "linewidth": 0.8},
}
"""What does not switch."""
LOOKS: dict[str, dict[str, Any]] = {
    "beta to reference": {"color": "C0", "marker": "o"},
    "reference to beta": {"color": "C1", "marker": "s"},
}


def switches(analysis: Analysis) -> Figure:
    """What differs from the reference all along, over the time of the switch: a row a metric, a column a beta. A curve
    is flat after the time from which a switch no longer matters.
    """
    frame = rows_of(analysis, "switches", "accuracy")
    if not len(frame):
        return empty_figure("no switched arm has finished yet")
    keys = ["model", "variant", "objective", "beta"]
    groups = list(frame.groupby([frame[key].fillna("") for key in keys], sort=False))
    across = min(len(groups), 4)
    down = -(-len(groups) // across)
    figure, axes = new_figure(WIDTH, 4.9 * down, 2 * down, across, sharey="row")
    for axis in axes.flat:
        axis.set_visible(False)
    several = frame[["model", "variant", "objective"]].drop_duplicates().shape[0] > 1
    for i, (name, rows) in enumerate(groups):
        family = f"{' '.join(str(part) for part in name[:3] if part)}, " if several else ""
        top, column = 2 * (i // across), i % across
        _column(axes[top : top + 2, column], rows, f"{family}beta={float(str(name[3])):.3g}", labelled=column == 0)
    figure_legend(figure, list((LOOKS | CONSTANT).items()))
    return figure


def _column(axes: NDArray[np.object_], rows: pd.DataFrame, title: str, labelled: bool) -> None:
    """Both metrics of one beta; the leftmost column is `labelled`."""
    for axis, (column, label) in zip(axes, PANELS, strict=True):
        axis.set_visible(True)
        _panel(axis, rows, column)
        if labelled:
            axis.set_ylabel(label)
    axes[0].set_title(title, loc="left")
    axes[-1].set_xlabel("switch after this share of updates")


def _panel(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    for row in rows[rows["against"] == "reference"].to_dict("records"):
        low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
        if low == low and low is not None:
            axis.axhspan(low, high, color="0.75", alpha=0.5, linewidth=0)
        axis.axhline(row[column], color="0.55", linewidth=0.8, linestyle="--")
    axis.axhline(0, **ZERO_LINE)
    against = {"beta to reference": "that beta all along", "reference to beta": "never switching"}
    for i, (way, look) in enumerate(LOOKS.items()):
        curve = rows[(rows["way"] == way) & (rows["against"] == against[way])].sort_values("at")
        draw_estimates(axis, curve["at"] * dodge_factor(i, 2), curve, column, **look)
    times = sorted(set(rows["at"].dropna()))
    axis.set_xscale("log")
    axis.set_xticks(times, [f"{100 * time:.3g}%" for time in times])
    axis.minorticks_off()
