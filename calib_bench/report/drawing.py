"""What drawings of studies share: grids of panels, lines over beta with their intervals, axes and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from calib_bench.planning.tuning import TUNED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH = 10.0
"""Inches."""
ALONE = 0.6
"""Share of the width that one panel takes by itself."""
UNTUNED = "rate not tuned, or at an edge"
CROSS: dict[str, Any] = {"color": "k", "marker": "x", "linestyle": "none"}


def family_grid(frame: pd.DataFrame, columns: int, height: float, **share: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    rows = max(sum(1 for _ in by_family(frame)), 1)
    figure = Figure(figsize=(WIDTH if columns > 1 else ALONE * WIDTH, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def by_family(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one model and variant, with its name."""
    if not len(frame):
        return
    variant = frame["variant"].fillna("") if "variant" in frame else frame["model"].map(lambda _: "")
    for (model, what), rows in frame.groupby([frame["model"], variant], sort=False):
        yield f"{model} {what}".strip(), rows


def draw_estimates(
    axis: Axes, x: pd.Series, rows: pd.DataFrame, column: str, least: float | None = None, **look: Any
) -> None:
    """A line through a column's values at x, with bars where it has limits.

    Args:
        axis: to draw on.
        x: where, one a row.
        rows: of a table.
        column: whose values are drawn.
        least: where bars are cut off, so that they fit a log axis.
        look: of the line, its colour among it.
    """
    axis.plot(x, rows[column], **look)
    if f"{column}_low" in rows:
        low = rows[f"{column}_low"].clip(lower=least)
        axis.vlines(x, low, rows[f"{column}_high"], color=look["color"], linewidth=0.9, alpha=0.6)


def draw_line(axis: Axes, rows: pd.DataFrame, column: str, dodge: float, **look: Any) -> None:
    """A line over beta with interval bars where there are intervals."""
    x = rows["beta"] * dodge
    draw_estimates(axis, x, rows, column, **{"marker": "o", **look})
    untuned = ~rows["tuning"].isin(TUNED) & rows[column].notna()
    if untuned.any() and not untuned.all():
        mark_untuned(axis, x[untuned], rows[column][untuned])


def mark_untuned(axis: Axes, x: pd.Series, y: pd.Series) -> None:
    """Crosses over points whose rate was not tuned or lies at the edge of its grid, which `figure_legend` names."""
    axis.plot(x, y, markersize=7, label=UNTUNED, **CROSS)


def shades(values: Iterable[float]) -> dict[float, Any]:
    """A colour for each value, from dark to light in their order."""
    from matplotlib import colormaps

    levels = sorted(set(values))
    return {value: colormaps["viridis"](0.9 * i / max(len(levels) - 1, 1)) for i, value in enumerate(levels)}


def figure_legend(figure: Figure, keys: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """One legend above all panels; it names the crosses of `mark_untuned` where there are any."""
    from matplotlib.lines import Line2D

    if any(line.get_label() == UNTUNED for axis in figure.axes for line in axis.lines):
        keys = [*keys, (UNTUNED, CROSS)]
    handles = [Line2D([], [], label=label, **look) for label, look in keys]
    lengths = [len(label) + 8 for label, _ in keys]
    columns = len(keys)
    while columns > 1 and _legend_length(lengths, columns) > 15 * figure.get_figwidth():
        columns -= 1
    figure.legend(handles=handles, loc="outside upper center", ncols=max(columns, 1))


def _legend_length(lengths: Sequence[int], columns: int) -> int:
    """Characters of a legend's line: each column, filled from top to bottom, is as long as its longest key."""
    lines, longer = divmod(len(lengths), columns)  # so many columns have one key more
    starts = [i * lines + min(i, longer) for i in range(columns + 1)]
    return sum(max(lengths[a:b]) for a, b in pairwise(starts))


def dodge_factor(i: int, n: int) -> float:
    """A factor on beta that keeps bars of n series apart."""
    return 1.05 ** (i - (n - 1) / 2)


def set_beta_axis(axis: Axes, betas: Sequence[float]) -> None:
    axis.set_xscale("log")
    ticks = sorted(set(betas))
    axis.set_xticks(_thin(ticks), [tick_text(b) for b in _thin(ticks)])
    axis.minorticks_off()
    axis.set_xlabel("beta")
    if len(ticks) == 1:
        axis.set_xlim(ticks[0] / 3, ticks[0] * 3)


def tick_text(value: float) -> str:
    """A number beside a tick to three digits: 1000 and not 1e+03."""
    return f"{float(f'{value:.3g}'):g}"


def _thin(ticks: list[float]) -> list[float]:
    """At most five of the ticks or so, powers of ten if there are."""
    decades = [tick for tick in ticks if f"{tick:e}".startswith("1.000000")]
    return ticks if len(ticks) <= 5 else decades if len(decades) > 1 else ticks[:: -(-len(ticks) // 5)]


def plain(axis: Any) -> None:
    """Plain numbers at few places of a log axis: of one that spans little, at places as on a linear one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = _span(axis)
    decades = math.log10(high / low) if 0 < low < high < math.inf else 1.0
    if decades < 0.25:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        subs = (
            (1.0,)
            if decades > 1.7
            else (1.0, 2.0, 5.0)
            if decades > 0.6
            else (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
        )
        axis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _span(axis: Any) -> tuple[float, float]:
    """Lowest and highest of the data on an axis and on those that share its scale."""
    shared = getattr(axis.axes, f"get_shared_{axis.axis_name}_axes")().get_siblings(axis.axes)
    lows, highs = zip(*(getattr(one, f"{axis.axis_name}axis").get_data_interval() for one in shared), strict=True)
    return min(lows), max(highs)


def empty_figure(text: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.2))
    figure.set_layout_engine("none")  # there are no axes to lay out, of which matplotlib warns
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure
