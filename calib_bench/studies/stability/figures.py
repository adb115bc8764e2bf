"""Drawing of the study of stability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    empty_figure,
    family_grid,
    figure_legend,
    plain,
    set_beta_axis,
)

if TYPE_CHECKING:
    import pandas as pd
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
    """Every seed's result with the best, mean and worst, the spread over the reference's, and failures, over beta."""
    import pandas as pd

    frame = pd.DataFrame(analysis.data["peaks"])
    frame = frame[frame["objective"] == CROSS_ENTROPY] if "best" in frame else frame.head(0)
    if not len(frame):
        return empty_figure("too few seeds have finished yet")
    spreads, dots = (pd.DataFrame(analysis.data[name]) for name in ("seeds", "dots"))
    figure, axes = family_grid(frame, 4, 3.1)
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        mine = dict(by_family(dots[dots["objective"] == CROSS_ENTROPY])).get(name)
        ratios = dict(by_family(spreads[spreads["objective"] == CROSS_ENTROPY])).get(name)
        for axis, (result, label) in zip(line, RESULTS.items(), strict=False):
            if mine is not None:
                axis.plot(mine["beta"], mine[result], ".", color="0.6", markersize=4, zorder=1)
            for i, (kind, look) in enumerate(KINDS.items()):
                _bars(axis, rows[rows["result"] == result], kind, dodge_factor(i, 3), look)
            axis.set_ylabel(label)
        if ratios is not None and "spread_ratio" in ratios:
            for i, result in enumerate(RESULTS):
                result_rows = ratios[(ratios["result"] == result) & ratios["spread_ratio"].notna()]
                _bars(line[2], result_rows, "spread_ratio", dodge_factor(i, 2), SPREADS[result])
            line[2].axhline(1, color="0.4", linewidth=0.8)
            line[2].set_yscale("log")
            plain(line[2].yaxis)
        line[2].set_ylabel("spread over that of the reference")
        failed = rows.drop_duplicates("beta")
        if "failed" in failed:
            _bars(line[3], failed, "failed", 1.0, {"color": "C1", "marker": "s"})
        line[3].set(ylabel="share of seeds that failed", ylim=(-0.02, 1.02))
        for axis in line:
            set_beta_axis(axis, rows["beta"])
        line[0].set_title(name, loc="left")
    of = int(frame["of"].max())
    keys = {"best": f"best of {of} seeds", "mean": "mean seed", "worst": f"worst of {of} seeds"}
    seeds = ("one seed", {"color": "0.6", "marker": ".", "linestyle": "none"})
    spread = [(f"spread of {result}", look) for result, look in SPREADS.items()]
    figure_legend(figure, [*((keys[kind], look) for kind, look in KINDS.items()), seeds, *spread])
    return figure


def _bars(axis: Axes, rows: pd.DataFrame, column: str, dodge: float, look: dict[str, Any]) -> None:
    rows = rows.sort_values("beta")
    x = rows["beta"] * dodge
    axis.plot(x, rows[column], **look)
    if f"{column}_low" in rows:
        axis.vlines(x, rows[f"{column}_low"], rows[f"{column}_high"], color=look["color"], linewidth=0.9, alpha=0.6)
