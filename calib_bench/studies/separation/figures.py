"""Drawings of the separation study alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib_bench.analysis.interventions import SWITCH_FROM, SWITCH_TO
from calib_bench.analysis.result_rows import MAGNITUDE, RATE, TRAINED
from calib_bench.core.study import Analysis
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    draw_line,
    family_grid,
    figure_legend,
    set_beta_axis,
    some_untuned,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LOOKS: dict[str, dict[str, Any]] = {
    TRAINED: {"color": "k", "marker": "o"},
    RATE: {"color": "C0", "marker": "D"},
    MAGNITUDE: {"color": "C1", "marker": "s"},
    SWITCH_TO: {"color": "C2", "marker": "^", "linestyle": "--"},
    SWITCH_FROM: {"color": "C4", "marker": "v", "linestyle": "--"},
}
LABELS = {
    TRAINED: "train at beta",
    RATE: "head rate alone",
    MAGNITUDE: "initial magnitude alone",
    SWITCH_TO: "switch to beta",
    SWITCH_FROM: "switch from beta",
}
PANELS = (
    ("accuracy", "change of accuracy"),
    ("log_loss_dyn", "change of repaired log loss (nats)"),
    ("log_loss_conf", "change of confidence's part (nats)"),
)


def interventions(analysis: Analysis) -> Figure | None:
    """What changes over beta when the whole of it changes, one of its factors, or beta half-way through training."""
    table = analysis.tables.get("interventions")
    if table is None or "accuracy" not in table.frame:
        return None
    frame = table.frame[table.frame["accuracy"].notna()]
    if not len(frame):
        return None
    figure, axes = family_grid(frame, len(PANELS), 3.1)
    kinds = [kind for kind in LOOKS if kind in set(frame["intervention"])]
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, (column, label) in zip(line, PANELS, strict=True):
            for i, kind in enumerate(kinds):
                kind_rows = rows[rows["intervention"] == kind].sort_values("beta")
                draw_line(axis, kind_rows, column, dodge_factor(i, len(kinds)), **LOOKS[kind])
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.set_ylabel(label)
            set_beta_axis(axis, [*rows["beta"], analysis.result.reference])
        line[0].set_title(name, loc="left")
    keys = [(LABELS[kind], LOOKS[kind]) for kind in kinds]
    if some_untuned(frame):
        keys.append(("rate not tuned", {"color": "k", "marker": "x", "linestyle": "none"}))
    figure_legend(figure, keys)
    return figure
