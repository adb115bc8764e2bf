"""Drawings of the study of initial logit magnitude."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.core.study import Analysis
from calib_bench.planning.tuning import TUNED
from calib_bench.report.drawing import (
    by_family,
    dodge_factor,
    draw_estimates,
    empty_figure,
    family_grid,
    figure_legend,
    mark_untuned,
    plain,
    shades,
)
from calib_bench.report.panels import ZERO_LINE, draw_columns, draw_families, mark_zero, new_figure, rows_of
from calib_bench.studies.logit_magnitude.plane import BETA, METRICS, ZERO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FACTOR_LOOKS: dict[str, dict[str, Any]] = {
    "total": {"color": "k", "marker": "o"},
    "head_rate": {"color": "C0", "marker": "D"},
    "initial_magnitude": {"color": "C1", "marker": "s"},
}
FACTOR_NAMES = {"total": "training at beta", "head_rate": "head rate", "initial_magnitude": "initial magnitude"}
NO_PAIRS = "No arm shares a finished seed with the model alone at the reference yet."
NO_DESIGN = "No design has finished seeds in all of its cells."
UNTRAINED = "The 2x2 of head rate and initial head was not trained: see the warnings."
LABELS = {"accuracy": "test accuracy", "repaired_log_loss": "repaired log loss (nats)"}


def plane(analysis: Analysis) -> Figure:
    """Accuracy and repaired log loss over the initial logit magnitude, a line a beta: flat where it does not matter.

    Both less those of the model alone at the reference, whose line is zero: paired, so that the bars can be compared.
    """
    frame = rows_of(analysis, "plane", "initial_norm")
    if "accuracy_change" not in frame:
        return empty_figure(NO_PAIRS)
    reference = analysis.result.reference
    frame = frame.fillna({f"{metric}_change": 0.0 for metric in METRICS})
    colors = shades(frame["beta"])
    planes = list(_planes(frame))
    figure, axes = family_grid(frame, len(METRICS), 3.4)
    if len(planes) > len(axes):
        figure.clear()
        figure.set_figheight(3.4 * len(planes))
        axes = figure.subplots(len(planes), len(METRICS), squeeze=False)
    for (name, rows), line in zip(planes, axes, strict=False):
        rows = rows.assign(at=_placed(rows, list(colors)))
        for axis, metric in zip(line, METRICS, strict=True):
            for beta, beta_rows in rows.groupby("beta"):
                _over_norm(axis, beta_rows, f"{metric}_change", colors[float(beta)])
            axis.axhline(0, **ZERO_LINE)
            reference_rows = rows[rows["correlation"].isna() & (rows["beta"] == reference)]
            level = f" ({float(reference_rows[metric].iloc[0]):.3g})" if len(reference_rows) else ""
            axis.set_ylabel(f"{LABELS[metric]}\nminus that of beta={reference:g} alone{level}")
            _norm_axis(axis, rows)
        line[0].set_title(name, loc="left")
    keys = [(f"beta={beta:.3g}", {"color": shade, "marker": "o"}) for beta, shade in colors.items()]
    keys.append(("the model alone", {"color": "0.3", "marker": "D", "fillstyle": "none", "linestyle": "none"}))
    figure_legend(figure, keys)
    return figure


def _planes(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one plane, with its name."""
    several = frame["objective"].nunique() > 1
    for name, rows in by_family(frame):
        for objective, plane_rows in rows.groupby("objective", sort=False):
            yield f"{name}, {objective}" if several else name, plane_rows


def _placed(rows: pd.DataFrame, betas: Sequence[float]) -> list[float]:
    """Where on a log axis a magnitude goes: zeros at the left end, side by side."""
    norms = [float(norm) for norm in rows["initial_norm"]]
    least = min((norm for norm in norms if norm > ZERO * max(norms)), default=1.0)
    return [
        norm if norm >= least else least / 8 * dodge_factor(betas.index(beta), len(betas)) ** 2.5
        for norm, beta in zip(norms, rows["beta"], strict=True)
    ]


def _over_norm(axis: Axes, rows: pd.DataFrame, metric: str, color: Any) -> None:
    """One beta: its pairs as a line, the model alone as a hollow mark; a dashed line leads to zero."""
    alone, pairs = rows[rows["correlation"].isna()], rows[rows["correlation"].notna()].sort_values("at")
    draw_estimates(axis, pairs["at"], pairs, metric, color=color, marker="o")
    hollow: dict[str, Any] = {"marker": "D", "markersize": 6, "fillstyle": "none", "linestyle": "none"}
    draw_estimates(axis, alone["at"], alone, metric, color=color, **hollow)
    untuned = rows[~rows["tuning"].isin(TUNED) & rows[metric].notna()]
    if 0 < len(untuned) < len(rows):
        mark_untuned(axis, untuned["at"], untuned[metric])


def _norm_axis(axis: Axes, rows: pd.DataFrame) -> None:
    axis.set_xscale("log")
    axis.set_xlabel("||Z0|| per example at initialization")
    zeros = rows[rows["at"] > rows["initial_norm"] * (1 + ZERO)]
    plain(axis.xaxis)
    if not len(zeros):
        return
    from matplotlib.ticker import FixedFormatter, FixedLocator

    zero = math.exp(sum(map(math.log, zeros["at"])) / len(zeros))
    low, high = zero * 8, float(rows["at"].max())
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    axis.xaxis.set_major_locator(FixedLocator([zero, *decades]))
    axis.xaxis.set_major_formatter(FixedFormatter(["0", *(f"{tick:g}" for tick in decades)]))
    axis.axvline(zero * 8**0.5, color="0.75", linewidth=0.8, linestyle=":")


def shares_of_variance(analysis: Analysis) -> Figure:
    """Shares of variance with intervals: beta's or the head rate's, and the initial magnitude's at given ones. Where
    the intervals part, the larger one matters more.
    """
    frame = rows_of(analysis, "shares", "other_share")
    if not len(frame):
        return empty_figure(NO_DESIGN)
    several = frame["model"].nunique() > 1 or frame["objective"].nunique() > 1 or frame["variant"].nunique() > 0
    lines = list(dict.fromkeys(_line_name(row, several) for row in frame.to_dict("records")))

    figure, (axes,) = new_figure(10.0, 1.3 + 0.42 * len(lines), 1, len(METRICS), sharey=True)
    looks = (("other_share", "C0", "o", -0.14), ("magnitude_share", "C1", "s", 0.14))
    for axis, metric in zip(axes, METRICS, strict=True):
        for row in frame[frame["metric"] == metric.replace("_", " ")].to_dict("records"):
            for column, color, marker, shift in looks:
                y = lines.index(_line_name(row, several)) + shift
                axis.plot([row[column]], [y], color=color, marker=marker, markersize=6)
                axis.hlines(y, row.get(f"{column}_low"), row.get(f"{column}_high"), color=color, linewidth=1.4)
        least = min(0.0, *(float(frame[column].min()) for column, *_ in looks))
        axis.set(xlim=(least - 0.03, 1.03), xlabel="share of variance")
        axis.set_title(metric.replace("_", " "), loc="left")
    axes[0].set_yticks(range(len(lines)), lines)
    axes[0].set_ylim(len(lines) - 0.5, -0.5)
    keys = [
        (f"{BETA}, or the head's rate in a 2x2", {"color": "C0", "marker": "o"}),
        ("initial magnitude, the other fixed", {"color": "C1", "marker": "s"}),
    ]
    figure_legend(figure, keys)
    return figure


def _line_name(row: Any, several: bool) -> str:
    variant = f" {row['variant']}" if isinstance(row["variant"], str) else ""
    return f"{row['model']}{variant} {row['objective']}, {row['design']}" if several else str(row["design"])


def factors(analysis: Analysis) -> Figure:
    """The 2x2 over beta: main effects of head rate and initial magnitude, and their sum, which is training at beta: the
    effect that lies on the sum is what beta does.
    """
    frame = rows_of(analysis, "two_by_two")
    if not len(frame):
        return empty_figure(UNTRAINED)

    def draw(axis: Axes, rows: pd.DataFrame, metric: str) -> None:
        draw_columns(axis, rows[rows["metric"] == metric.replace("_", " ")], FACTOR_LOOKS)
        mark_zero(axis, [*rows["beta"], analysis.result.reference])

    panels = [(metric, f"change of {LABELS[metric]}") for metric in METRICS]
    keys = [(FACTOR_NAMES[column], look) for column, look in FACTOR_LOOKS.items()]
    return draw_families(frame, panels, 3.1, draw, keys)
