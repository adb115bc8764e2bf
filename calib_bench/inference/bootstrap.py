"""The crossed bootstrap: any statistic of seeds and examples that is not a mean over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import Interval, no_interval

Statistic = Callable[..., Any]
"""(weights w [B, N] that sum to N along each row, arrays [S, N, ...]...) -> values [B, S], by resample and seed."""

BLOCK = 1 << 22
"""Weights held as floats at a time."""


def crossed_bootstrap(
    statistic: Statistic, *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Basic bootstrap interval of a statistic's mean over seeds, resampling seeds and examples independently.

    One resample draws the same examples for every seed and the same seeds for every arm, so a difference between arms
    is a statistic that takes both arms' arrays. With one seed only examples are resampled. Every call with the same
    `n_boot`, `seed` and N sees the same resamples.

    The spread over seeds is widened by sqrt(S / (S - 1)) t / z, t the Student and z the normal quantile: a resample of
    few seeds spreads less than fresh seeds do.

    Args:
        statistic: see `Statistic`; it is also called with weights of one for the estimate itself.
        arrays: [S, N, ...], the same S and N.
    """
    data = [np.asarray(a) for a in arrays]
    S, N = data[0].shape[:2]
    value_S = np.asarray(statistic(np.ones((1, N)), *data))[0]
    if not np.isfinite(value_S).all():
        return no_interval(float(value_S.mean()), S, N, "the statistic is not finite")
    value_BS = np.concatenate([np.asarray(statistic(w_BN, *data)) for w_BN in weights(n_boot, N, seed)])
    return basic(value_S, value_BS, N, seed, level)


def basic(
    value_S: Array, value_BS: Array, N: int, seed: int, level: float, below: float = 0.0, above: float = 0.0
) -> Interval:
    """The interval from a statistic's values on the data [S] and on resampled examples [B, S].

    Args:
        below, above: by how much more the estimate may be biased upwards, and downwards, than its resamples show.
    """
    n_boot, S = value_BS.shape
    mean = float(value_S.mean())
    seeds_BS = seed_shares(S, n_boot, seed)
    deviation_B = widening(S, level) * (seeds_BS @ value_S - value_S.mean()) if S > 1 else np.zeros(n_boot)
    deviation_B += (seeds_BS * (value_BS - value_S)).sum(1)
    if not deviation_B.any():
        below = above = 0.0
    high, low = np.quantile(deviation_B, [(1 + level) / 2, (1 - level) / 2])
    tail = min((deviation_B + below >= mean).sum(), (deviation_B - above <= mean).sum())
    p = min(1.0, 2 * (1 + float(tail)) / (1 + n_boot))
    method = "basic bootstrap of examples, one seed" if S == 1 else "basic bootstrap, seeds and examples crossed"
    return Interval(mean, mean - float(high) - below, mean - float(low) + above, S, N, math.nan, p, method)


def weights(n_boot: int, N: int, seed: int, dtype: type = np.float64) -> Iterator[Any]:
    """How often each of N examples is drawn in N draws, in blocks [B, N] of all `n_boot` resamples."""
    counts_BN = _counts(n_boot, N, seed)
    for start in range(0, n_boot, step := max(1, BLOCK // N)):
        yield counts_BN[start : start + step].astype(dtype)


@lru_cache(maxsize=1)
def _counts(n_boot: int, N: int, seed: int) -> NDArray[np.uint8]:
    # A count above 255 has probability below 1e-500 for any N that would fit in memory.
    rng = np.random.default_rng(seed)
    counts_BN = np.empty((n_boot, N), np.uint8)
    for start in range(0, n_boot, step := max(1, BLOCK // N)):
        counts_BN[start : start + step] = resample(rng, min(step, n_boot - start), N)
    counts_BN.flags.writeable = False
    return counts_BN


def resample(rng: np.random.Generator, n_boot: int, n: int) -> NDArray[np.int64]:
    """How often each of n units is drawn in n draws: [n_boot, n]."""
    drawn = rng.integers(0, n, size=(n_boot, n))
    drawn += n * np.arange(n_boot)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_boot * n).reshape(n_boot, n)


def seed_shares(S: int, n_boot: int, seed: int) -> Array:
    """Which share of the seeds drawn each of S is, [n_boot, S].

    They are drawn from a stream of their own, so that examples can be drawn once for any number of seeds.
    """
    return resample(np.random.default_rng((seed, S)), n_boot, S) / S


def widening(S: int, level: float) -> float:
    """How much further than their resamples S > 1 seeds deviate, at the spread that a t interval on them would have."""
    from scipy.special import ndtri, stdtrit

    return math.sqrt(S / (S - 1)) * float(stdtrit(S - 1, (1 + level) / 2) / ndtri((1 + level) / 2))
