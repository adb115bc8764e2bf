"""Intervals and tests: what a difference between arms, or a calibration error, is worth.

Arms are paired by seed and share the test examples, so per-example differences have two crossed sources of variance.
Means over examples take `crossed_interval`; binned statistics take `crossed_bootstrap` and, against perfect
calibration, `ece_null`. Everything is a pure function of its arguments, seeds included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

BINS = 15


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits.

    Attributes:
        mean: the estimate, a mean over seeds (and examples).
        low, high: confidence limits; NaN when there is no interval.
        n_seeds, n_examples: seeds, and examples per seed (their mean number, rounded, when seeds differ).
        df: degrees of freedom of the t distribution; NaN for the bootstrap.
        p: two-sided p-value of the estimated quantity being 0; NaN when there is no interval.
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


ROUNDING = 1e-12
"""A standard error that is smaller than this share of the mean is rounding, and says nothing about spread."""


def crossed_interval(d_SN: ArrayLike | Sequence[ArrayLike], level: float = 0.95, nested: bool = False) -> Interval:
    """Interval for the mean of paired per-example differences d [S, N], seeds and examples crossed.

    With row means r, column means c and residuals e of d: v_s = var(r) / S, v_e = var(c) / N, v_r = var(e) / (S N),
    v = max(v_s + v_e - v_r, v_s, v_e), and the limits are mean +- t sqrt(v) with Satterthwaite's (1946) degrees of
    freedom v^2 / (v_s^2 / (S - 1) + v_e^2 / (N - 1)). One seed leaves the examples alone; one example, the seeds alone.

    Args:
        d_SN: differences [S, N]; with `nested` also S rows of unequal lengths.
        nested: each seed has test examples of its own, so that seeds are the only independent units.

    Returns:
        The interval. A difference that is not finite gives NaN limits and a method that says so.
    """
    rows = [np.asarray(row, np.float64).reshape(-1) for row in cast("Sequence[ArrayLike]", d_SN)]
    if not rows or not all(len(row) for row in rows):
        raise ValueError("an interval needs at least one seed and one example")
    n = len(rows)
    N = round(sum(map(len, rows)) / n)
    if not nested and len({len(row) for row in rows}) > 1:
        raise ValueError("crossed seeds need the same examples: rows differ in length; use nested=True")
    r_S = np.array([row.mean() for row in rows])
    mean = float(r_S.mean())
    if not all(np.isfinite(row).all() for row in rows):
        bad = sum(int((~np.isfinite(row)).sum()) for row in rows)
        return Interval(mean, math.nan, math.nan, n, N, math.nan, math.nan, f"none: {bad} values are not finite")
    if n == 1 and N == 1:
        return Interval(mean, math.nan, math.nan, n, N, math.nan, math.nan, "none: one seed and one example")
    if n == 1:
        return _t_interval(mean, rows[0].var(ddof=1) / N, N - 1, level, n, N, "t over examples, one seed")
    v_s = r_S.var(ddof=1) / n
    if nested or N == 1:
        return _t_interval(mean, v_s, n - 1, level, n, N, "t over seeds")
    d = np.stack(rows)
    c_N = d.mean(0)
    e_SN = d - r_S[:, None] - c_N + mean
    v_e = c_N.var(ddof=1) / N
    v_r = np.square(e_SN).sum() / ((n - 1) * (N - 1)) / (n * N)
    v = max(v_s + v_e - v_r, v_s, v_e)
    df = v**2 / (v_s**2 / (n - 1) + v_e**2 / (N - 1)) if v > 0 else math.nan
    return _t_interval(mean, v, df, level, n, N, "t, seeds and examples crossed")


def _t_interval(mean: float, v: float, df: float, level: float, n: int, N: int, method: str) -> Interval:
    if v == 0 and mean == 0:
        return Interval(mean, mean, mean, n, N, float(df), 1.0, method)
    if v <= (ROUNDING * mean) ** 2:
        return Interval(mean, math.nan, math.nan, n, N, math.nan, math.nan, "none: all values are the same")
    from scipy.special import stdtr, stdtrit

    half = float(stdtrit(df, (1 + level) / 2)) * math.sqrt(v)
    p = float(2 * stdtr(df, -abs(mean) / math.sqrt(v)))
    return Interval(mean, mean - half, mean + half, n, N, float(df), p, method)


Statistic = Callable[..., Any]
"""(weights w [B, N] that sum to N along each row, arrays [S, N, ...]...) -> values [B, S], by resample and seed."""


def crossed_bootstrap(
    statistic: Statistic, *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Basic bootstrap interval of a statistic's mean over seeds, resampling seeds and examples independently.

    One resample draws the same examples for every seed and the same seeds for every arm, so a difference between arms
    is a statistic that takes both arms' arrays. With one seed only examples are resampled.

    The spread over seeds is widened by sqrt(S / (S - 1)) t / z, t the Student and z the normal quantile: a resample of
    few seeds spreads less than fresh seeds do.

    Args:
        statistic: see `Statistic`; it is also called with weights of one for the estimate itself.
        arrays: [S, N, ...], the same S and N.
    """
    data = [np.asarray(a) for a in arrays]
    S, N = data[0].shape[:2]
    value_S = np.asarray(statistic(np.ones((1, N)), *data))[0]
    mean = float(value_S.mean())
    if not np.isfinite(value_S).all():
        return Interval(mean, math.nan, math.nan, S, N, math.nan, math.nan, "none: the statistic is not finite")
    rng = np.random.default_rng(seed)
    seeds_BS = _resample(rng, n_boot, S) / S
    draws = []
    for start in range(0, n_boot, step := max(1, (1 << 22) // N)):
        w_BN = _resample(rng, min(step, n_boot - start), N)
        draws.append(np.asarray(statistic(w_BN, *data)))
    value_BS = np.concatenate(draws)
    deviation_B = _widen(seeds_BS, value_S, level) + (seeds_BS * (value_BS - value_S)).sum(1)
    low, high = np.quantile(deviation_B, [(1 + level) / 2, (1 - level) / 2])
    tail = min((deviation_B >= mean).sum(), (deviation_B <= mean).sum())
    p = min(1.0, 2 * (1 + float(tail)) / (1 + n_boot))
    method = "basic bootstrap of examples, one seed" if S == 1 else "basic bootstrap, seeds and examples crossed"
    return Interval(mean, mean - float(low), mean - float(high), S, N, math.nan, p, method)


def _resample(rng: np.random.Generator, n_boot: int, n: int) -> Array:
    """How often each of n units is drawn in n draws: [n_boot, n]."""
    drawn = rng.integers(0, n, size=(n_boot, n))
    drawn += n * np.arange(n_boot)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_boot * n).reshape(n_boot, n).astype(np.float64)


def _widen(seeds_BS: Array, value_S: Array, level: float) -> Array:
    """Deviation [B] due to the seeds, at the spread that a t interval on them would have."""
    from scipy.special import ndtri, stdtrit

    S = len(value_S)
    if S == 1:
        return np.zeros(len(seeds_BS))
    factor = math.sqrt(S / (S - 1)) * float(stdtrit(S - 1, (1 + level) / 2) / ndtri((1 + level) / 2))
    return factor * (seeds_BS @ value_S - value_S.mean())


def ece_interval(
    confidence_SN: ArrayLike,
    correct_SN: ArrayLike,
    other: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    bins: int = BINS,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval for the mean over seeds of the top-label ECE, or for its difference from another arm's.

    Args:
        confidence_SN, correct_SN: the arm's confidences in [0, 1] and whether the top label was right, [S, N].
        other: (confidence, correct) of the arm to subtract, same seeds and examples.

    The ECE is biased upwards, about equally in both arms of a difference; quote `ece_null` beside it.
    """
    arms = [(confidence_SN, correct_SN), *([other] if other else [])]
    gaps = [_gaps(np.asarray(c, np.float64), np.asarray(h, np.float64), bins) for c, h in arms]

    def statistic(w_BN: Array, *gaps_SNb: Array) -> Array:
        first, *second = [np.abs(np.tensordot(w_BN, gap, (1, 1))).sum(-1) / gap.shape[1] for gap in gaps_SNb]
        return first - second[0] if second else first

    return crossed_bootstrap(statistic, *gaps, n_boot=n_boot, seed=seed, level=level)


def _gaps(confidence_SN: Array, correct_SN: Array, bins: int) -> Array:
    """confidence - correct in the column of its bin, zero elsewhere: [S, N, bins]."""
    import torch

    from calib_bench.metrics.binned import equal_width

    gaps = np.zeros((*confidence_SN.shape, bins))
    index = equal_width(torch.tensor(confidence_SN), bins).numpy()[..., None]
    np.put_along_axis(gaps, index, (confidence_SN - correct_SN)[..., None], -1)
    return gaps


def ece_null(
    logp: Tensor, y: Tensor | None = None, draws: int = 1000, seed: int = 0, bins: int = BINS
) -> tuple[float, float]:
    """What ECE a perfectly calibrated model with these confidences would show, and how unusual the observed one is.

    Consistency resampling (Broecker & Smith, 2007; Vaicenavicius et al., 2019): the correctness of each top label is
    redrawn as a coin with its confidence, the confidences staying as they are.

    Args:
        logp: logits or log probabilities [N, K].
        y: labels [N]; without them the p-value is NaN.

    Returns:
        Mean of the null ECE, and the one-sided p-value (1 + #{null >= observed}) / (1 + draws).
    """
    from calib_bench.metrics.scores import confidence_n, top_label

    if y is None:
        return ece_null_of(confidence_n(logp).numpy(force=True), None, draws, seed, bins)
    confidence, correct = top_label(logp, y)
    return ece_null_of(confidence.numpy(force=True), correct.numpy(force=True), draws, seed, bins)


def ece_null_of(
    confidence_N: ArrayLike, correct_N: ArrayLike | None, draws: int = 1000, seed: int = 0, bins: int = BINS
) -> tuple[float, float]:
    """`ece_null` from confidences and whether each top label was right, both [N]."""
    confidence = np.asarray(confidence_N, np.float64)
    N = len(confidence)
    gaps_Nb = _gaps(confidence[None], np.zeros((1, N)), bins)[0]
    bin_Nb = (_gaps(confidence[None], confidence[None] - 1, bins)[0]).astype(np.float32)
    expected_b = gaps_Nb.sum(0)
    rng = np.random.default_rng(seed)
    null = []
    for start in range(0, draws, step := max(1, (1 << 21) // N)):
        u = rng.random((min(step, draws - start), N), dtype=np.float32)
        # Counts below 2^24 are exact in float32.
        null.append(np.abs((u < confidence).astype(np.float32) @ bin_Nb - expected_b).sum(1) / N)
    null_D = np.concatenate(null)
    if correct_N is None:
        return float(null_D.mean()), math.nan
    observed = np.abs(bin_Nb.T @ np.asarray(correct_N, np.float64) - expected_b).sum() / N
    # A hair of slack, for equality that summation order breaks.
    p = (1 + (null_D >= observed - 1e-12).sum()) / (1 + draws)
    return float(null_D.mean()), float(p)


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
