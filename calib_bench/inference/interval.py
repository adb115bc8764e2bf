"""Intervals for means over seeds and examples, families of them, and what they let one say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits.

    Attributes:
        mean: the estimate, a mean over seeds (and examples) unless its maker says otherwise.
        low, high: confidence limits; NaN when there is no interval, infinite when the data bound nothing.
        n_seeds, n_examples: seeds, and examples per seed (their mean number, rounded, when seeds differ).
        df: degrees of freedom of the t distribution; NaN for the bootstrap.
        p: two-sided p-value of the estimated quantity being 0 (of a ratio of spreads being 1); NaN when there is none.
        method: how the limits were found, for people.
    """

    mean: float
    low: float
    high: float
    n_seeds: int
    n_examples: int
    df: float
    p: float
    method: str


def no_interval(mean: float, n: int, N: int, why: str) -> Interval:
    """An estimate without limits, and why."""
    return Interval(mean, math.nan, math.nan, n, N, math.nan, math.nan, f"none: {why}")


ROUNDING = 1e-12
"""A standard error that is smaller than this share of the mean is rounding, and says nothing about spread."""


def crossed_interval(
    d_SN: ArrayLike | Sequence[ArrayLike], level: float = 0.95, nested: bool = False, scale: str = "identity"
) -> Interval:
    """Interval for the mean of paired per-example differences d [S, N], seeds and examples crossed.

    With row means r, column means c and residuals e of d: v_s = var(r) / S, v_e = var(c) / N, v_r = var(e) / (S N),
    v = max(v_s + v_e - v_r, v_s, v_e), and the limits are mean +- t sqrt(v) with Satterthwaite's (1946) degrees of
    freedom v^2 / (v_s^2 / (S - 1) + v_e^2 / (N - 1)). One seed leaves the examples alone; one example, the seeds alone.

    Args:
        d_SN: differences [S, N]; with `nested` also S rows of unequal lengths.
        nested: each seed has test examples of its own, so that seeds are the only independent units.
        scale: "logit" for an accuracy and "log" for a positive quantity: the limits are symmetric on that scale, where
            few errors among the examples do less harm. With no error at all, N right answers bound the accuracy.

    Returns:
        The interval. A difference that is not finite gives NaN limits and a method that says so.
    """
    if scale not in SCALES:
        raise ValueError(f"a scale is one of {', '.join(SCALES)}, not {scale!r}")
    return _on_scale(_crossed(d_SN, level, nested), scale, level)


SCALES = ("identity", "log", "logit")


def _on_scale(found: Interval, scale: str, level: float) -> Interval:
    m, N = found.mean, found.n_examples
    if scale == "logit" and m in (0.0, 1.0) and N > 1:
        edge = ((1 - level) / 2) ** (1 / N)
        low, high = (edge, 1.0) if m == 1.0 else (0.0, 1 - edge)
        return replace(found, low=low, high=high, method=f"exact over {N} examples, all the same")
    if scale == "identity" or math.isnan(found.low) or found.high == found.low:
        return found
    half = (found.high - found.low) / 2
    if scale == "log" and m > 0:
        factor = math.exp(min(half / m, 700.0))
        return replace(found, low=m / factor, high=m * factor)
    if scale == "logit" and 0 < m < 1:
        factor = math.exp(min(half / (m * (1 - m)), 700.0))
        low, high = m / (m + (1 - m) * factor), m / (m + (1 - m) / factor)
        return replace(found, low=low, high=high)
    return found


def _crossed(d_SN: ArrayLike | Sequence[ArrayLike], level: float, nested: bool) -> Interval:
    rows = _rows(d_SN)
    if not len(rows) or not all(map(len, rows)):
        raise ValueError("an interval needs at least one seed and one example")
    n = len(rows)
    N = round(sum(map(len, rows)) / n)
    if not nested and len({len(row) for row in rows}) > 1:
        raise ValueError("crossed seeds need the same examples: rows differ in length; use nested=True")
    r_S = rows.mean(1) if isinstance(rows, np.ndarray) else np.array([row.mean() for row in rows])
    mean = float(r_S.mean())
    if not np.isfinite(r_S).all() and (bad := sum(int((~np.isfinite(row)).sum()) for row in rows)):
        return no_interval(mean, n, N, f"{bad} values are not finite")
    if n == 1 and N == 1:
        return no_interval(mean, n, N, "one seed and one example")
    if n == 1:
        return t_interval(mean, rows[0].var(ddof=1) / N, N - 1, level, n, N, "t over examples, one seed")
    if nested or N == 1:
        return t_interval(mean, r_S.var(ddof=1) / n, n - 1, level, n, N, "t over seeds")
    d = np.asarray(rows)
    v, df = pool(variances(d, d), n, N)
    return t_interval(mean, v, df, level, n, N, "t, seeds and examples crossed")


def _rows(d_SN: ArrayLike | Sequence[ArrayLike]) -> Array | list[Array]:
    """Differences as one array where they are one already, else row by row."""
    if getattr(d_SN, "ndim", 0) == 2:
        return np.asarray(d_SN, np.float64)
    return [np.asarray(row, np.float64).reshape(-1) for row in cast("Sequence[ArrayLike]", d_SN)]


def variances(a_SN: Array, b_SN: Array) -> Array:
    """(v_s, v_e, v_r) of `crossed_interval` for the covariance of two means [3]; with a = b, their variances."""
    n, N = a_SN.shape
    a, b = a_SN - a_SN.mean(), b_SN - b_SN.mean()
    seeds = float(a.mean(1) @ b.mean(1))
    examples = float(a.mean(0) @ b.mean(0))
    residual = float(np.vdot(a, b)) - N * seeds - n * examples
    # One row or one column leaves nothing to estimate that source from.
    parts = (seeds / n, n - 1), (examples / N, N - 1), (residual / (n * N), (n - 1) * (N - 1))
    return np.array([value / df if df else 0.0 for value, df in parts])


def pool(v: Array, n: int, N: int) -> tuple[float, float]:
    """Variance of a mean from its (v_s, v_e, v_r), and Satterthwaite's degrees of freedom."""
    v_s, v_e, v_r = (float(part) for part in v)
    total = max(v_s + v_e - v_r, v_s, v_e)
    below = v_s**2 / max(n - 1, 1) + v_e**2 / max(N - 1, 1)
    return total, total**2 / below if total > 0 else math.nan


def t_interval(mean: float, v: float, df: float, level: float, n: int, N: int, method: str) -> Interval:
    """mean +- t sqrt(v)."""
    if v == 0 and mean == 0:
        return Interval(mean, mean, mean, n, N, float(df), 1.0, method)
    if v <= (ROUNDING * mean) ** 2:
        return no_interval(mean, n, N, "all values are the same")
    from scipy.special import stdtr, stdtrit

    half = float(stdtrit(df, (1 + level) / 2)) * math.sqrt(v)
    p = float(2 * stdtr(df, -abs(mean) / math.sqrt(v)))
    return Interval(mean, mean - half, mean + half, n, N, float(df), p, method)


def simultaneous(
    differences: Sequence[ArrayLike | Sequence[ArrayLike]], level: float = 0.95, nested: bool = False
) -> list[Interval]:
    """Intervals of several arms' differences [S, N] that hold all at once, so also for the arm that looks best.

    Each is a `crossed_interval` at level 1 - (1 - level) / A, and its p-value is A times as large (Bonferroni): valid
    whatever the arms' correlation, hence after any choice among them on the same data.
    """
    share = 1 - (1 - level) / max(len(differences), 1)
    found = [crossed_interval(d, share, nested) for d in differences]
    method = f"simultaneous over {len(found)}"
    return [replace(i, p=float(np.minimum(1.0, len(found) * i.p)), method=f"{i.method}, {method}") for i in found]


def holm(p: ArrayLike) -> Array:
    """Holm's (1979) step-down adjusted p-values of a family, in the given order.

    A NaN stays NaN and still counts as a member, which can only make the others larger.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    out = np.empty_like(values)
    out[order] = adjusted
    return out


EQUAL, DIFFERS, UNDECIDED = "equal within margin", "differs", "undecided"


def equivalence(interval: Interval, margin: float) -> str:
    """What an interval says of a difference, given the largest one that does not matter.

    EQUAL when the interval lies strictly inside (-margin, margin): two one-sided tests, each at half the interval's
    error (Schuirmann, 1987), so that a small difference is "equal" even when it is surely not 0. Else DIFFERS when it
    leaves 0 out, else UNDECIDED, as without an interval.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"a margin is a positive number, not {margin}")
    if -margin < interval.low and interval.high < margin:
        return EQUAL
    return DIFFERS if interval.low > 0 or interval.high < 0 else UNDECIDED
