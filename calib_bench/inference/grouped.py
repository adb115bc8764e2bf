"""How much of what differs between cells of a plane a grouping of the cells accounts for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import Interval, no_interval


def explained(values_CS: ArrayLike, groups: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Share of the variance between cells that lies between groups of them, the noise of seeds taken out of both.

    1 - (within / (C - G) - noise) / (total / (C - 1) - noise), sums of squares over cell means, and noise the variance
    between seeds over S: an adjusted R squared (Olejnik & Algina, 2003), which groups of one cell or more groups do not
    raise, and which is below 0 where groups are more alike than chance makes them. Limits by the jackknife over seeds,
    with t_{S-1} and standard errors times S / (S - 1); they hold for these cells.

    Args:
        values_CS: results [C, S] of C cells, each trained with the same S seeds.
        groups: the group of each cell.
    """
    y = np.asarray(values_CS, np.float64)
    C, S = y.shape
    labels = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    index_C = np.array([labels[group] for group in groups])
    if C - len(labels) < 1 or len(labels) < 2:
        return no_interval(math.nan, S, C, f"{C} cells in {len(labels)} groups")
    value = _share(y, index_C)
    if S < 3 or not math.isfinite(value):
        return no_interval(value, S, C, "three seeds are needed" if S < 3 else "nothing varies")
    from scipy.special import stdtrit

    without_S = np.array([_share(np.delete(y, s, 1), index_C) for s in range(S)])
    error = S / (S - 1) * math.sqrt((S - 1) / S * np.square(without_S - without_S.mean()).sum())
    half = float(stdtrit(S - 1, (1 + level) / 2)) * error
    return Interval(value, value - half, min(value + half, 1.0), S, C, S - 1, math.nan, "jackknife over seeds")


def _share(y_CS: Array, index_C: NDArray[np.int64]) -> float:
    C, S = y_CS.shape
    mean_C = y_CS.mean(1)
    noise = y_CS.var(1, ddof=1).mean() / S if S > 1 else 0.0
    count_G = np.bincount(index_C)
    group_G = np.bincount(index_C, mean_C) / count_G
    within = np.square(mean_C - group_G[index_C]).sum() / (C - len(count_G)) - noise
    total = np.square(mean_C - mean_C.mean()).sum() / (C - 1) - noise
    return float(1 - max(within, 0.0) / total) if total > 0 else math.nan
