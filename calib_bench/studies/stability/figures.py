"""Drawing of the study of stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    draw_estimates,
    empty_figure,
    family_grid,
    figure_legend,
    plain,
    set_beta_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


KINDS: dict[str, dict[str, Any]] = {
    "best": {"color": "C2", "marker": "^"},
    "mean": {"color": "k", "marker": "o"},
    "worst": {"color": "C1", "marker": "v"},
}
SPREADS: dict[str, dict[str, Any]] = {
    "accuracy": {"color": "C0", "marker": "D"},
    "repaired log loss": {"color": "C3", "marker": "s"},
}
RESULTS = {"accuracy": "accuracy", "repaired log loss": "repaired log loss (nats)"}


def stability(analysis: Analysis) -> Figure:
    """Every seed's result with the best, mean and worst, the spread over the reference's, and failures where any
    trial failed, over beta: a spread above 1 is less reliable than the reference.
    """
    tables = analysis.tables
    frame = _cross_entropy(tables["peaks"].frame) if "peaks" in tables else None
    if frame is None or not len(frame) or "best" not in frame:
        return empty_figure("too few seeds have finished yet")
    some_failed = "failed" in frame and bool((frame["failed"] > 0).any())
    figure, axes = family_grid(frame, 3 + some_failed, 3.1)
    frames = tables["trials"].frame, tables["seeds"].frame
    family_dots, family_spreads = (dict(by_family(_cross_entropy(one))) for one in frames)
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        _result_panels(line[:2], rows, family_dots.get(name))
        _spread_panel(line[2], family_spreads.get(name))
        if some_failed:
            _failure_panel(line[3], rows)
        for axis in line:
            set_beta_axis(axis, rows["beta"])
        line[0].set_title(name, loc="left")
    figure_legend(figure, _keys(int(frame["of"].max())))
    return figure


def _cross_entropy(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["objective"] == CROSS_ENTROPY]


def _result_panels(axes: Sequence[Axes], rows: pd.DataFrame, seeds: pd.DataFrame | None) -> None:
    """Every seed's result, and the best, mean and worst."""
    for axis, (result, label) in zip(axes, RESULTS.items(), strict=True):
        if seeds is not None:
            axis.plot(seeds["beta"], seeds[result.replace(" ", "_")], ".", color="0.6", markersize=4, zorder=1)
        for i, (kind, look) in enumerate(KINDS.items()):
            _bars(axis, rows[rows["result"] == result], kind, dodge_factor(i, 3), look)
        axis.set_ylabel(label)


def _spread_panel(axis: Axes, ratios: pd.DataFrame | None) -> None:
    if ratios is not None and "spread_ratio" in ratios:
        for i, result in enumerate(RESULTS):
            result_rows = ratios[(ratios["result"] == result) & ratios["spread_ratio"].notna()]
            _bars(axis, result_rows, "spread_ratio", dodge_factor(i, 2), SPREADS[result])
        axis.axhline(1, color="0.4", linewidth=0.8)
        axis.set_yscale("log")
        plain(axis.yaxis)
    axis.set_ylabel("spread over that of the reference")


def _failure_panel(axis: Axes, rows: pd.DataFrame) -> None:
    _bars(axis, rows.drop_duplicates("beta"), "failed", 1.0, {"color": "C1", "marker": "s"})
    axis.set(ylabel="share of seeds that failed", ylim=(-0.02, 1.02))


def _keys(of: int) -> list[tuple[str, dict[str, Any]]]:
    """The legend: labels and looks; best and worst are `of` so many seeds."""
    labels = {"best": f"best of {of} seeds", "mean": "mean seed", "worst": f"worst of {of} seeds"}
    seeds = ("one seed", {"color": "0.6", "marker": ".", "linestyle": "none"})
    spread = [(f"spread of {result}", look) for result, look in SPREADS.items()]
    return [*((labels[kind], look) for kind, look in KINDS.items()), seeds, *spread]


def _bars(axis: Axes, rows: pd.DataFrame, column: str, dodge: float, look: dict[str, Any]) -> None:
    rows = rows.sort_values("beta")
    draw_estimates(axis, rows["beta"] * dodge, rows, column, **look)
