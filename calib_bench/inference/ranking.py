"""Intervals of the area under the risk-coverage curve, a smooth function of the examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array, SeedRows, seed_pairs
from calib_bench.inference.interval import Interval, crossed_interval
from calib_bench.inference.scores import with_doubt, within
from calib_bench.metrics.scores import TIE


def by_confidence(
    confidence_N: ArrayLike, correct_N: ArrayLike
) -> tuple[NDArray[np.int64], Array, Callable[[Array], Array]]:
    """The examples in order, the most confident first [N], 1 for each that is wrong [N], and a mean over ties."""
    confidence, correct = np.asarray(confidence_N, np.float64), np.asarray(correct_N, np.float64)
    order = np.argsort(-confidence, kind="stable")
    ranked = confidence[order]
    first = np.flatnonzero(np.append(True, ranked[:-1] - ranked[1:] > TIE * ranked[:-1]))
    size = np.diff(np.append(first, len(order)))

    def tied(values: Array) -> Array:
        return np.repeat(np.add.reduceat(values, first) / size, size)

    return order, 1.0 - correct[order], tied


def aurc_n(confidence_N: ArrayLike, correct_N: ArrayLike, excess: bool = False) -> Array:
    """AURC (or E-AURC) plus each example's first-order influence on it: [N], whose mean is the area, ties averaged.

    In order of confidence, with E_k the errors e among the first k, example i has influence
    E_i / i + e_i sum_{k >= i} 1 / k - sum_{k >= i} E_k / k^2 - AURC: the derivative of the area in its weight. The best
    area has derivative -log(1 - error rate) in the errors (Geifman, Uziel & El-Yaniv, 2019).
    """
    order, e, tied = by_confidence(confidence_N, correct_N)
    n = len(order)
    k = np.arange(1, n + 1)
    risk = tied(e).cumsum() / k
    after = tied((1 / k)[::-1].cumsum()[::-1])
    out = np.empty(n)
    out[order] = tied(risk) + e * after - tied((risk / k)[::-1].cumsum()[::-1])
    if not excess:
        return out
    error = 1.0 - np.asarray(correct_N, np.float64)
    wrong, rate = error.sum(), error.mean()
    best = (np.maximum(k - (n - wrong), 0) / k).mean()
    slope = -np.log1p(-rate) if rate < 1 else 0.0
    return out - best - slope * (error - rate)


def aurc_interval(
    confidence_SN: SeedRows,
    correct_SN: SeedRows,
    other: tuple[SeedRows, SeedRows] | None = None,
    *,
    excess: bool = False,
    level: float = 0.95,
    nested: bool = False,
) -> Interval:
    """`crossed_interval` of the mean over seeds of AURC (E-AURC with `excess`), or of its difference to another arm's.

    An area alone takes the log scale: it is positive and skewed. With few wrong examples the limits are in doubt, and
    the interval says so: at 98% accuracy they cover .74 of the time for 200 examples, .92 for 1,000.

    Args:
        confidence_SN, correct_SN: confidences and whether the top label was right, [S, N]; with `nested` also S rows.
        other: (confidence, correct) of the arm to subtract, same seeds and examples.
    """
    rows = [aurc_n(c, h, excess) for c, h in seed_pairs(confidence_SN, correct_SN)]
    if other is not None:
        rows = [a - aurc_n(c, h, excess) for a, (c, h) in zip(rows, seed_pairs(*other), strict=True)]
    interval = crossed_interval(rows, level, nested, "log" if other is None else "identity")
    sides = [correct_SN] if other is None else [correct_SN, other[1]]
    return with_doubt(within(interval, "aurc", difference=other is not None), sides, nested)
