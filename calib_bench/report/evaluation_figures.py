"""Figures of an evaluation, drawn from its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calib_bench.analysis.scores import RAW
from calib_bench.core.study import Analysis, Section
from calib_bench.report import figures
from calib_bench.report.drawing import WIDTH, dodge_factor, draw_estimates, set_beta_axis
from calib_bench.system.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability(frame: pd.DataFrame) -> Figure:
    """Accuracy by confidence, a panel a method: below the diagonal confidence is too high, above it too low, and in the
    grey band no more than chance allows in samples of this size (95%). Counts below; dotted, mean confidence.
    """
    from matplotlib.figure import Figure

    methods = frame["method"].unique()
    figure = Figure(figsize=(max(0.45 * len(methods), 0.5) * WIDTH, 5.2))
    axes = figure.subplots(2, len(methods), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for column, (method, rows) in zip(axes.T, frame.groupby("method", sort=False), strict=True):
        _diagram(column[0], rows)
        column[0].set_title(str(method))
        column[1].bar(rows["low"], rows["count"], rows["high"] - rows["low"], align="edge", color="C0", edgecolor="w")
        column[1].axvline((rows["confidence"] * rows["count"]).sum() / rows["count"].sum(), color="k", linestyle=":")
        column[1].set(xlabel="confidence", xlim=(0.5 if frame["confidence"].min() >= 0.5 else 0, 1))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("examples")
    return figure


def _diagram(axis: Axes, rows: pd.DataFrame) -> None:
    middle = (rows["low"] + rows["high"]) / 2
    width = rows["high"] - rows["low"]
    band = rows["consistent_high"] - rows["consistent_low"]
    axis.bar(middle, band, width, rows["consistent_low"], color="0.85")
    axis.plot((0, 1), (0, 1), color="0.5", linewidth=0.8)
    axis.plot(rows["confidence"], rows["accuracy"], "o-", color="C0")
    axis.set(ylim=(-0.02, 1.02))


def risk_coverage(frame: pd.DataFrame) -> Figure:
    """Error rate among the examples in which the model is most confident, by their share: a curve that starts low and
    rises late belongs to a model that knows where it errs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 * WIDTH, 3.4))
    axis = figure.subplots()
    for method, rows in frame.groupby("method", sort=False):
        axis.plot(rows["coverage"], rows["risk"], label=str(method))
    axis.set(xlabel="coverage", ylabel="risk", xlim=(0, 1), ylim=(0, None))
    axis.legend()
    return figure


def ece_over_bins(frame: pd.DataFrame) -> Figure:
    """ECE by the number of bins, and, dashed, what a calibrated model with these confidences would show by chance: only
    the distance between the two is miscalibration.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 * WIDTH, 3.4))
    axis = figure.subplots()
    for i, (method, rows) in enumerate(frame.groupby("method", sort=False)):
        axis.plot(rows["bins"], rows["ece"], "o-", color=f"C{i}", label=str(method))
        axis.plot(rows["bins"], rows["ece_null"], "--", color=f"C{i}", label=f"{method}, by chance")
    axis.set(xlabel="bins", ylabel="ECE", ylim=(0, None), xscale="log")
    axis.set_xticks(sorted(frame["bins"].unique()), [str(b) for b in sorted(frame["bins"].unique())])
    axis.minorticks_off()
    axis.legend()
    return figure


FROM_RAW = "log loss less raw's (nats)"
STANDINGS = (("win_rate", "win rate", 0.5), ("from_raw", FROM_RAW, 0.0))
"""Columns of a table of standings that are drawn, what their axes say, and where a method is like the others."""


def standings(frame: pd.DataFrame) -> Figure:
    """Win rates, and what a method takes from the log loss of the raw predictions, with 95% intervals; filled where a
    method is best or tied with the best.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.2 + 0.26 * len(frame)))
    at = np.arange(len(frame))
    worse = (frame["standing"] == "").to_numpy()
    for axis, (column, label, alike) in zip(figure.subplots(1, 2, sharey=True), STANDINGS, strict=True):
        _whiskers(axis, frame, column, at, "C0", "")
        axis.plot(frame[column][worse], at[worse], "o", color="w", markeredgecolor="C0", zorder=3)
        axis.axvline(alike, color="0.5", linewidth=0.8)
        axis.set(xlabel=label, ylim=(len(frame) - 0.4, -0.6))
    figure.axes[0].set_xlim(0, 1)
    figure.axes[0].set_yticks(at, frame["method"])
    return figure


def by_beta(frame: pd.DataFrame) -> Figure:
    """Log loss less that of the raw predictions over beta, with 95% intervals, of the six methods of the lowest mean
    rank.
    """
    from matplotlib.figure import Figure

    ranks = frame[frame["method"] != RAW].groupby("method")["mean_rank"].mean().sort_values()
    figure = Figure(figsize=(0.7 * WIDTH, 3.6))
    axis = figure.subplots()
    for i, method in enumerate(names := ranks.index[:LINES]):
        rows = frame[frame["method"] == method].sort_values("beta")
        place = rows["beta"] * dodge_factor(i, len(names))
        draw_estimates(axis, place, rows, "from_raw", color=f"C{i}", marker="o", markersize=3, label=method)
    axis.axhline(0, color="0.5", linewidth=0.8)
    set_beta_axis(axis, frame["beta"].unique())
    axis.set_ylabel(FROM_RAW)
    axis.legend(fontsize=7)
    return figure


LINES = 6
"""Methods that are drawn over beta: those of the lowest mean rank."""


PANELS = (
    ("accuracy", "accuracy"), ("log_loss", "log loss"), ("brier", "Brier score"), ("ece", "ECE"),
    ("overconfidence", "overconfidence"),
)  # fmt: skip
"""Columns of the table by slice that are drawn, and what their axes say."""


def slices(frame: pd.DataFrame) -> Figure:
    """What each slice scores, with 95% intervals, before and after temperature scaling; a grey tick at an ECE is that
    of a calibrated model by chance.
    """
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if panel[0] in frame]
    drawn = [method for method in ("raw", "temperature_scaling") if method in set(frame["method"])]
    counts = dict(zip(frame["slice"], frame["examples"], strict=True))
    figure = Figure(figsize=(0.3 * len(panels) * WIDTH, 1.6 + 0.36 * len(counts)))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (column, label) in zip(axes, panels, strict=True):
        for i, method in enumerate(drawn):
            rows = frame[frame["method"] == method].set_index("slice").reindex([*counts])
            _whiskers(axis, rows, column, np.arange(len(counts)) + 0.3 * i, f"C{i}", method)
        axis.set_xlabel(label)
    axes[-1].axvline(0, color="0.5", linewidth=0.8)
    axes[0].set_yticks(range(len(counts)), [f"{name} ({count})" for name, count in counts.items()])
    axes[0].set_ylim(len(counts) - 0.4, -0.4)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(drawn))
    return figure


def _whiskers(axis: Axes, rows: pd.DataFrame, column: str, at: np.ndarray, color: str, method: str) -> None:
    """Points with their intervals, one a row."""
    x = rows[column].to_numpy()
    limits = np.stack([x - rows[f"{column}_low"], rows[f"{column}_high"] - x]).clip(0)
    axis.errorbar(x, at, xerr=limits, fmt="o", color=color, label=method)
    if column == "ece":
        axis.plot(rows["ece_null"], at, "|", color="0.5", markersize=9)


DRAWN: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "reliability": reliability, "risk_coverage": risk_coverage, "ece_over_bins": ece_over_bins,
    "slices": slices, "standings": standings, "by_beta": by_beta,
}  # fmt: skip
"""Figures by the names of the tables that they are drawn from."""

SECTIONS = (
    Section("Results", ("evaluation", "comparison", "differences", "models", "metrics")),
    Section("Calibration", ("reliability", "ece_over_bins")),
    Section("Standings", ("standings", "rivals")),
    Section("By beta and by objective", ("by_beta", "by_objective")),
    Section("Slices", ("slices", "slice_differences")),
    Section("Decisions", ("risk_coverage", "decisions", "decision_differences")),
)


def save(analysis: Analysis, folder: Path) -> dict[str, str]:
    """Write each figure as PNG, SVG and PDF; the SVG texts by name."""
    svg = {}
    for name, files in _rendered(analysis):
        for suffix, content in files.items():
            write_bytes(folder / f"{name}.{suffix}", content)
        if "svg" in files:
            svg[name] = files["svg"].decode()
    return svg


def _rendered(analysis: Analysis) -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, draw in DRAWN.items():
        if name in analysis.tables:
            with figures.style():
                yield name, figures.render(draw(analysis.tables[name].frame))
