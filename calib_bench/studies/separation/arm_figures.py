"""Drawings of the arms of a separation study: each takes an Analysis and gives a Figure, one row of panels a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas import DataFrame, concat

from calib_bench.analysis.estimate import Estimate
from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    draw_line,
    empty_figure,
    family_grid,
    figure_legend,
    plain,
    set_beta_axis,
    shades,
)
from calib_bench.report.panels import ZERO_LINE, new_figure, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


RAW, REPAIRED = "raw", "temperature_scaling"
NO_TRIAL = "No trial at a chosen rate has finished."
NO_CROSS_ENTROPY = "no trial with cross-entropy has finished yet"
LEAST = 0.01
PARTS = (
    ("log_loss_total", "total", "k", "o"),
    ("log_loss_conf", "confidence", "C1", "s"),
    ("log_loss_dyn", "dynamics", "C0", "D"),
)
RELIABILITY_KEYS = [
    ("raw", {"color": "C1", "marker": "s"}),
    ("after temperature scaling", {"color": "C0", "marker": "o"}),
]


def over_beta(analysis: Analysis) -> Figure:
    """Accuracy, log loss and ECE (raw and repaired) and kappa over beta, a colour an objective: what moves in the
    repaired curves no temperature repairs, and where kappa is 1 raw and repaired curves meet.
    """
    frame = analysis.tables["baselines"].frame
    if "method" not in frame:
        return empty_figure(NO_TRIAL)
    panels = (("accuracy", "accuracy"), ("log_loss", "log loss (nats)"), ("ece", "ECE"), ("kappa", "kappa = beta T*"))
    figure, axes = family_grid(frame, len(panels), 2.9)
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        objectives = list(dict.fromkeys(rows["objective"]))
        for axis, (column, label) in zip(line, panels, strict=True):
            for i, objective in enumerate(objectives):
                for method in (RAW, REPAIRED) if column in ("log_loss", "ece") else (REPAIRED,):
                    series = rows[(rows.objective == objective) & (rows.method == method)].sort_values("beta")
                    if column in series:
                        draw_line(
                            axis,
                            series,
                            column,
                            dodge_factor(i, len(objectives)),
                            color=f"C{i}",
                            **_look(method, column),
                        )
            if column == "ece":
                series = rows[(rows.objective == objectives[0]) & (rows.method == REPAIRED)].sort_values("beta")
                axis.fill_between(series.beta, 0, series.ece_null, color="0.5", alpha=0.25, linewidth=0)
                axis.set_ylim(bottom=0)
            if column == "kappa":
                axis.axhline(1, color="0.4", linewidth=0.8)
                axis.set_yscale("log")
                plain(axis.yaxis)
            axis.set_ylabel(label)
            set_beta_axis(axis, rows.beta)
        line[0].set_title(name, loc="left")
    figure_legend(figure, _over_beta_keys(frame))
    return figure


def separation(analysis: Analysis) -> Figure | None:
    """Change of test log loss against the reference, split: total = confidence + dynamics; 95% intervals. Where
    dynamics leaves 0, what is learned has changed; where only confidence does, a temperature repairs the change.

    A panel an objective, a row of panels a model.
    """
    frame = rows_of(analysis, "separation", "log_loss_total")
    if not len(frame):
        return None
    objectives = list(dict.fromkeys(frame["objective"]))
    figure, axes = family_grid(frame, len(objectives), 3.1, sharey="row")
    reference = analysis.result.reference
    zero = DataFrame([_no_change(reference)])
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, objective in zip(line, objectives, strict=False):
            objective_rows = rows[rows.objective == objective]
            if objective == CROSS_ENTROPY:
                objective_rows = concat([objective_rows, zero])
            objective_rows = objective_rows.sort_values("beta")
            for i, (column, _, color, marker) in enumerate(PARTS):
                draw_line(axis, objective_rows, column, dodge_factor(i, 3), color=color, marker=marker)
            axis.axhline(0, **ZERO_LINE)
            axis.set_title(objective if len(axes) == 1 else f"{name}, {objective}", loc="left")
            set_beta_axis(axis, [*rows.beta, reference])
        line[0].set_ylabel("change of log loss (nats)")
    keys = [(label, {"color": color, "marker": marker}) for _, label, color, marker in PARTS]
    figure_legend(figure, keys)
    return figure


def _no_change(reference: float) -> dict[str, Any]:
    """The row of the reference itself in a frame of changes against it."""
    row: dict[str, Any] = {"objective": CROSS_ENTROPY, "beta": reference, "tuning": "tuned"}
    for column, *_ in PARTS:
        row |= Estimate(0.0, 0.0, 0.0).limits(column)
    return row


def reliability(analysis: Analysis) -> Figure:
    """Confidence against accuracy for the cross-entropy arms, raw and repaired, seeds pooled: below the diagonal
    confidence is too high, above it too low. A mark's area is its bin's share of the examples.

    A mark's area is its bin's share of the examples; lines pass bins with at least 1%.
    """
    frame = DataFrame(analysis.result.reliability)
    frame = frame[frame.objective == CROSS_ENTROPY] if len(frame) else frame
    if not len(frame):
        return empty_figure(NO_CROSS_ENTROPY)
    betas = sorted(set(frame.beta))
    across = max(min(len(betas), 4), 2)
    panels = [(name, rows, beta) for name, rows in by_family(frame) for beta in sorted(set(rows.beta))]
    down = -(-len(panels) // across)
    figure, axes = new_figure(0.6 + 2.35 * across, 0.5 + 2.45 * down, down, across, sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    several = frame.model.nunique() > 1
    for axis, (name, rows, beta) in zip(axes.flat, panels, strict=False):
        _reliable(axis, rows[rows.beta == beta], frame)
        axis.set_title(f"{name}, beta={beta:.3g}" if several else f"beta={beta:.3g}", loc="left")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy")
    for axis in axes.flat[max(len(panels) - across, 0) : len(panels)]:  # the lowest of each column
        axis.set_xlabel("confidence")
        axis.tick_params(labelbottom=True)
    figure_legend(figure, RELIABILITY_KEYS)
    return figure


def reliability_row(bins: pd.DataFrame) -> Figure:
    """Confidence against accuracy of one beta, a panel an objective, as in `reliability`."""
    objectives = list(dict.fromkeys(bins["objective"]))
    across = max(len(objectives), 2)
    figure, (axes,) = new_figure(0.6 + 2.35 * across, 2.95, 1, across, sharey=True)
    for axis in axes[len(objectives) :]:
        axis.set_visible(False)
    for axis, objective in zip(axes, objectives, strict=False):
        _reliable(axis, bins[bins["objective"] == objective], bins)
        axis.set_title(objective, loc="left")
        axis.set_xlabel("confidence")
    axes[0].set_ylabel("accuracy")
    figure_legend(figure, RELIABILITY_KEYS)
    return figure


def _reliable(axis: Axes, rows: pd.DataFrame, every: pd.DataFrame) -> None:
    """One arm's bins, raw and repaired, on axes from 0 to 1; from 0.5 where no bin of any arm has less confidence."""
    axis.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
    for method, color, marker in ((RAW, "C1", "s"), (REPAIRED, "C0", "o")):
        bins = rows[(rows["method"] == method) & (rows["count"] > 0)]
        share = bins["count"] / bins["count"].sum()
        axis.plot(bins.confidence[share >= LEAST], bins.accuracy[share >= LEAST], color=color, linewidth=1)
        axis.scatter(
            bins.confidence, bins.accuracy, 3 + 60 * share, color=color, marker=marker, linewidths=0, clip_on=False
        )
    least = 0.5 if every.loc[every["count"] > 0, "confidence"].min() >= 0.5 else 0.0
    axis.set(xlim=(least, 1), ylim=(0, 1), xticks=sorted({least, 0.5, 1.0}), yticks=(0, 0.5, 1))
    axis.set_box_aspect(1)


def learning_rates(analysis: Analysis) -> Figure | None:
    """Selection score over the learning rate, a panel an objective, a shade a beta; the chosen rate is circled: one
    at the end of its curve may not be the best.
    """
    frame = rows_of(analysis, "rates", "score")
    if len(set(frame.get("rate", ()))) < 2:
        return None
    objectives = list(dict.fromkeys(frame["objective"]))
    figure, axes = family_grid(frame, len(objectives), 3.1, sharey="row")
    colors = shades(frame["beta"])
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        finite = rows[rows.score < float("inf")]
        for axis, objective in zip(line, objectives, strict=False):
            for beta, curve in finite[finite.objective == objective].sort_values("rate").groupby("beta"):
                axis.plot(curve.rate, curve.score, color=colors[beta], marker=".")
                best = curve[curve.chosen]
                axis.plot(best.rate, best.score, color=colors[beta], marker="o", markersize=8, fillstyle="none")
            axis.set(xscale="log", yscale="log", xlabel=f"learning rate ({rows.unit.iloc[0]})")
            axis.set_title(objective if len(axes) == 1 else f"{name}, {objective}", loc="left")
            plain(axis.xaxis)
            plain(axis.yaxis)
        line[0].set_ylabel("selection score")
    figure_legend(figure, [(f"beta={beta:.3g}", {"color": shade, "marker": "."}) for beta, shade in colors.items()])
    return figure


def _look(method: str, column: str) -> dict[str, Any]:
    dashed = method == RAW and column in ("log_loss", "ece")
    return {"linestyle": "--", "fillstyle": "none"} if dashed else {"linestyle": "-"}


def _over_beta_keys(frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    colors = [(name, {"color": f"C{i}", "marker": "o"}) for i, name in enumerate(dict.fromkeys(frame["objective"]))]
    return [
        *colors,
        ("raw", {"color": "0.2", "linestyle": "--", "marker": "o", "fillstyle": "none"}),
        ("after temperature scaling", {"color": "0.2", "marker": "o"}),
        ("ECE of a calibrated model", {"color": "0.5", "alpha": 0.4, "linewidth": 6}),
    ]
