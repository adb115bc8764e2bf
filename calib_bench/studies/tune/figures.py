"""Drawing of the searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from calib_bench.core.study import Analysis
from calib_bench.planning.search import Tried
from calib_bench.report import drawing
from calib_bench.studies.tune.findings import label
from calib_bench.studies.tune.result import TuneResult
from calib_bench.studies.tune.searches import Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure


def landscape(analysis: Analysis) -> Figure:
    """Every configuration of the joint search in the plane of beta and rate, the chosen ones marked: they lie on a line
    where rate and beta can stand for one another.
    """
    from matplotlib.pyplot import subplots

    paired = TuneResult.of(analysis).pairs
    figure, axes = subplots(1, max(1, len(paired)), figsize=(5.2 * max(1, len(paired)), 4.2), squeeze=False)
    for pair, axis in zip(paired, axes[0], strict=False):
        points = _configurations(axis, pair)
        for best, marker in ((pair.joint.best, "*"), (pair.plain.best, "P")):
            if best is not None:
                _mark(axis, best, marker, pair)
        axis.set(xscale="log", yscale="log", xlabel="beta", ylabel=f"rate ({pair.template.lr_unit})")
        drawing.plain(axis.xaxis)
        drawing.plain(axis.yaxis)
        axis.set_title(label(pair.template.model_dump()), loc="left")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, markerscale=0.6)
        if points is not None:
            bar = figure.colorbar(points, ax=axis, label="selection score (larger dots: longer runs)")
            drawing.plain(bar.ax.yaxis)
    return figure


def _configurations(axis: Axes, pair: Pair) -> PathCollection | None:
    """Every configuration of both searches; returns the dots of those that did not fail, None where all did."""
    from matplotlib.colors import LogNorm

    tried = [one for one in (*pair.joint.tried, *pair.plain.tried) if one.scores]
    finite = [one for one in tried if _is_finite(one)]
    lost = [one for one in tried if not _is_finite(one)]
    sizes = [20 + 60 * one.epochs[-1] / max(1, one.trial.epochs) for one in finite]
    scores = [one.scores[-1] for one in finite]
    points = axis.scatter(*_places(finite), c=scores, s=sizes, norm=LogNorm(), cmap="viridis_r")
    if lost:
        axis.scatter(*_places(lost), c="0.4", marker="x", label="failed")
    return points if finite else None


def _is_finite(tried: Tried) -> bool:
    return math.isfinite(tried.scores[-1]) and not tried.failed


def _places(tried: Sequence[Tried]) -> tuple[list[float], list[float]]:
    """Betas and rates of configurations."""
    return [one.trial.beta for one in tried], [one.trial.lr for one in tried]


def _mark(axis: Axes, best: Tried, marker: str, pair: Pair) -> None:
    label = "chosen" if best is pair.joint.best else f"chosen at beta={pair.template.beta:g}"
    axis.scatter(
        [best.trial.beta], [best.trial.lr], marker=marker, s=220, facecolor="none", edgecolor="C3", linewidth=1.8,
        label=label,
    )  # fmt: skip
