"""Functions of many means at once, such as where a curve of them is lowest: resampled together, read off each time."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array
from calib_bench.inference.bootstrap import seed_shares, weights, widening
from calib_bench.inference.interval import ROUNDING, Interval, no_interval


class Resampled(NamedTuple):
    """Means over seeds and examples.

    Attributes:
        means_A: of A quantities.
        drawn_BA: the same in each of B resamples.
        n_seeds, n_examples: that they are over.
    """

    means_A: Array
    drawn_BA: Array
    n_seeds: int
    n_examples: int


def resampled_means(
    values_SNA: ArrayLike, seeds_SC: ArrayLike | None = None, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> Resampled:
    """Means of A quantities over crossed seeds and examples, in the data and in resamples of both.

    One resample draws the same seeds and examples for every quantity. The spread over seeds is widened by
    sqrt(S / (S - 1)) t / z, as in `crossed_bootstrap`. Where each seed has examples of its own, give row means,
    [S, 1, A].

    Args:
        values_SNA: per-example values; a quantity with any that is not finite has mean and resamples inf.
        seeds_SC: C further quantities that each seed has one of, resampled with the others, after them.
        n_boot: resamples B.
        seed: of the resamples.
        level: at which intervals will be read off.
    """
    values = np.asarray(values_SNA, np.float64)
    S, N = values.shape[:2]
    of_seeds = np.zeros((S, 0)) if seeds_SC is None else np.asarray(seeds_SC, np.float64)
    columns = values
    if of_seeds.size:
        columns = np.concatenate([values.reshape(S, N, -1), np.repeat(of_seeds[:, None], N, 1)], 2)
    lost_A = ~np.isfinite(columns).all((0, 1))
    columns = np.where(lost_A, 0.0, columns)
    seeds_BS = seed_weights(S, n_boot, seed, level)
    drawn = np.zeros((n_boot, columns.shape[2]))
    start = 0
    for w_BN in weights(n_boot, N, seed) if N > 1 else [np.ones((n_boot, 1))]:
        part = slice(start, start := start + len(w_BN))
        for s in range(S):
            drawn[part] += seeds_BS[part, s, None] * (w_BN @ columns[s]) / N
    means = columns.mean((0, 1))
    means[lost_A] = drawn[:, lost_A] = math.inf
    return Resampled(means, drawn, S, N)


def seed_weights(S: int, n_boot: int, seed: int, level: float) -> Array:
    """Weights [B, S] that sum to 1 along each row, as far from 1 / S as a t interval on seeds is wide."""
    if S == 1:
        return np.ones((n_boot, 1))
    return 1 / S + widening(S, level) * (seed_shares(S, n_boot, seed) - 1 / S)


def percentile(value: float, drawn_B: ArrayLike, of: Resampled, level: float = 0.95, null: float = 0.0) -> Interval:
    """The percentile interval of a function of resampled means; `p` is that of its being `null`.

    For the place of an optimum, whose distribution is confined to what was tried, percentiles stay within that.

    Args:
        value: of the function, in the data.
        drawn_B: in each resample; one that is not finite leaves no interval, nor do resamples that differ by rounding.
        of: the means that it is a function of.
    """
    drawn = np.asarray(drawn_B, np.float64)
    if not (math.isfinite(value) and np.isfinite(drawn).all()):
        return no_interval(value, of.n_seeds, of.n_examples, "not every resample has a value")
    if np.ptp(drawn) <= ROUNDING * max(1.0, abs(value)):
        return no_interval(value, of.n_seeds, of.n_examples, "the same in every resample")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    tail = min((drawn >= null).sum(), (drawn <= null).sum())
    p = min(1.0, 2 * (1 + float(tail)) / (1 + len(drawn)))
    what = "seeds and examples crossed" if of.n_examples > 1 and of.n_seeds > 1 else "examples, one seed"
    method = f"percentile bootstrap, {'seeds' if of.n_examples == 1 else what}"
    return Interval(
        value, float(min(low, value)), float(max(high, value)), of.n_seeds, of.n_examples, math.nan, p, method
    )
