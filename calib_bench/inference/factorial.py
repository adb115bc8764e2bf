"""Two crossed factors over the same seeds: whose variance it is, and whether a factor has any effect."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import Interval, no_interval
from calib_bench.inference.selection import choice_variance, widened

PARTS = 4
SUMS = ([0], [1], [2], [3], [1, 2], [0, 2])
"""Which parts each share of `VarianceShares` adds up, in its order."""


class VarianceShares(NamedTuple):
    """Shares of the variance of one result: of a random cell of the layout, on a random seed. They sum to 1.

    Attributes:
        first, second, interaction: of the main effects, and of what they do not add up to; noise can make one negative.
        seed: of the seed, within cells: common to all cells or not.
        p_first: that the first factor has no effect at any level of the second.
        p_second: the other way round.
        second_given_first: second + interaction: all that the second factor does at given levels of the first, which
            `p_second` tests.
        first_given_second: the other way round.
    """

    first: Interval
    second: Interval
    interaction: Interval
    seed: Interval
    p_first: float
    p_second: float
    second_given_first: Interval
    first_given_second: Interval


def variance_shares(
    values_ABS: ArrayLike, level: float = 0.95, draws: int = 9999, seed: int = 0, choice: ArrayLike | None = None
) -> VarianceShares:
    """Variance shares of two factors, say beta and objective, each combination trained on the same S seeds.

    An effect's component is its mean square over the layout less 1 / S of its variance between seeds (mean over the
    layout), which is unbiased whatever the cells of a seed have in common (the idea of omega squared; Olejnik & Algina,
    2003). The seed's is the variance between seeds, mean over cells.

    Limits come from the jackknife over seeds with t_{S-1}: of the share and, where every one lies inside (0, 1), of its
    log odds; the union of both, standard errors times S / (S - 1), within [0, 1]. P-values are of a permutation test of
    the factor's levels within seeds, jointly over the other factor, with the effect's mean square as statistic; the
    least possible is about 1 / (A!)^(S - 1).

    Args:
        values_ABS: one result per level of the first factor, level of the second, and seed.
        draws: random permutations.
        choice: [A, B, V, D, T], by how much other choices would change the mean of each cell, see `choice_variance`, of
            T seeds: the variance that this adds to a share, to first order, is added. P-values take choices as made.
    """
    values = np.asarray(values_ABS, np.float64)
    A, B, S = values.shape
    p_first, p_second = (permutation_p(y, draws, seed) for y in (values, values.swapaxes(0, 1)))
    if not np.isfinite(values).all() or S < 2:
        why = f"{S} seeds" if S < 2 else f"{int((~np.isfinite(values)).sum())} values are not finite"
        nothing = no_interval(math.nan, S, A * B, why)
        return VarianceShares(nothing, nothing, nothing, nothing, p_first, p_second, nothing, nothing)
    full, without = _shares(values), np.array([_shares(np.delete(values, s, -1)) for s in range(S)] if S > 2 else [])
    intervals = []
    for of in SUMS:
        interval = _jackknife(full[of].sum(), without[:, of].sum(1) if S > 2 else None, level, S, A * B)
        if choice is not None:
            moves = np.einsum("ab,abvdt->vdt", _slopes(values)[of].sum(0), np.asarray(choice, np.float64))
            interval = _widened(interval, moves, level)
        intervals.append(interval)
    first, second, both, rest, within_first, within_second = intervals
    return VarianceShares(first, second, both, rest, p_first, p_second, within_first, within_second)


def _shares(y_ABS: Array) -> Array:
    """Shares [4] in the order of `VarianceShares`; NaN where nothing varies."""
    S = y_ABS.shape[-1]
    grand = y_ABS.mean((0, 1), keepdims=True)
    first = y_ABS.mean(1, keepdims=True) - grand
    second = y_ABS.mean(0, keepdims=True) - grand
    effects = (first, second, y_ABS - grand - first - second)
    parts = [np.square(e.mean(-1)).mean() - e.var(-1, ddof=1).mean() / S for e in effects]
    parts.append(y_ABS.var(-1, ddof=1).mean())
    total = float(np.sum(parts))
    return np.array(parts) / total if total > 0 else np.full(PARTS, math.nan)


def _slopes(y_ABS: Array) -> Array:
    """[4, A, B]: derivatives of `_shares` by the cells' means; NaN where nothing varies.

    A component of variance is the mean square of a projection of the means, less what does not depend on them.
    """
    shares, mean = _shares(y_ABS), y_ABS.mean(-1)
    first = mean.mean(1, keepdims=True) - mean.mean() + 0 * mean
    second = mean.mean(0, keepdims=True) - mean.mean() + 0 * mean
    projections = np.stack([first, second, mean - mean.mean() - first - second, 0 * mean])
    # The scale of the shares is their sum: of components, the variance of a random cell on a random seed.
    total = y_ABS.var(-1, ddof=1).mean() / shares[3] if shares[3] else math.nan
    return np.asarray(2 / mean.size / total * (projections - shares[:, None, None] * projections.sum(0)), np.float64)


def _widened(share: Interval, moves_VDT: Array, level: float) -> Interval:
    """The share's interval with a choice counted, within [0, 1]."""
    if not np.isfinite(moves_VDT).all():
        return share
    interval = widened(share, choice_variance(moves_VDT), level)
    if not math.isfinite(interval.low):
        return interval
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def _jackknife(value: float, without_S: Array | None, level: float, S: int, cells: int) -> Interval:
    if without_S is None or not math.isfinite(value) or not np.isfinite(without_S).all():
        return no_interval(float(value), S, cells, "three seeds are needed" if S < 3 else "nothing varies")
    from scipy.special import expit, logit, stdtrit

    t = float(stdtrit(S - 1, (1 + level) / 2)) * S / (S - 1)

    def half(values_S: Array) -> float:
        return t * math.sqrt((S - 1) / S * np.square(values_S - values_S.mean()).sum())

    low, high = value - half(without_S), value + half(without_S)
    if min(value, without_S.min()) > 0 and max(value, without_S.max()) < 1:
        centre, odds = float(logit(value)), half(logit(without_S))
        low, high = min(low, float(expit(centre - odds))), max(high, float(expit(centre + odds)))
    method = "jackknife over seeds"
    return Interval(float(value), max(low, 0.0), min(max(high, 0.0), 1.0), S, cells, S - 1, math.nan, method)


def permutation_p(y_ABS: Array, draws: int = 9999, seed: int = 0) -> float:
    """P-value of no effect of the first axis at any level of the second, see `variance_shares`; NaN of fewer than two
    seeds, or where a value is not finite."""
    A, _, S = y_ABS.shape
    if not np.isfinite(y_ABS).all() or S < 2:
        return math.nan
    drawn = np.take_along_axis(y_ABS[None], _orders(draws, A, S, seed), 1)
    null_DB, seen_B = (y.mean(-1).var(-2) for y in (drawn, y_ABS))
    # A hair of slack, for equality that summation order breaks.
    seen = (seen_B - 1e-9 * seen_B).sum()
    return float((1 + (null_DB.sum(-1) >= seen).sum()) / (1 + draws))


@lru_cache(maxsize=2)
def _orders(draws: int, A: int, S: int, seed: int) -> NDArray[np.int64]:
    """Random orders of A levels within S seeds [draws, A, 1, S]: many layouts of one shape are tested."""
    return np.random.default_rng(seed).random((draws, A, 1, S)).argsort(1)
