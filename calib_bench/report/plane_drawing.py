"""Drawing a plane of two settings on log axes: coloured cells, crosses where training failed, and lines over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.report.drawing import plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

FAILED = "0.82"
"""Colour of cells without a value."""


def scale(values: pd.Series, cap: float = math.inf, log: bool = True) -> Normalize:
    """One scale of colours for several planes: from the least finite value to the largest, or to `cap`."""
    from matplotlib.colors import LogNorm, Normalize

    finite = values[values.abs() < math.inf].clip(upper=cap)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.1, 1.0)
    if not low < high:
        low, high = low - 0.05 * abs(low) - 1e-9, high + 0.05 * abs(high) + 1e-9
    return LogNorm(low, high) if log and low > 0 else Normalize(low, high)


def plane(
    axis: Axes, frame: pd.DataFrame, x: str, y: str, value: str, norm: Normalize, cmap: str = "viridis_r"
) -> ScalarMappable:
    """Cells of a plane, one a row of the frame, on log axes.

    Each column of cells has rows of its own: y need not be the same in all columns. A cell whose value is not finite
    is grey, and one that the frame's column "failed", if it has one, marks with a share above 0 has a cross, the
    larger the more of its seeds failed.

    Args:
        x, y, value: columns of the frame; x and y positive.
        norm: see `scale`.

    Returns:
        What `colorbar` takes.
    """
    import numpy as np
    from matplotlib import patheffects
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, to_rgba
    from matplotlib.pyplot import get_cmap

    positive = frame[(frame[x] > 0) & (frame[y] > 0)]
    left_right = dict(zip(columns := sorted(set(positive[x])), _spans(columns), strict=True))
    colours = get_cmap(cmap)
    for place, column in positive.groupby(x):
        cells = column.sort_values(y)
        for (low, high), cell in zip(_spans(cells[y].tolist()), cells[value], strict=True):
            left, right = left_right[place]
            face = colours(norm(cell)) if math.isfinite(cell) else to_rgba(FAILED)
            axis.fill_between([left, right], low, high, facecolor=face, edgecolor="white", linewidth=0.4)
    if "failed" in positive:
        failed = positive[positive["failed"] > 0]
        sizes = 6 + 16 * failed["failed"]
        crosses = axis.scatter(failed[x], failed[y], sizes, color="white", marker="x", linewidths=0.9, zorder=3)
        crosses.set_path_effects([patheffects.withStroke(linewidth=1.9, foreground="0.25")])
    axis.set(xscale="log", yscale="log")
    axis.grid(False)
    for one in (axis.xaxis, axis.yaxis):
        plain(one)
    if len(positive):
        spans = [*left_right.values()]
        axis.set_xlim(spans[0][0], spans[-1][1])
        low_high = np.array([edge for _, cells in positive.groupby(x) for edge in _spans(sorted(cells[y]))])
        axis.set_ylim(low_high.min(), low_high.max())
    return ScalarMappable(norm, ListedColormap(colours(np.linspace(0, 1, 256))))


def _spans(centres: Sequence[float]) -> list[tuple[float, float]]:
    """The edges of cells with these centres, ascending: half-way between neighbours on a log scale."""
    if len(centres) == 1:
        return [(centres[0] / 2, centres[0] * 2)]
    middles = [math.sqrt(a * b) for a, b in itertools.pairwise(centres)]
    edges = [centres[0] ** 2 / middles[0], *middles, centres[-1] ** 2 / middles[-1]]
    return list(itertools.pairwise(edges))


def colorbar(drawn: ScalarMappable, axes: Any, label: str) -> None:
    """A bar of colours beside the axes, plain numbers on it."""
    from matplotlib.colors import LogNorm

    axis = axes if not hasattr(axes, "__len__") else axes[0]
    bar = axis.figure.colorbar(drawn, ax=axes, label=label, aspect=30, pad=0.02)
    if isinstance(drawn.norm, LogNorm):
        plain(bar.ax.yaxis)


def path(axis: Axes, x: Sequence[float], y: Sequence[float], **look: Any) -> None:
    """A line over the plane, white around it so that it shows on any colour."""
    from matplotlib import patheffects

    line = axis.plot(x, y, zorder=4, **look)[0]
    line.set_path_effects([patheffects.withStroke(linewidth=line.get_linewidth() + 1.8, foreground="white")])


def power_lines(axis: Axes, power: float, through: Sequence[tuple[float, float]], **look: Any) -> None:
    """Lines y = c x^power through some points, across the axis as it is: for power -2, those of equal x^2 y."""
    xlim, ylim = axis.get_xlim(), axis.get_ylim()
    for x, y in through:
        axis.plot(
            xlim, [y * (end / x) ** power for end in xlim], zorder=2, **{"color": "0.35", "linewidth": 0.7, **look}
        )
    axis.set(xlim=xlim, ylim=ylim)
