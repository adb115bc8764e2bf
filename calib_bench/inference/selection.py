"""What it is worth to choose an arm or a rate, with the choice itself counted as part of the procedure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import Interval, Sampling, around, crossed_interval, pool, variances


class SelectedGain(NamedTuple):
    """The gain of choosing an arm over always taking the reference.

    Attributes:
        gain: test score of the chosen arm less the reference's.
        chosen: index of the arm that all seeds together choose.
        choices: for each seed, the arm that the other seeds choose.
    """

    gain: Interval
    chosen: int
    choices: tuple[int, ...]


def selected_gain(
    selection_AS: ArrayLike,
    test_ASN: ArrayLike | Sequence[Sequence[ArrayLike]],
    reference: int,
    *,
    largest: bool = False,
    level: float = 0.95,
    nested: bool = False,
) -> SelectedGain:
    """Gain on the test split of "take the arm with the best mean selection score" over the reference arm.

    The quantity covered is the expected gain, over fresh seeds and test examples, of the procedure with S - 1 seeds: a
    seed's gain is that of the arm which the other seeds choose, so no seed judges an arm that it helped to choose
    (lucky seeds are lucky on both splits). The half width is the larger of two, that of these gains, their variance due
    to seeds no less than by the jackknife of the whole procedure, and that of the gain of the arm chosen by all seeds:
    choices that share seeds go together. With one seed the choice is that seed's, and the interval is over examples
    alone, the choice taken as given.

    Args:
        selection_AS: selection scores [A, S], the lowest best unless `largest`; a NaN, say of a seed that diverged,
            counts as the worst possible score.
        test_ASN: per-example test scores [A, S, N]; with `nested` rows may differ in length by seed.
        reference: index of the reference arm.

    Raises:
        ValueError: shapes do not match, or the reference is no arm.
    """
    selection = np.asarray(selection_AS, np.float64)
    test = cast("Sequence[Sequence[ArrayLike]]", test_ASN)
    _check(selection, test, reference)
    S = selection.shape[1]
    cost = np.nan_to_num(-selection if largest else selection, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    chosen, choices = int(cost.mean(1).argmin()), _left_out(cost)
    apart, together = _gains(test, choices, reference), _gains(test, [chosen] * S, reference)
    gain = crossed_interval(apart, level, nested)
    if S == 1 or not all(np.isfinite(row).all() for row in (*apart, *together)):
        return SelectedGain(gain, chosen, choices)
    mean_AS = np.array([[np.mean(np.asarray(row)) for row in rows] for rows in test])
    instability = _instability(cost, mean_AS - mean_AS[reference])
    sampling = _wider(_stacked(apart, nested), _stacked(together, nested), instability)
    method = f"{gain.method}, choice left one seed out"
    gain = around(gain.mean, sampling, level, S, gain.n_examples, method)
    return SelectedGain(gain, chosen, choices)


def _check(selection_AS: Array, test: Sequence[Sequence[ArrayLike]], reference: int) -> None:
    A, S = selection_AS.shape
    if len(test) != A or any(len(rows) != S for rows in test) or not 0 <= reference < A:
        raise ValueError(
            f"{A} arms by {S} seeds of selection scores need test scores to match and a reference below {A}"
        )


def _gains(test: Sequence[Sequence[ArrayLike]], arms: Sequence[int], reference: int) -> list[Array]:
    """Each seed's gains over the reference, example by example, of the arm that is named for the seed."""
    gains = []
    for s, arm in enumerate(arms):
        score_N = np.asarray(test[arm][s]).astype(np.float64)
        gains.append(np.atleast_1d(score_N - np.asarray(test[reference][s])))
    return gains


def _stacked(rows: list[Array], nested: bool) -> Array:
    """Rows as one array, [S, N]; with `nested` their means, [S, 1]."""
    if nested:
        return np.array([[row.mean()] for row in rows])
    return np.stack(rows)


def _wider(apart_SN: Array, together_SN: Array, instability: float) -> Sampling:
    """How the mean of gains varies: as those of choices left one out do, or as those of the one choice of all seeds.

    Args:
        instability: least variance due to seeds of the first.
    """
    v_apart, v_together = variances(apart_SN, apart_SN), variances(together_SN, together_SN)
    v_apart[0] = max(v_apart[0], instability)
    n, N = apart_SN.shape
    return Sampling.of(*pool(v_apart, n, N).sums, *pool(v_together, n, N).sums)


def _left_out(cost_AS: Array) -> tuple[int, ...]:
    """For each seed the arm of least mean cost over the others; with one seed, over itself."""
    S = cost_AS.shape[1]
    if S == 1:
        return (int(cost_AS[:, 0].argmin()),)
    return tuple(int(np.delete(cost_AS, s, 1).mean(1).argmin()) for s in range(S))


def _instability(cost_AS: Array, test_AS: Array) -> float:
    """Jackknife variance over seeds of the mean score of left-out choices."""
    S = cost_AS.shape[1]
    means = []
    for s in range(S):
        cost, test = np.delete(cost_AS, s, 1), np.delete(test_AS, s, 1)
        means.append(test[list(_left_out(cost)), np.arange(S - 1)].mean())
    return float((S - 1) / S * np.square(np.array(means) - np.mean(means)).sum())


DRAWS = 400
"""How often a choice is made again."""


def redrawn_choice(
    cost_RS: ArrayLike, losses_RN: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.intp]:
    """The choice of least mean cost, made again in other samples of what it rests on: indices [B].

    A choice as made and one as it might have been made both have sampling error, so that they differ by sqrt(2) of it:
    each draw adds normal errors of twice the covariance of the R means over seeds, and likewise over examples, to the
    means. Of the seeds' part every candidate has the median variance: a few seeds cannot tell their own, and the seeds
    of a bad candidate scatter because it is bad, not because it might be good. The errors are
    common to calls with the same S, N and `seed`, as seeds and examples are to the arms of a study.

    Args:
        cost_RS: mean cost of R candidates under each of S seeds; one that is not finite is never chosen. One seed
            leaves its error out.
        losses_RN: cost of each of N examples that the seeds share, mean over them; None where each seed has its own.
        draws: B.

    Raises:
        ValueError: no candidate has a finite cost under every seed.

    >>> redrawn_choice([[1.0, 1.1, 0.9], [3.0, 3.1, 3.2]], draws=3)
    array([0, 0, 0])
    """
    cost, kept = _usable(cost_RS)
    S = cost.shape[1]
    drawn_BR = np.repeat(cost.mean(1)[None], draws, 0)
    if S > 1:
        normal_BS = np.random.default_rng((seed, S)).standard_normal((draws, S))
        drawn_BR += math.sqrt(2 / (S * (S - 1))) * (normal_BS @ _deviations(cost))
    if losses_RN is not None:
        drawn_BR += _example_errors(np.asarray(losses_RN, np.float64)[kept], S, draws, seed)
    return kept[drawn_BR.argmin(1)]


def redrawn_choice_apart(
    cost_RS: ArrayLike, losses_RN: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.intp]:
    """For each seed the choice of the others, made again in other samples: indices [B, S].

    As `redrawn_choice`, with errors of S seeds in each draw, of which a seed's choice has those of the others.

    Args:
        cost_RS, losses_RN, draws, seed: as in `redrawn_choice`; S > 1.

    >>> redrawn_choice_apart([[1.0, 1.1, 0.9], [3.0, 3.1, 3.2]], draws=2)
    array([[0, 0, 0],
           [0, 0, 0]])
    """
    cost, kept = _usable(cost_RS)
    S = cost.shape[1]
    normal_BSS = np.random.default_rng((seed, S, S)).standard_normal((draws, S, S))
    error_BRS = math.sqrt(2 / (S - 1)) * (normal_BSS @ _deviations(cost)).transpose(0, 2, 1)
    drawn_BRS = _others_mean(cost) + _others_mean(error_BRS)
    if losses_RN is not None:
        drawn_BRS += _example_errors(np.asarray(losses_RN, np.float64)[kept], S, draws, seed)[..., None]
    return kept[drawn_BRS.argmin(1)]


def _usable(cost_RS: ArrayLike) -> tuple[Array, NDArray[np.intp]]:
    """The candidates of finite cost under every seed, and their places."""
    cost = np.asarray(cost_RS, np.float64)
    kept = np.flatnonzero(np.isfinite(cost).all(1))
    if not len(kept):
        raise ValueError("no candidate has a finite cost under every seed")
    return cost[kept], kept


def _others_mean(value_XS: Array) -> Array:
    """For each seed, the last axis, the mean over the others."""
    return (value_XS.sum(-1, keepdims=True) - value_XS) / (value_XS.shape[-1] - 1)


def _deviations(cost_RS: Array) -> Array:
    """[S, R]: each candidate's costs about their mean, all of the median size."""
    apart_RS = cost_RS - cost_RS.mean(1, keepdims=True)
    norm_R = np.linalg.norm(apart_RS, axis=1)
    size_R = np.divide(np.median(norm_R), norm_R, out=np.zeros_like(norm_R), where=norm_R > 0)
    return apart_RS.T * size_R


def _example_errors(losses_RN: Array, S: int, draws: int, seed: int) -> Array:
    """[B, R]: errors of twice the covariance of the means over examples."""
    N = losses_RN.shape[1]
    losses = losses_RN - losses_RN.mean(1, keepdims=True)
    # Drawn in parts, so that memory does not grow with draws x N.
    generator = np.random.default_rng((seed, S, N))
    parts = np.array_split(np.arange(draws), max(1, draws * N // PART))
    drawn = [generator.standard_normal((len(part), N)) @ losses.T for part in parts]
    return math.sqrt(2) / N * np.concatenate(drawn)


PART = 1 << 21
"""Random numbers held at a time."""


def choice_variance(shift_BS: ArrayLike) -> float:
    """Variance that a choice adds to a mean, from what other choices would have changed it by.

    The mean over draws of the square of the change, about the choice as made: of two candidates that are truly alike
    its expectation is 4 arctan(sqrt 2) / pi = 1.2 times the variance of the choice. Where there are several seeds it is
    the mean product over pairs of different seeds, so that the seeds' own noise in the changes does not count; never
    below 0.

    Args:
        shift_BS: change of the mean under each of S seeds in each of B draws; axes before these are ways to make the
            choice again, of which the largest variance counts.

    >>> round(choice_variance([[0.0, 0.0], [0.2, 0.2]]), 12)
    0.02
    """
    shift = np.asarray(shift_BS, np.float64)
    S = shift.shape[-1]
    square = np.square(shift.sum(-1))
    if S > 1:
        square = (square - np.square(shift).sum(-1)) / (S * (S - 1))
    return max(float(square.mean(-1).max()), 0.0)


def widened(
    interval: Interval, variance: float, level: float = 0.95, source: str = "the choice of rate counted"
) -> Interval:
    """An interval that also counts a source of variance independent of those it counts, such as that of a choice.

    On either side of the mean half widths add in squares, the new one z sqrt(variance), z the normal quantile: a choice
    among a few candidates is bounded and has no tails. The p-value is made to agree with the limits.

    Args:
        interval: one without limits stays as it is.
        variance: of the mean, by the other source.
        level: of `interval`.
        source: what the method says of it.
    """
    if not variance > 0 or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return interval
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    more = float(ndtri((1 + level) / 2)) * math.sqrt(variance)
    below, above = math.hypot(interval.mean - interval.low, more), math.hypot(interval.high - interval.mean, more)
    bounded = math.isfinite(interval.df)
    edge = float(stdtrit(interval.df, (1 + level) / 2) if bounded else ndtri((1 + level) / 2))
    at = -abs(interval.mean) / (below if interval.mean > 0 else above) * edge
    p = float(2 * (stdtr(interval.df, at) if bounded else ndtr(at)))
    return replace(
        interval,
        low=interval.mean - below,
        high=interval.mean + above,
        p=interval.p if math.isnan(interval.p) else max(interval.p, p),
        method=f"{interval.method}, {source}",
    )
