"""Intervals of what confidence is worth to a decision: `calib_bench.metrics.decisions`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench.inference.arrays import Array, SeedRows, seed_pairs
from calib_bench.inference.bootstrap import weights
from calib_bench.inference.interval import Interval, crossed_interval, exact_interval, no_interval
from calib_bench.inference.ranking import by_confidence
from calib_bench.inference.resampled import Resampled, percentile, seed_weights
from calib_bench.inference.scores import with_doubt, within
from calib_bench.metrics.decisions import COVERAGE, RISK, SLACK, kept

DECISIONS = ("auroc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage")
KEPT_RISK = "risk_at_80_coverage"
SCALES = {"augrc": "log", KEPT_RISK: "share"}
"""On what scale a value alone has its limits: an area is positive and skewed near 0, a risk is a share of the kept."""


class _Ranking(NamedTuple):
    """One seed's examples in order of confidence, the highest first; equal confidences hold their means.

    Attributes:
        order: which example has each place [N].
        error: 1 for wrong, 0 for right, of each place [N], ties averaged.
        wrong: the same, ties as they come.
        before: share of all examples that are wrong and stand before each place, equals counted half [N].
        after: share of all examples that stand behind each place, equals counted half [N].
    """

    order: NDArray[np.int64]
    error: Array
    wrong: Array
    before: Array
    after: Array


def _ranking(confidence_N: ArrayLike, correct_N: ArrayLike) -> _Ranking:
    order, wrong, tied = by_confidence(confidence_N, correct_N)
    n, e = len(order), tied(wrong)
    behind = n - np.arange(n, dtype=np.float64) - 0.5
    before, after = tied(e.cumsum() - e / 2) / n, tied(behind) / n
    return _Ranking(order, e, wrong, before, after)


def decision_n(confidence_N: ArrayLike, correct_N: ArrayLike) -> dict[str, Array]:
    """AUROC, AUGRC and the risk at 80% coverage plus each example's first-order influence: [N], with their mean.

    AUROC's influences are DeLong's (1988) placements. The risk at a coverage rests on the error rate at its threshold,
    which is taken over one standard error of the coverage to either side. NaN where a metric is undefined.
    """
    ranking = _ranking(confidence_N, correct_N)
    values = {
        "auroc": _auroc(ranking),
        "augrc": _generalized(ranking),
        KEPT_RISK: _risk(ranking),
    }
    return {name: _placed(value, ranking.order) for name, value in values.items()}


def _placed(value_N: Array, order: NDArray[np.int64]) -> Array:
    out = np.empty(len(value_N))
    out[order] = value_N
    return out


def _auroc(ranking: _Ranking) -> Array:
    n, rate = len(ranking.error), float(ranking.wrong.mean())
    if not 0 < rate < 1:
        return np.full(n, math.nan)
    behind_wrong = 1 - ranking.before / rate  # of right answers: the wrong ones that they stand before
    standing = (1 - ranking.after - ranking.before) / (1 - rate)  # of wrong answers: the right ones before them
    placement = np.where(ranking.wrong > 0, standing, behind_wrong)
    area = float(placement[ranking.wrong == 0].mean())
    share = np.where(ranking.wrong > 0, rate, 1 - rate)
    return area + (placement - area) / share


def _generalized(ranking: _Ranking) -> Array:
    area = float((ranking.wrong * ranking.after).mean())
    return ranking.wrong * ranking.after + ranking.before - area


def _risk(ranking: _Ranking, coverage: float = COVERAGE) -> Array:
    n = len(ranking.error)
    count = kept(n, coverage)
    step = max(1, round(math.sqrt(coverage * (1 - coverage) * n)))
    near = slice(max(0, count - step), min(n, count + step))
    rate = float(ranking.error[near].mean())
    inside = np.arange(n) < count
    share = count / n
    value = np.where(inside, ranking.error, 0.0)
    return (value + rate * (share - inside)) / share


def decision_intervals(
    confidence_SN: SeedRows,
    correct_SN: SeedRows,
    other: tuple[SeedRows, SeedRows] | None = None,
    *,
    nested: bool = False,
) -> dict[str, Interval]:
    """Intervals of the means over seeds of DECISIONS, or of their differences from another arm's, paired.

    They are `crossed_interval`, but of the coverage at 5% risk: the largest k that meets a bound has no influences, and
    a bootstrap's percentiles stand in. With few wrong examples, for a difference of risks among those kept, the limits
    are in doubt, and the intervals say so.

    Args:
        confidence_SN, correct_SN: confidences and whether the top label was right, [S, N]; with `nested` also S rows.
        other: (confidence, correct) of the arm to subtract, same seeds and examples.
    """
    arms = [seed_pairs(confidence_SN, correct_SN), *([seed_pairs(*other)] if other is not None else [])]
    values = [[decision_n(*pair) for pair in seeds] for seeds in arms]
    intervals = {}
    for name in DECISIONS:
        if name == "coverage_at_5_risk":
            interval = _coverage_interval(arms, nested)
        else:
            interval = _smooth_interval(name, values, nested)
        intervals[name] = within(interval, name, difference=other is not None)
    sides = {name: [[correct for _, correct in seeds] for seeds in arms] for name in DECISIONS}
    if other is not None:
        sides[KEPT_RISK] = [[_kept_correct(*pair) for pair in seeds] for seeds in arms]
    return {name: with_doubt(interval, sides[name], nested) for name, interval in intervals.items()}


def _kept_correct(confidence_N: Array, correct_N: Array) -> Array:
    """Whether the answers of most confidence are right, as many as are kept."""
    return correct_N[by_confidence(confidence_N, correct_N)[0][: kept(len(correct_N), COVERAGE)]]


def _smooth_interval(name: str, values: Sequence[Sequence[dict[str, Array]]], nested: bool) -> Interval:
    """Interval of a metric with influences, from `decision_n` of every seed of one arm, or of two to subtract."""
    rows = [one[name] for one in values[0]]
    if len(values) == 1:
        interval = crossed_interval(rows, nested=nested, scale=SCALES.get(name, "identity"))
        return _of_kept(interval) if name == KEPT_RISK else interval
    return crossed_interval([a - b[name] for a, b in zip(rows, values[1], strict=True)], nested=nested)


def _of_kept(interval: Interval) -> Interval:
    """The interval of a risk; where none of the answers kept is wrong, or all, the exact one of so many answers.

    In simulation with one wrong answer of the kept and fewer it covers .96 and more, but .88 where the error rate jumps
    from nearly none to three in ten at the very threshold.
    """
    N, share = interval.n_examples, round(interval.mean)
    if abs(interval.mean - share) * N > SLACK:
        return interval
    exact = exact_interval(replace(interval, mean=float(share), n_examples=kept(N, COVERAGE)))
    return replace(exact, n_examples=N)


def _coverage_interval(arms: Sequence[Sequence[tuple[Array, Array]]], nested: bool) -> Interval:
    """Interval of the coverage at 5% risk; a t interval over seeds where each has test examples of its own.

    A largest k is chosen by luck where the risk stays near 5% over a wide range of coverages: of an error rate of 5%
    that confidence hardly ranks, the coverage is estimated as .7 to .8 in place of .5, and limits cover .83 to .85.
    """
    rankings = [[_ranking(*pair) for pair in seeds] for seeds in arms]
    value_AS = np.array([[_coverage(one.error, np.ones((1, len(one.error))))[0] for one in s] for s in rankings])
    value_S = value_AS[0] - (value_AS[1] if len(arms) > 1 else 0.0)
    S, N = len(value_S), len(rankings[0][0].error)
    if nested and S > 1:
        return crossed_interval(value_S[:, None], nested=True)
    if not value_S.any() and len(arms) > 1 and _same(arms):
        return no_interval(0.0, S, N, "the same in every resample")
    drawn_B = _drawn(arms, S)
    mean = float(value_S.mean())
    return percentile(mean, drawn_B, Resampled(np.array([mean]), drawn_B[:, None], S, N))


def _same(arms: Sequence[Sequence[tuple[Array, Array]]]) -> bool:
    return all(np.array_equal(a, b) for one, other in zip(*arms, strict=True) for a, b in zip(one, other, strict=True))


def _drawn(arms: Sequence[Sequence[tuple[Array, Array]]], S: int, n_boot: int = 1000) -> Array:
    """Means over resampled seeds and examples, [n_boot], of one arm or of the first minus the second."""
    seeds_BS = seed_weights(S, n_boot, 0, 0.95)
    total_B = np.zeros(n_boot)
    for s in range(S):
        one, *other = (_resampled(arm[s][0].tobytes(), arm[s][1].tobytes(), n_boot) for arm in arms)
        total_B += seeds_BS[:, s] * (one - other[0] if other else one)
    return total_B


@lru_cache(maxsize=32)
def _resampled(confidence: bytes, correct: bytes, n_boot: int) -> Array:
    """One seed's coverage in each resample, [n_boot]; many arms are compared with the same one."""
    ranking = _ranking(np.frombuffer(confidence), np.frombuffer(correct))
    parts = weights(n_boot, len(ranking.order), 0, np.uint8)
    return np.concatenate([_coverage(ranking.error, w_BN[:, ranking.order]) for w_BN in parts])


def _coverage(error_N: Array, w_BN: Array, risk: float = RISK) -> Array:
    """The largest coverage with at most so many errors, [B], of examples in order that are drawn so often.

    Right examples in a row count as one: none of them ends a coverage that the last of them does not.
    """
    first_M = np.flatnonzero(np.append(True, (error_N[1:] != 0) | (error_N[:-1] != 0)))
    count_BM = np.add.reduceat(w_BN, first_M, axis=1, dtype=np.float64)
    kept_BM = np.cumsum(count_BM * (risk - error_N[first_M]), 1) >= -SLACK
    last_B = len(first_M) - 1 - np.argmax(kept_BM[:, ::-1], 1)
    total_BM = count_BM.cumsum(1)
    return np.where(kept_BM.any(1), total_BM[np.arange(len(w_BN)), last_B] / total_BM[:, -1], 0.0)
