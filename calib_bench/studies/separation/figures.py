"""Drawings of the separation study alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib_bench.analysis.interventions import SWITCH_FROM, SWITCH_TO
from calib_bench.analysis.result_rows import MAGNITUDE, RATE, TRAINED
from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    draw_line,
    family_grid,
    figure_legend,
    set_beta_axis,
)
from calib_bench.studies.separation.ensembles import (
    POOLED,
    POOLED_REPAIRED,
    REPAIRED_POOLED,
    SINGLE,
    SINGLE_REPAIRED,
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
    """What changes over beta when the whole of it changes, one of its factors, or beta half-way through training: the
    factor whose curve follows the black one is what beta does.
    """
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
    figure_legend(figure, keys)
    return figure


ENSEMBLE_LOOKS: dict[str, dict[str, Any]] = {
    SINGLE: {"color": "0.6", "marker": "o", "linestyle": "--"},
    SINGLE_REPAIRED: {"color": "k", "marker": "o"},
    POOLED: {"color": "C1", "marker": "s", "linestyle": "--"},
    REPAIRED_POOLED: {"color": "C2", "marker": "^"},
    POOLED_REPAIRED: {"color": "C0", "marker": "D"},
}
ENSEMBLE_PANELS = (
    ("log_loss", "log loss (nats)"),
    ("accuracy", "accuracy"),
    ("pooling_log_loss", "change of log loss by pooling (nats)"),
)


def ensembles(analysis: Analysis) -> Figure | None:
    """Single seeds and ensembles over beta, before and after repair, trained with cross-entropy: in the last panel,
    below 0 pooling gains.
    """
    table = analysis.tables.get("ensembles")
    if table is None:
        return None
    frame = table.frame[table.frame["objective"] == CROSS_ENTROPY]
    figure, axes = family_grid(frame, len(ENSEMBLE_PANELS), 3.1)
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, (column, label) in zip(line, ENSEMBLE_PANELS, strict=True):
            for i, (method, look) in enumerate(ENSEMBLE_LOOKS.items()):
                method_rows = rows[(rows["method"] == method) & rows[column].notna()].sort_values("beta")
                draw_line(axis, method_rows, column, dodge_factor(i, len(ENSEMBLE_LOOKS)), **look)
            axis.set_ylabel(label)
            set_beta_axis(axis, rows["beta"])
        line[-1].axhline(0, color="0.4", linewidth=0.8)
        line[0].set_title(name, loc="left")
    figure_legend(figure, list(ENSEMBLE_LOOKS.items()))
    return figure
