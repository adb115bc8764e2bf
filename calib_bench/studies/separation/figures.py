"""Drawings of the separation study alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.analysis.interventions import SWITCH_FROM, SWITCH_TO
from calib_bench.analysis.result_rows import MAGNITUDE, RATE, TRAINED
from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import set_beta_axis
from calib_bench.report.panels import ZERO_LINE, draw_families, draw_series, mark_zero, rows_of
from calib_bench.studies.separation.ensembles import POOLED, POOLED_REPAIRED, REPAIRED_POOLED, SINGLE, SINGLE_REPAIRED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    frame = rows_of(analysis, "interventions", "accuracy")
    if not len(frame):
        return None
    looks = {kind: look for kind, look in LOOKS.items() if kind in set(frame["intervention"])}

    def draw(axis: Axes, rows: pd.DataFrame, column: str) -> None:
        draw_series(axis, rows, column, "intervention", looks)
        mark_zero(axis, [*rows["beta"], analysis.result.reference])

    return draw_families(frame, PANELS, 3.1, draw, [(LABELS[kind], look) for kind, look in looks.items()])


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
    frame = rows_of(analysis, "ensembles")
    if not len(frame):
        return None
    frame = frame[frame["objective"] == CROSS_ENTROPY]
    return draw_families(frame, ENSEMBLE_PANELS, 3.1, _ensemble_panel, list(ENSEMBLE_LOOKS.items()))


def _ensemble_panel(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    draw_series(axis, rows, column, "method", ENSEMBLE_LOOKS)
    set_beta_axis(axis, rows["beta"])
    if column.startswith("pooling"):
        axis.axhline(0, **ZERO_LINE)
