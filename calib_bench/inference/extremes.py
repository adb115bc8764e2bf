"""The best and the worst of several seeds, as quantities that have an interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import Interval, around, crossed_interval, pool, variances


def best_of(
    values_SN: ArrayLike,
    m: int,
    others_SN: ArrayLike | None = None,
    largest: bool = True,
    level: float = 0.95,
    nested: bool = False,
) -> Interval:
    """The expected score of the best of m seeds, or by how much one arm's exceeds another's, paired by seed.

    The mean over all choices of m of the S seeds of the best one's score, with a `crossed_interval` on `pseudo_values`
    whose degrees of freedom of the seeds are divided by m: as if there were S / m draws of m seeds. In simulation of
    normal seeds of unequal spread it covers .957 to .980 at S = 8 to 20 and m = 2 to 4 (undivided, .90 to .94).

    Args:
        values_SN: per-example scores; where seeds have examples of their own, their means [S, 1].
        m: of how many seeds, 1 <= m < S; the worst of m is the best of the other sign.
        others_SN: those of the arm to subtract.
        largest: whether the best is the largest.
        nested: see `crossed_interval`.

    Raises:
        ValueError: m does not fit.
    """
    d_SN = pseudo_values(values_SN, m, largest)
    if others_SN is not None:
        d_SN = d_SN - pseudo_values(others_SN, m, largest)
    interval = crossed_interval(d_SN, level, nested)
    if m == 1 or not math.isfinite(interval.high - interval.low) or interval.high == interval.low:
        return interval
    S, N = d_SN.shape
    v = variances(d_SN, d_SN) * ((1.0, 0.0, 0.0) if nested else (1.0, 1.0, 1.0))
    method = f"{interval.method}, best of {m} by jackknife"
    return around(interval.mean, pool(v, S, N, m=m), level, S, interval.n_examples, method)


def pseudo_values(values_SN: ArrayLike, m: int, largest: bool = True) -> Array:
    """Values [S, N] whose mean is the expected best of m seeds, and which vary as it would.

    It is an L-statistic sum_k w_k r_(k) of the ordered seed means, w_k = C(k - 1, m - 1) / C(S, m). A row's mean here
    is the jackknife's pseudo-value of its seed (Quenouille, 1956), and its deviations from that are the seed's own,
    times S w_k: so a column's mean moves as the estimate moves with that example. With m = 1 they are the values.

    Raises:
        ValueError: m does not fit.
    """
    values = np.asarray(values_SN, np.float64)
    S = len(values)
    if not 1 <= m < S:
        raise ValueError(f"the best of {m} seeds needs more than {m} seeds, not {S}")
    r_S = values.mean(1)
    all_seeds, w_S = _expected(r_S, m, largest)
    without_S = np.array([_expected(np.delete(r_S, s), m, largest)[0] for s in range(S)])
    pseudo_S = S * all_seeds - (S - 1) * without_S
    return pseudo_S[:, None] + S * w_S[:, None] * (values - r_S[:, None])


def _expected(r_S: Array, m: int, largest: bool) -> tuple[float, Array]:
    """The expected best of m, and each seed's weight in it; equal means share theirs."""
    S = len(r_S)
    by_rank = np.array([math.comb(k, m - 1) for k in range(S)]) / math.comb(S, m)
    order = np.argsort(r_S if largest else -r_S, kind="stable")
    w_S = np.empty(S)
    w_S[order] = by_rank
    for value in np.unique(r_S):
        w_S[r_S == value] = w_S[r_S == value].mean()
    return float(w_S @ r_S), w_S
