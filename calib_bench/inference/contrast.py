"""Quantities made of several paired differences: a 2x2 design, and the share of one effect in another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from calib_bench.inference.arrays import Array, SeedRows
from calib_bench.inference.fitted import Fitted
from calib_bench.inference.interval import Interval, crossed_interval, no_interval, pool, variances
from calib_bench.inference.selection import choice_variance, widened

Fits = Callable[[float, float], Fitted | None]
"""What fitted temperatures add to a sum of part and whole with these factors."""


class TwoByTwo(NamedTuple):
    """Effects in a 2x2 of factors "first" and "second"; total = first + second = first_alone + second_alone
    + interaction, exactly.

    Attributes:
        total: both factors at once, y11 - y00.
        first, second: main effects, each the mean of its effect without and with the other factor.
        interaction: y11 - y10 - y01 + y00.
        first_alone, second_alone: simple effects y10 - y00 and y01 - y00.
    """

    total: Interval
    first: Interval
    second: Interval
    interaction: Interval
    first_alone: Interval
    second_alone: Interval


def two_by_two(
    y00_SN: ArrayLike,
    y10_SN: ArrayLike,
    y01_SN: ArrayLike,
    y11_SN: ArrayLike,
    level: float = 0.95,
    nested: bool = False,
    choice: Sequence[ArrayLike] | None = None,
    fits: Sequence[Fitted | None] | None = None,
) -> TwoByTwo:
    """Main effects and interaction of a paired 2x2, each with a `crossed_interval`.

    Args:
        y00_SN, y10_SN, y01_SN, y11_SN: per-example scores [S, N], same seeds and examples; y10 has the first
            factor alone.
        nested: see `crossed_interval`; pass rows' means as [S, 1] when their lengths differ.
        choice: of each cell in the same order, by how much its mean would change under other choices [B, S], see
            `choice_variance`: that variance is added.
        fits: of each effect in the order of `TwoByTwo`, what fitted temperatures add to it; None where they add none.

    Raises:
        ValueError: the shapes differ.
    """
    cells = [np.asarray(y, np.float64) for y in (y00_SN, y10_SN, y01_SN, y11_SN)]
    if len({y.shape for y in cells}) > 1:
        raise ValueError(f"the cells of a 2x2 need one shape, not {', '.join(str(y.shape) for y in cells)}")
    differences = _contrasts(*cells)
    each_fit = [None] * len(differences) if fits is None else fits
    intervals = [crossed_interval(d, level, nested, fit=fit) for d, fit in zip(differences, each_fit, strict=True)]
    if choice is not None:
        moves = _contrasts(*(np.asarray(shift, np.float64) for shift in choice))
        intervals = [widened(one, choice_variance(move), level) for one, move in zip(intervals, moves, strict=True)]
    return TwoByTwo(*intervals)


def _contrasts(y00: Array, y10: Array, y01: Array, y11: Array) -> tuple[Array, ...]:
    """The effects of `TwoByTwo`, in its order."""
    both = y11 - y00
    crossing = y10 - y01
    return (
        both,
        (both + crossing) / 2,
        (both - crossing) / 2,
        both - (y10 - y00) - (y01 - y00),
        y10 - y00,
        y01 - y00,
    )


def share(
    part_SN: SeedRows,
    whole_SN: SeedRows,
    level: float = 0.95,
    nested: bool = False,
    fit: Fitted | Fits | None = None,
    choice: tuple[ArrayLike, ArrayLike] | None = None,
) -> Interval:
    """Interval for mean(part) / mean(whole), say the share of a difference in log loss that was confidence.

    The limits hold every ratio r for which part - r whole has a `crossed_interval` around 0 (Fieller, 1954). They are
    infinite when the whole is not separated from 0: then no share is excluded on at least one side. A share is not
    confined to [0, 1]: confidence and dynamics may pull in opposite directions.

    Args:
        part_SN, whole_SN: per-example differences [S, N], same seeds and examples; with `nested` also S rows each.
        fit: what a fitted temperature adds to the part, where the whole has none; else a function of the factors of
            part and whole in a sum of both.
        choice: by how much the means of part and whole would change under other choices [B, S], see `choice_variance`:
            that variance is added.

    Returns:
        The interval; `p` is that of part being 0.
    """
    part, total = _averaged(part_SN, nested), _averaged(whole_SN, nested)
    if part.shape != total.shape:
        raise ValueError(f"part and whole need one shape, not {part.shape} and {total.shape}")
    fits = _fits(fit)
    top = crossed_interval(part, level, fit=fits(1.0, 0.0))
    bottom = crossed_interval(total, level, fit=fits(0.0, 1.0))
    if choice is not None:
        top = widened(top, choice_variance(choice[0]), level)
        bottom = widened(bottom, choice_variance(choice[1]), level)
    n, N = part.shape
    ratio = top.mean / bottom.mean if bottom.mean else math.nan
    if math.isnan(bottom.low) or not (np.isfinite(part).all() and n * N > 1):
        return no_interval(ratio, n, N, "the whole is not finite, or has no spread to judge it by")
    if bottom.low <= 0 <= bottom.high:
        why = "unbounded: the whole is not separated from 0"
        return Interval(ratio, -math.inf, math.inf, n, N, bottom.df, top.p, why)
    low, high = _fieller(part, total, ratio, level, fits, choice)
    return Interval(ratio, low, high, n, N, bottom.df, top.p, f"Fieller, {bottom.method}")


def _averaged(d_SN: SeedRows, nested: bool) -> Array:
    """Differences [S, N]; with `nested` the means of their rows, [S, 1]."""
    if not nested:
        return np.asarray(d_SN, np.float64)
    return np.array([[np.asarray(row, np.float64).mean()] for row in cast("Any", d_SN)])


def _fits(fit: Fitted | Fits | None) -> Fits:
    if callable(fit):
        return fit

    def of_part(part: float, whole: float) -> Fitted | None:
        return fit if part else None

    return of_part


def _fieller(
    part: Array,
    total: Array,
    ratio: float,
    level: float,
    fits: Fits,
    choice: tuple[ArrayLike, ArrayLike] | None,
) -> tuple[float, float]:
    """Where part - r whole stops being compatible with 0, on either side of the ratio of means."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    n, N = part.shape
    a, b = part.mean(), total.mean()
    shifts = [np.asarray(shift, np.float64) for shift in choice or ()]

    def chosen(r: float) -> float:
        """Square of the half width that the choice adds."""
        return float(ndtri((1 + level) / 2)) ** 2 * choice_variance(shifts[0] - r * shifts[1]) if shifts else 0.0

    v_aa, v_ab, v_bb = variances(part, part), variances(part, total), variances(total, total)

    def excess(r: float) -> float:
        sampling = pool((v_aa - 2 * r * v_ab + r * r * v_bb).clip(0), n, N, fits(1.0, -r))
        low, high = sampling.limits(float(a - r * b), level)
        middle, half = (low + high) / 2, math.hypot((high - low) / 2, math.sqrt(chosen(r)))
        return max(middle - half, -middle - half)

    def edge(sign: int) -> float:
        step = 1e-3 * (1 + abs(ratio))
        while excess(ratio + sign * step) <= 0:
            step *= 2
            if step > 1e9 * (1 + abs(ratio)):
                return sign * math.inf
        return float(brentq(excess, ratio, ratio + sign * step)) if excess(ratio) < 0 else ratio

    return edge(-1), edge(1)
