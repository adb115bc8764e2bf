"""Drawings of the study of the homogeneity law."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from calib_bench.core.study import Analysis
from calib_bench.report.drawing import WIDTH, dodge_factor, empty_figure, figure_legend, plain, set_beta_axis
from calib_bench.studies.homogeneity.findings import LATE
from calib_bench.studies.homogeneity.measure import BEST, EQUIVALENT, FAILURE, INCONCLUSIVE, MISSED, SUGGESTIVE
from calib_bench.studies.homogeneity.nets import RANGE
from calib_bench.studies.homogeneity.result import HomogeneityResult

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""Panels beside one another."""
HUES, MARKERS = 7, "osD^v"
"""Colours of the style; nets beyond them have another marker."""
COLORS = {EQUIVALENT: "C2", MISSED: "C3", SUGGESTIVE: "C1", INCONCLUSIVE: "0.5"}
RATES: dict[str, tuple[str, dict[str, Any]]] = {
    "best_rate_lr_hom": ("best rate", {"color": "k", "marker": "o"}),
    "failure_lr_hom": ("training fails above", {"color": "C1", "marker": "s"}),
    "scaled_start_lr_hom": (
        "the same at beta = 1 from weights times beta^(1/L)",
        {"color": "C0", "marker": "D", "linestyle": ":", "fillstyle": "none"},
    ),
}
COSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "test": ("carried in lr_hom", {"color": "k", "marker": "o"}),
    "same_rate": ("the rate of beta = 1 as it stands", {"color": "C3", "marker": "v", "linestyle": "--"}),
}


def slopes(analysis: Analysis) -> Figure:
    """Slope over beta of the log best rate and of the log rate where training fails, with 95% intervals; bars: the law
    and its margin."""
    from matplotlib.figure import Figure

    frame = HomogeneityResult.of(analysis).slopes
    judged = frame[(frame["range"] == RANGE) & frame["slope"].notna()] if "slope" in frame else frame
    if not len(judged):
        return empty_figure("no net has a slope yet")
    names = list(dict.fromkeys(judged["model"] + ", " + judged["optimizer"]))
    figure = Figure(figsize=(WIDTH, 1.4 + 0.28 * len(names)))
    axes = figure.subplots(1, 2, sharey=True, sharex=True, squeeze=False)[0]
    margin = HomogeneityResult.of(analysis).margin
    for axis, (quantity, title) in zip(axes, ((BEST, "best rate"), (FAILURE, "training fails")), strict=True):
        for row in judged[judged["rate"] == quantity].to_dict("records"):
            _slope(axis, row, names.index(f"{row['model']}, {row['optimizer']}"), margin)
        axis.set_title(title, loc="left")
        axis.set_xlabel("slope of log rate over log beta")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    keys: list[tuple[str, dict[str, Any]]] = [("the law, within its margin", {"color": "0.8", "linewidth": 6})]
    words = dict.fromkeys(judged["verdict"])
    keys += [(word, {"color": COLORS[word], "marker": "o", "linestyle": "none"}) for word in words]
    figure_legend(figure, keys)
    return figure


def _slope(axis: Axes, row: dict[str, Any], y: int, margin: float) -> None:
    """One net's slope beside its prediction."""
    axis.barh(y, 2 * margin, 0.7, row["prediction"] - margin, color="0.85", zorder=0)
    axis.plot([row["prediction"]] * 2, [y - 0.35, y + 0.35], color="0.4", linewidth=1)
    color = COLORS[row["verdict"]]
    axis.plot(row["slope"], y, color=color, marker="o")
    if math.isfinite(row["slope_low"]):
        axis.hlines(y, row["slope_low"], row["slope_high"], color=color)


def over_beta(analysis: Analysis) -> Figure:
    """Best rate and the rate where training fails, in lr_hom: level where the law holds; 95% intervals over seeds."""
    frame = HomogeneityResult.of(analysis).rates
    if not len(frame):
        return empty_figure("no net has all its rates yet")
    figure, panels = _panels(frame)
    for axis, rows in panels:
        for i, (column, (_, look)) in enumerate(RATES.items()):
            _line(axis, rows, column, dodge_factor(i, len(RATES)), look)
        axis.set_yscale("log")
        axis.set_ylabel("rate in lr_hom")
        plain(axis.yaxis)
    figure_legend(figure, [(label, look) for column, (label, look) in RATES.items() if column in frame])
    return figure


def regret(analysis: Analysis) -> Figure:
    """Test log loss at the rate carried from beta = 1 over that at the rate tuned at each beta, on fresh seeds, with
    95% intervals; grey: what does not matter."""
    from matplotlib.ticker import FixedLocator, StrMethodFormatter

    frame = HomogeneityResult.of(analysis).regret
    if not len(frame):
        return empty_figure("no seed is left to judge the carried rate")
    margin = HomogeneityResult.of(analysis).regret_margin
    figure, panels = _panels(frame)
    for axis, rows in panels:
        axis.axhspan(-margin, margin, color="0.9", zorder=0)
        axis.axhline(0, color="0.6", linewidth=0.7)
        for i, (column, (_, look)) in enumerate(COSTS.items()):
            _line(axis, rows, column, dodge_factor(i, len(COSTS)), look)
        axis.set_yscale("symlog", linthresh=2 * margin)
        axis.yaxis.set_major_locator(FixedLocator((-1, -2 * margin, -margin, 0, margin, 2 * margin, 1)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_ylabel("cost in test log loss (nats)")
    figure_legend(figure, list(COSTS.values()))
    return figure


def saddle(analysis: Analysis) -> Figure:
    """Share of the run until the selection loss is half of guessing's, over the scale s = beta^(1/L) of the start;
    dotted: the power -(L - 2) of leaving a saddle, 0 up to L = 2 and of Adam; above the line it is not forgotten."""
    frame = HomogeneityResult.of(analysis).saddle
    left = frame["share"].notna() if len(frame) else frame
    if not len(frame) or not left.any():
        return empty_figure("no run leaves its start")
    frame = frame[frame["optimizer"].isin(frame.loc[left, "optimizer"])]
    from matplotlib.figure import Figure

    optimizers = list(dict.fromkeys(frame["optimizer"]))
    figure = Figure(figsize=(WIDTH, 4.0))
    axes = figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0]
    models = dict.fromkeys(frame["model"])
    looks = {
        model: {"color": f"C{i % HUES}", "marker": MARKERS[i // HUES % len(MARKERS)]} for i, model in enumerate(models)
    }
    for axis, optimizer in zip(axes, optimizers, strict=True):
        of_optimizer = frame[frame["optimizer"] == optimizer]
        for model, rows in of_optimizer.groupby("model", sort=False):
            rows = rows.sort_values("scale")
            axis.plot(rows["scale"], rows["share"], **looks[model])
            _power(axis, rows, looks[model]["color"])
        axis.axhline(LATE, color="0.4", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="scale of the start s = beta^(1/L)")
        axis.set_title(optimizer, loc="left")
        plain(axis.xaxis)
    axes[0].set_ylabel("share of the run")
    plain(axes[0].yaxis)
    keys: list[tuple[str, dict[str, Any]]] = list(looks.items())
    keys.append(("the law's power", {"color": "0.4", "linestyle": ":"}))
    keys.append(("above: the start is not forgotten", {"color": "0.4", "linewidth": 0.8}))
    figure_legend(figure, keys)
    return figure


def _power(axis: Axes, rows: pd.DataFrame, color: str) -> None:
    """The law's power through the point of the smallest start that was left."""
    left = rows[rows["share"].notna()]
    if not len(left):
        return
    first = left.iloc[0]
    shares = first["share"] * (left["scale"] / first["scale"]) ** first["law"]
    axis.plot(left["scale"], shares, color=color, linestyle=":", linewidth=0.8)


def _panels(frame: pd.DataFrame) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]]]:
    """A figure with a panel a net, over beta, and the rows of each."""
    from matplotlib.figure import Figure

    groups = list(frame.groupby(["model", "optimizer"], sort=False))
    lines = math.ceil(len(groups) / COLUMNS)
    figure = Figure(figsize=(WIDTH, 2.7 * lines + 0.4))
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axis in axes[len(groups) :]:
        axis.set_visible(False)

    def panels() -> Iterator[tuple[Axes, pd.DataFrame]]:
        for axis, ((model, optimizer), rows) in zip(axes, groups, strict=False):
            set_beta_axis(axis, rows["beta"])
            axis.set_title(f"{model}\n{optimizer}", loc="left", fontsize="medium")
            yield axis, rows

    return figure, panels()


def _line(axis: Axes, rows: pd.DataFrame, column: str, dodge: float, look: dict[str, Any]) -> None:
    """A line over beta with interval bars where there are any."""
    measured = rows[rows[column].notna()] if column in rows else rows.head(0)
    if not len(measured):
        return
    x = measured["beta"] * dodge
    axis.plot(x, measured[column], **look)
    if f"{column}_low" in measured:
        axis.vlines(x, measured[f"{column}_low"], measured[f"{column}_high"], color=look["color"], alpha=0.6)
