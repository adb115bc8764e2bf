"""Intervals of binned calibration errors, which are biased upwards, and what a calibrated model would show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calib_bench.inference.arrays import Array, SeedRows, seed_pairs
from calib_bench.inference.bootstrap import basic, weights
from calib_bench.inference.interval import Interval, crossed_interval, no_interval
from calib_bench.inference.scores import with_doubt, within
from calib_bench.metrics.binned import equal_mass, equal_width
from calib_bench.metrics.scores import confidence_n, top_label

Index = NDArray[np.int64]

BINS = 15


class Binned(NamedTuple):
    """What a binned error is made of: mean over classes of sum_b |sum of gaps in bin b| / N.

    Attributes:
        gap: probability less outcome, [N] or [N, K] for one seed.
        index: the bin of each, the same shape.
    """

    gap: Array
    index: Index  # type: ignore[assignment]


def binned_interval(
    arm: Sequence[Binned],
    other: Sequence[Binned] | None = None,
    *,
    bins: int = BINS,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    nested: bool = False,
) -> Interval:
    """Interval for the mean over seeds of a binned error, or for its difference from another arm's.

    A binned error sums |G_b|, G_b the sum of gaps in a bin with standard error s_b, and so is biased upwards by
    b(g) = E|N(g, s)| - |g|, g the unknown truth. A basic bootstrap takes off b(G), too little on average, since G is
    more spread out than g: alone it covers .6 of the time near calibration. So the lower limit takes off
    b(sqrt(max(G^2 - s^2, 0))) instead, or b(0) where calibration would explain the arm's error (the lower limit of an
    arm alone is then 0), and the upper limit of an arm alone takes off b(G) / 2. In a difference the arms' corrections
    extend the side that they threaten. Bins are those of the data: their edges are not resampled.

    Args:
        arm, other: one `Binned` a seed, the same seeds and examples in both.
        nested: each seed has test examples of its own (of any number): a t interval over seeds, extended likewise.
    """
    arms = [arm] if other is None else [arm, other]
    sums = [[_sums(one, bins) for one in seeds] for seeds in arms]
    value_S = _less(list(map(_errors, sums)))
    N = round(float(np.mean([one.n for one in sums[0]])))
    if not np.isfinite(value_S).all():
        return no_interval(float(value_S.mean()), len(value_S), N, "the statistic is not finite")
    bias = list(map(_bias, sums))
    below, above = _corrections(bias, nested)
    if nested:
        interval = _extended(crossed_interval(value_S[:, None], level), N, below, above)
    else:
        value_BS = np.zeros((n_boot, len(arm))) if _same(arms) else _less(_resampled(arms, bins, n_boot, seed))
        interval = basic(value_S, value_BS, N, seed, level, below, above)
    return interval if other is not None else _positive(interval, bias[0].explains)


def _errors(seeds: list[_Sums]) -> Array:
    return np.array([one.error for one in seeds])


def _corrections(bias: list[_Bias], nested: bool) -> tuple[float, float]:
    """How far the limits go beyond those that resamples, or with `nested` seeds, give: below and above."""
    arm, *other = bias
    if nested:
        return arm.most, other[0].most if other else 0.0
    return arm.most - arm.seen, other[0].most - other[0].seen if other else arm.seen / 2


def _same(arms: list[Sequence[Binned]]) -> bool:
    """Whether two arms have the same gaps."""
    return len(arms) > 1 and all(np.array_equal(a.gap, b.gap) for a, b in zip(*arms, strict=True))


def _positive(interval: Interval, explains: bool) -> Interval:
    """The interval of one arm's error, cut at 0; down to 0 where calibration would explain the error."""
    if math.isnan(interval.low):
        return interval
    low = 0.0 if explains else max(interval.low, 0.0)
    return replace(interval, low=low, high=max(interval.high, low))


def _less(values: list[Array]) -> Array:
    return values[0] - values[1] if len(values) > 1 else values[0]


class _Sums(NamedTuple):
    """One seed: G and s [K, bins], the number of examples, the binned error."""

    total: Array
    spread: Array
    n: int
    error: float


def _sums(one: Binned, bins: int) -> _Sums:
    gap = np.asarray(one.gap, np.float64).reshape(len(one.gap), -1)
    n, K = gap.shape
    cell = (np.asarray(one.index).reshape(n, K) + bins * np.arange(K)).ravel()
    total, square = (np.bincount(cell, v.ravel(), bins * K).astype(np.float64).reshape(K, bins) for v in (gap, gap**2))
    spread = np.sqrt(np.maximum(square - total**2 / n, 0.0))
    return _Sums(total, spread, n, float(np.abs(total).sum() / (n * K)))


class _Bias(NamedTuple):
    """Of an arm's error, mean over seeds: the bias that its resamples show, the most that it may have, and whether
    calibration would explain the error."""

    seen: float
    most: float
    explains: bool


def _bias(seeds: list[_Sums]) -> _Bias:
    """Errors of a calibrated arm have mean b(0) and standard deviation sqrt((1 - 2 / pi) sum(s^2)) / N at most: seeds
    that share examples are not independent."""

    def mean(f: Callable[[_Sums], Array]) -> float:
        return float(np.mean([f(one).sum() / (one.n * len(one.total)) for one in seeds]))

    null = mean(lambda s: _folded(np.zeros_like(s.total), s.spread))
    deviation = [math.sqrt((1 - 2 / math.pi) * np.square(s.spread).sum()) / (s.n * len(s.total)) for s in seeds]
    explains = float(np.mean([s.error for s in seeds])) <= null + 2 * float(np.mean(deviation))
    seen = mean(lambda s: _folded(s.total, s.spread))
    shrunk = mean(lambda s: _folded(np.sqrt(np.maximum(s.total**2 - s.spread**2, 0.0)), s.spread))
    return _Bias(seen, null if explains else max(shrunk, seen), explains)


def _folded(g: Array, s: Array) -> Array:
    """E|N(g, s)| - |g|."""
    from scipy.special import ndtr

    a = np.abs(g) / np.where(s > 0, s, 1.0)
    return np.where(s > 0, s * (math.sqrt(2 / math.pi) * np.exp(-(a**2) / 2) - 2 * a * ndtr(-a)), 0.0)


def _extended(interval: Interval, N: int, below: float, above: float) -> Interval:
    """A t interval over seeds for an estimate that may be too high by `below` and too low by `above`."""
    if math.isnan(interval.low) or interval.low == interval.high:
        return replace(interval, n_examples=N)
    from scipy.special import stdtr, stdtrit

    nearest = max(interval.mean - below, 0.0) if interval.mean > 0 else max(-interval.mean - above, 0.0)
    error = abs(interval.mean / stdtrit(interval.df, interval.p / 2)) if interval.mean else math.inf
    p = float(2 * stdtr(interval.df, -nearest / error))
    method = f"{interval.method}, extended by the bias"
    return replace(interval, low=interval.low - below, high=interval.high + above, n_examples=N, p=p, method=method)


def _resampled(arms: list[Sequence[Binned]], bins: int, n_boot: int, seed: int) -> list[Array]:
    """By arm, the binned error of every seed on every resample of the examples, [n_boot, S].

    Without classes, resampled sums of bins are drawn from their normal limit, whose covariance is that of resampling,
    between bins, seeds and arms alike: one product of [N, arms x S x bins] with itself instead of `n_boot` resamples.
    """
    sizes = {np.shape(one.gap) for seeds in arms for one in seeds}
    if len(sizes) > 1:
        raise ValueError("crossed seeds need the same examples: rows differ in length; use nested=True")
    (N, *classes) = sizes.pop()
    if classes:
        return [_resampled_classes(seeds, bins, n_boot, seed) for seeds in arms]
    rows = [one for seeds in arms for one in seeds]
    gap_Nrb = np.zeros((N, len(rows), bins))
    for r, one in enumerate(rows):
        gap_Nrb[np.arange(N), r, one.index] = one.gap
    used = gap_Nrb.any(0).ravel()
    gap_Nm = gap_Nrb.reshape(N, -1)[:, used]
    total_m = gap_Nm.sum(0)
    scale_m, axes_mm = np.linalg.eigh(gap_Nm.T @ gap_Nm - np.outer(total_m, total_m) / N)
    normal_Bm = np.random.default_rng(seed).standard_normal((n_boot, len(total_m)))
    sums_Bm = np.zeros((n_boot, len(used)))
    sums_Bm[:, used] = total_m + normal_Bm @ (np.sqrt(scale_m.clip(0))[:, None] * axes_mm.T)
    errors_Br = np.abs(sums_Bm).reshape(n_boot, len(rows), bins).sum(-1) / N
    return np.split(errors_Br, len(arms), axis=1)


CHUNK = 512
"""Columns (seed, class, bin) that are summed by one matrix product."""


def _resampled_classes(seeds: Sequence[Binned], bins: int, n_boot: int, seed: int) -> Array:
    """`_resampled` for gaps [N, K], with resamples proper. Sums are of float32 products."""
    gaps, cells = [one.gap for one in seeds], [one.index for one in seeds]
    N, K = gaps[0].shape
    columns = [(s, k) for s in range(len(seeds)) for k in range(K)]
    out = np.zeros((n_boot, len(seeds)))
    step = max(1, CHUNK // bins)
    for start in range(0, len(columns), step):
        part = columns[start : start + step]
        gap_Nc = np.zeros((N, len(part), bins), np.float32)
        for c, (s, k) in enumerate(part):
            gap_Nc[np.arange(N), c, cells[s][:, k]] = gaps[s][:, k]
        row = 0
        for w_BN in weights(n_boot, N, seed, np.float32):
            sums = np.abs(w_BN @ gap_Nc.reshape(N, -1)).reshape(len(w_BN), len(part), bins).sum(-1, dtype=np.float64)
            for c, (s, _) in enumerate(part):
                out[row : row + len(w_BN), s] += sums[:, c] / (N * K)
            row += len(w_BN)
    return out


def ece_interval(
    confidence_SN: SeedRows,
    correct_SN: SeedRows,
    other: tuple[Any, Any] | None = None,
    *,
    bins: int = BINS,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    nested: bool = False,
    adaptive: bool = False,
) -> Interval:
    """`binned_interval` of the top-label ECE, or of its difference from another arm's; quote `ece_null` beside it.

    With few wrong examples the limits are in doubt, and the interval says so: at 98% accuracy and 200 to 1,000
    examples they cover .83 to .93 of the time.

    Args:
        confidence_SN, correct_SN: the arm's confidences in [0, 1] and whether the top label was right, [S, N]; with
            `nested` also S rows of unequal lengths.
        other: (confidence, correct) of the arm to subtract, same seeds and examples.
        adaptive: bins of equal mass instead of equal width.
    """
    pairs = [(confidence_SN, correct_SN), *([other] if other else [])]
    arms = [_top(c, h, bins, adaptive) for c, h in pairs]
    interval = binned_interval(*arms, bins=bins, n_boot=n_boot, seed=seed, level=level, nested=nested)
    return with_doubt(within(interval, "ece", difference=other is not None), [h for _, h in pairs], nested)


def _top(confidence_SN: Any, correct_SN: Any, bins: int, adaptive: bool = False) -> list[Binned]:
    find = equal_mass if adaptive else equal_width
    rows = seed_pairs(confidence_SN, correct_SN)
    return [Binned(c - h, find(torch.tensor(c), bins).numpy()) for c, h in rows]


def classwise_interval(
    p_SNK: SeedRows,
    y_SN: SeedRows,
    *,
    bins: int = BINS,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    nested: bool = False,
) -> Interval:
    """`binned_interval` of the classwise ECE, mean over K classes, from probabilities [S, N, K] and labels [S, N].

    The cost is K times that of `ece_interval`: S N K bins `n_boot` multiplications.
    """
    arm = []
    for p, y in zip(cast("Any", p_SNK), cast("Any", y_SN), strict=True):
        gap = np.array(p, np.float64)
        index = equal_width(torch.from_numpy(gap), bins).numpy()
        gap[np.arange(len(gap)), np.asarray(y)] -= 1
        arm.append(Binned(gap, index))
    return binned_interval(arm, bins=bins, n_boot=n_boot, seed=seed, level=level, nested=nested)


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
    if y is None:
        return ece_null_of(confidence_n(logp).numpy(force=True), None, draws, seed, bins)
    confidence, correct = top_label(logp, y)
    return ece_null_of(confidence.numpy(force=True), correct.numpy(force=True), draws, seed, bins)


KEPT_DRAWS = 1 << 22
"""Draws that are kept from call to call, 16 MiB: every model on a test split is held to the same ones."""


def _blocks(draws: int, N: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Uniform numbers [draws, N], in blocks of rows."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, step := max(1, (1 << 21) // N)):
        yield rng.random((min(step, draws - start), N), dtype=np.float32)


@lru_cache(maxsize=2)
def _uniforms(draws: int, N: int, seed: int) -> list[NDArray[np.float32]]:
    return list(_blocks(draws, N, seed))


def ece_null_of(
    confidence_N: ArrayLike, correct_N: ArrayLike | None, draws: int = 1000, seed: int = 0, bins: int = BINS
) -> tuple[float, float]:
    """`ece_null` from confidences and whether each top label was right, both [N]."""
    confidence = np.asarray(confidence_N, np.float64)
    N = len(confidence)
    ((_, index_N),) = _top([confidence], [np.zeros(N)], bins)
    order = np.argsort(index_N, kind="stable")
    confidence, index_N = confidence[order], index_N[order]
    first = np.flatnonzero(np.append(True, index_N[1:] != index_N[:-1]))
    expected_b = np.add.reduceat(confidence, first)
    coin_N = confidence.astype(np.float32)
    null = []
    for u in _uniforms(draws, N, seed) if draws * N <= KEPT_DRAWS else _blocks(draws, N, seed):
        right_Db = np.add.reduceat(u < coin_N, first, axis=1, dtype=np.int32)
        null.append(np.abs(right_Db - expected_b).sum(1) / N)
    null_D = np.concatenate(null)
    if correct_N is None:
        return float(null_D.mean()), math.nan
    observed = np.abs(np.add.reduceat(np.asarray(correct_N, np.float64)[order], first) - expected_b).sum() / N
    # A hair of slack, for equality that summation order breaks.
    p = (1 + (null_D >= observed - 1e-12).sum()) / (1 + draws)
    return float(null_D.mean()), float(p)
