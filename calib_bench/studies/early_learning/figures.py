"""Drawings of the study of early learning: one row of panels a model, a mark a seed, lines through their means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib_bench.core.study import Analysis
from calib_bench.report.drawing import by_family, empty_figure, family_grid, figure_legend, plain, set_beta_axis, shades
from calib_bench.studies.early_learning.result import EarlyLearningResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


GUIDE: dict[str, Any] = {"color": "0.55", "linewidth": 0.9}
NO_PATH = "no path has been measured yet"
NO_COMMON_PATH = "no path from common logits has been measured yet"
NO_CURVATURE = "no curvature has been measured yet"
NO_RATE = "no rate has been tried yet"
FATES = {"steady": ("C0", "."), "catapult": ("C4", "^"), "lost": ("C1", "x")}


def timescales(analysis: Analysis) -> Figure:
    """Measured early-learning times over the theory's, and the times themselves: the theory holds where the ratio is
    1.
    """
    frame = EarlyLearningResult.of(analysis).times
    if not len(frame):
        return empty_figure(NO_PATH)
    figure, axes = family_grid(frame, 2, 3.3)
    ratios = (("tenth", "by ||Z0||/10", "C0", "o", 0.15), ("whole", "by ||Z0||", "C1", "s", 0.10))
    times = (
        ("tau_z", "tau_z", "C0", "o"),
        ("tau_nl", "tau_nl", "C2", "D"),
        ("critical_tau", "beta^2 times the critical rate", "C3", "v"),
    )
    for (name, rows), (left, right) in zip(by_family(frame), axes, strict=False):
        betas = sorted(set(rows["beta"]))
        left.fill_between([min(betas), max(betas)], 0.85, 1.15, color="C0", alpha=0.12, linewidth=0)
        left.fill_between([min(betas), min(0.1, max(betas))], 0.9, 1.1, color="C1", alpha=0.15, linewidth=0)
        for column, _, color, marker, _ in ratios:
            _points(left, rows, column, color, marker)
        left.axhline(1, **GUIDE)
        left.set(yscale="log", ylabel="measured time over the theory's")
        for column, _, color, marker in times:
            _points(right, rows, column, color, marker)
        _guide(right, rows, "tau_nl", 1)
        right.set(yscale="log", ylabel="tau")
        for axis in (left, right):
            plain(axis.yaxis)
            set_beta_axis(axis, betas)
        left.set_title(f"{name}: time to move (band: tolerance)", loc="left")
        right.set_title("times", loc="left")
        _key(left, [(label, {"color": color, "marker": marker}) for _, label, color, marker, _ in ratios])
        keys = [(label, {"color": color, "marker": marker}) for _, label, color, marker in times]
        _key(right, [*keys, ("proportional to beta", {**GUIDE, "linestyle": ":"})])
    return figure


def collapse(analysis: Analysis) -> Figure:
    """Loss over tau from equal initial logits, a colour a beta, the tangent model dashed; and how they part: while
    curves lie on one another, learning is lazy.
    """
    frame = EarlyLearningResult.of(analysis).common
    if not len(frame):
        return empty_figure(NO_COMMON_PATH)
    starts = list(dict.fromkeys(frame["start"]))
    figure, axes = family_grid(frame, 3, 3.3)
    colors = shades(frame["beta"])
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, start in zip(line, starts, strict=False):
            _losses(axis, rows[rows["start"] == start], colors)
            axis.set_title(f"{name}, Z0: {start}", loc="left")
        for style, start in zip(("-", "--"), starts, strict=False):
            for row in rows[rows["start"] == start].itertuples():
                way = row.path["moved_linear"]
                moving = way > 0
                line[2].plot(
                    row.path["tau"][moving],
                    (row.path["apart"][moving] / way[moving]),
                    color=colors[row.beta],
                    linestyle=style,
                )
        line[2].axhline(0.1, **GUIDE)
        line[2].set(xscale="log", yscale="log", ylim=(1e-4, 2), xlabel="tau", ylabel="||Z - Z_lin|| / ||Z_lin - Z0||")
        line[2].set_title("parting (dashed: Z0 zero)", loc="left")
        for axis in line:
            plain(axis.xaxis)
        plain(line[2].yaxis)
        for axis in line[len(starts) : 2]:
            axis.set_visible(False)
    keys = [(f"beta={beta:.3g}", {"color": shade}) for beta, shade in colors.items()]
    keys += [("tangent model", {"color": "k", "linestyle": "--"})]
    figure_legend(figure, keys)
    return figure


def _losses(axis: Axes, rows: pd.DataFrame, colors: dict[float, Any]) -> None:
    for row in rows.itertuples():
        axis.plot(row.path["tau"][1:], row.path["loss"][1:], color=colors[row.beta])
    longest = max(rows.itertuples(), key=lambda row: row.path["tau"][-1], default=None)
    if longest is not None:
        axis.plot(longest.path["tau"][1:], longest.path["loss_linear"][1:], color="k", linestyle="--", linewidth=1)
    axis.set(xscale="log", xlabel="tau = beta^2 eta t", ylabel="training loss (nats)")
    axis.set_ylim(bottom=0)


def curvature(analysis: Analysis) -> Figure:
    """lambda_max over beta with ordinary and with zero initial logits, and its local exponent: theory says 1 at small
    beta and 2 at large.
    """
    frame = EarlyLearningResult.of(analysis).curves
    if not len(frame):
        return empty_figure(NO_CURVATURE)
    figure, axes = family_grid(frame, 3, 3.3)
    looks = (("zero", "C0", "o"), ("ordinary", "C1", "s"))
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for logits, color, marker in looks:
            logits_rows = rows[rows["logits"] == logits]
            _points(line[0], logits_rows, "lambda_max", color, marker)
            _points(line[1], logits_rows, "over_beta2", color, marker)
            mean = logits_rows.groupby("beta")["lambda_max"].mean()
            if len(mean) > 1:
                x, y = np.log(mean.index.to_numpy()), np.log(mean.to_numpy())
                line[2].plot(np.exp((x[1:] + x[:-1]) / 2), np.diff(y) / np.diff(x), color=color, marker=marker)
        for height in (1, 2):
            line[2].axhline(height, **GUIDE)
        line[0].set(yscale="log", ylabel="lambda_max")
        line[1].set(yscale="log", ylabel="lambda_max / beta^2")
        line[2].set_ylabel("local exponent of beta")
        for axis in line[:2]:
            plain(axis.yaxis)
        for axis in line:
            set_beta_axis(axis, sorted(set(rows["beta"])))
        line[0].set_title(name, loc="left")
    figure_legend(figure, [(f"{logits} initial logits", {"color": c, "marker": m}) for logits, c, m in looks])
    return figure


def frontier(analysis: Analysis) -> Figure:
    """What became of every rate over beta, the critical rate and the frontier, raw and in critical rates: where theory
    holds, the frontier lies on the critical rate.
    """
    result = EarlyLearningResult.of(analysis)
    runs, edges = result.runs, result.edges
    if not len(runs):
        return empty_figure(NO_RATE)
    figure, axes = family_grid(runs, 2, 3.6)
    for (name, rows), (_, limits), line in zip(by_family(runs), by_family(edges), axes, strict=False):
        for axis, column, units in zip(line, ("rate", "relative"), ("critical_rate", None), strict=True):
            for kind, (color, marker) in FATES.items():
                dots = rows[rows["fate"] == kind]
                axis.plot(
                    dots["beta"] * _aside(dots), dots[column], color=color, marker=marker, linestyle="none", alpha=0.7
                )
            if units:
                mean = limits.groupby("beta")[units].mean()
                axis.plot(mean.index, mean, color="k", linestyle="--")
            else:
                axis.axhline(1, color="k", linestyle="--")
            edge = limits.assign(log=np.log(limits["frontier" if units else "relative"])).groupby("beta")["log"].mean()
            axis.plot(edge.index, np.exp(edge), color="k", marker="o")
            axis.set(yscale="log", ylabel="rate" if units else "rate / critical rate")
            plain(axis.yaxis)
            set_beta_axis(axis, sorted(set(rows["beta"])))
        line[0].set_title(name, loc="left")
    words = {"steady": "loss never rose", "catapult": "rose and came back", "lost": "lost"}
    keys: list[tuple[str, dict[str, Any]]] = [
        (words[kind], {"color": color, "marker": marker, "linestyle": "none"})
        for kind, (color, marker) in FATES.items()
    ]
    keys += [("2 / lambda_max", {"color": "k", "linestyle": "--"}), ("frontier", {"color": "k", "marker": "o"})]
    figure_legend(figure, keys)
    return figure


def _key(axis: Axes, keys: list[tuple[str, dict[str, Any]]]) -> None:
    from matplotlib.lines import Line2D

    axis.legend(handles=[Line2D([], [], label=label, **look) for label, look in keys])


def _aside(rows: pd.DataFrame) -> Any:
    """A factor on beta that keeps seeds apart."""
    seeds = sorted(set(rows["seed"]))
    place = {seed: i - (len(seeds) - 1) / 2 for i, seed in enumerate(seeds)}
    return 1.12 ** rows["seed"].map(place).astype(float)


def _points(axis: Axes, rows: pd.DataFrame, column: str, color: str, marker: str) -> None:
    """A mark a seed, and a line through the means of logarithms."""
    usable = rows[np.isfinite(rows[column]) & (rows[column] > 0)]
    axis.plot(usable["beta"], usable[column], color=color, marker=marker, linestyle="none", alpha=0.45, markersize=3)
    mean = usable.assign(log=np.log(usable[column])).groupby("beta")["log"].mean()
    axis.plot(mean.index, np.exp(mean), color=color)


def _guide(axis: Axes, rows: pd.DataFrame, column: str, power: float) -> None:
    """A line of the given exponent through the value at the smallest beta."""
    mean = rows.groupby("beta")[column].mean().dropna()
    if len(mean) > 1:
        x = np.array([mean.index[0], mean.index[-1]])
        axis.plot(x, mean.iloc[0] * (x / x[0]) ** power, **GUIDE, linestyle=":")
