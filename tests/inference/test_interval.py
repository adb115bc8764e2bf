"""Intervals: exact small cases, agreement with textbook tests, and coverage in simulation with known truth."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calib_bench import inference, metrics
from calib_bench.inference import (
    Interval,
    choice_variance,
    collapsed,
    crossed_bootstrap,
    crossed_interval,
    ece_interval,
    ece_null,
    ece_null_of,
    holm,
    redrawn_choice,
    share,
    two_by_two,
    widened,
)
from calib_bench.inference.selection import DRAWS
from calib_bench.metrics.risk import risk_area
from calib_bench.metrics.scores import top_label


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_crossed_interval_by_hand() -> None:
    from scipy import stats

    d = np.array([[1.0, 2.0, 4.0], [2.0, 5.0, 3.0]])
    r, c, m = d.mean(1), d.mean(0), d.mean()
    e = d - r[:, None] - c + m
    v_s, v_e, v_r = r.var(ddof=1) / 2, c.var(ddof=1) / 3, (e**2).sum() / 2 / 6
    t_s, t_e = stats.t.ppf(0.975, 1), stats.t.ppf(0.975, 2)
    half = math.sqrt(max(t_s**2 * v_s + t_e**2 * max(v_e - v_r, 0), t_e**2 * v_e))
    found = crossed_interval(d)
    assert (found.mean, found.low, found.high) == pytest.approx((m, m - half, m + half))
    t_s, t_e = stats.t.ppf(1 - found.p / 2, 1), stats.t.ppf(1 - found.p / 2, 2)
    assert math.sqrt(max(t_s**2 * v_s + t_e**2 * max(v_e - v_r, 0), t_e**2 * v_e)) == pytest.approx(m)
    assert (found.n_seeds, found.n_examples) == (2, 3)


@pytest.mark.plain
@given(st.integers(2, 6), st.integers(2, 40), st.floats(-1.0, 1.0), st.integers(0, 999))
def test_p_and_limits_agree_at_every_level(S: int, N: int, shift: float, seed: int) -> None:
    """The interval at level 1 - p ends at 0, and a level says what p says."""
    rng = np.random.default_rng(seed)
    d = shift + 0.3 * rng.standard_normal((S, 1)) + rng.standard_normal((1, N)) + rng.standard_normal((S, N))
    found = crossed_interval(d)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    edge = crossed_interval(d, level=1 - found.p)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-90, 1e-140, 1e-155])
def test_spreads_whose_squares_underflow_have_intervals(scale: float) -> None:
    d = np.random.default_rng(0).standard_normal((3, 20)) + 1
    found, theirs = crossed_interval(scale * d), crossed_interval(d)
    assert (found.low / scale, found.high / scale) == pytest.approx((theirs.low, theirs.high))
    assert (found.p, found.df) == pytest.approx((theirs.p, theirs.df))


def test_one_seed_is_a_t_interval_over_examples() -> None:
    from scipy import stats

    d = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)) + 0.3
    found, theirs = crossed_interval(d), stats.ttest_1samp(d[0].double().numpy(), 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert "one seed" in found.method


def test_nested_rows_of_unequal_length_are_a_t_interval_over_seeds() -> None:
    from scipy import stats

    rows = [[1.0, 2.0], [2.0, 2.5, 4.0], [0.5]]
    found, theirs = crossed_interval(rows, nested=True), stats.ttest_1samp([np.mean(row) for row in rows], 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    with pytest.raises(ValueError, match="nested"):
        crossed_interval(rows)


def test_one_example_per_seed_leaves_the_seeds() -> None:
    assert crossed_interval([[1.0], [2.0], [4.0]]) == crossed_interval([[1.0], [2.0], [4.0]], nested=True)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (3, 1), (2, 2)])
def test_no_difference_is_no_evidence(shape: tuple[int, int]) -> None:
    found = crossed_interval(np.zeros(shape))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_no_spread_is_no_certainty() -> None:
    for d in (np.full((3, 8), 0.5), np.full((3, 8), 0.1) + 1e-17):
        found = crossed_interval(d, nested=True)
        assert found.mean == pytest.approx(d[0, 0])
        assert math.isnan(found.low)
        assert math.isnan(found.p)
    zero = crossed_interval(np.zeros((3, 8)))
    assert (zero.low, zero.high, zero.p) == (0, 0, 1)


def test_values_that_are_not_finite_give_no_interval() -> None:
    for bad in (math.inf, -math.inf, math.nan):
        found = crossed_interval([[1.0, bad], [2.0, 3.0]])
        assert math.isnan(found.low)
        assert math.isnan(found.high)
        assert math.isnan(found.p)
        assert "1 values are not finite" in found.method
    assert "none" in crossed_interval([[1.0]]).method
    with pytest.raises(ValueError, match="at least one"):
        crossed_interval([])


@pytest.mark.plain
@given(st.integers(2, 6), st.integers(2, 20), st.floats(-5, 5), st.floats(0.01, 100), st.integers(0, 99))
def test_shift_and_scale(S: int, N: int, shift: float, scale: float, seed: int) -> None:
    d = np.random.default_rng(seed).standard_normal((S, N))
    a, b = crossed_interval(d), crossed_interval(shift + scale * d)
    assert (b.low, b.high) == pytest.approx((shift + scale * a.low, shift + scale * a.high), abs=1e-6)
    assert crossed_interval(-d).p == pytest.approx(a.p)


@pytest.mark.plain
@pytest.mark.parametrize("S", [3, 5, 10])
@pytest.mark.parametrize("mix", [(1.0, 1.0, 1.0), (0.1, 1.0, 1.0), (1.0, 0.1, 1.0)])
def test_crossed_interval_covers(S: int, mix: tuple[float, float, float]) -> None:
    # Seed effects normal, example effects and noise heavy-tailed (t with 3 degrees of freedom), N = 1000.
    N, draws, truth = 1000, 400, 0.2
    rng = np.random.default_rng(S)
    seeds, examples, noise = mix[0] * 0.05, mix[1], mix[2]
    hit = 0
    for _ in range(draws):
        d = truth + seeds * rng.standard_normal((S, 1)) + examples * rng.standard_t(3, (1, N))
        d = d + noise * rng.standard_t(3, (S, N))
        hit += covers(crossed_interval(d), truth)
    # 400 draws at .95 stay above .925 with probability .98; the method was measured at .945 to .972.
    assert hit / draws >= 0.925
    assert hit / draws <= 0.99


@pytest.mark.plain
def test_bootstrap_of_a_mean_agrees_with_the_crossed_interval() -> None:
    rng = np.random.default_rng(0)
    d = rng.standard_normal((8, 1)) * 0.1 + rng.standard_normal((1, 500)) + 0.3 * rng.standard_normal((8, 500))

    def mean(w_BN: np.ndarray, d_SN: np.ndarray) -> np.ndarray:
        return w_BN @ d_SN.T / d_SN.shape[1]

    a, b = crossed_interval(d), crossed_bootstrap(mean, d, n_boot=4000, seed=1)
    assert b.mean == pytest.approx(a.mean)
    assert (b.high - b.low) == pytest.approx(a.high - a.low, rel=0.12)
    assert crossed_bootstrap(mean, d, n_boot=300, seed=3) == crossed_bootstrap(mean, d, n_boot=300, seed=3)
    assert b.p == pytest.approx(a.p, abs=0.05)


def test_bootstrap_resamples_every_unit_equally() -> None:
    seen: list[np.ndarray] = []

    def record(w_BN: np.ndarray, d_SN: np.ndarray) -> np.ndarray:
        seen.append(w_BN)
        return w_BN @ d_SN.T / d_SN.shape[1]

    crossed_bootstrap(record, np.ones((2, 50)), n_boot=2000)
    w = np.concatenate(seen[1:])
    assert w.shape == (2000, 50)
    assert (w.sum(1) == 50).all()
    assert w.mean(0) == pytest.approx(np.ones(50), abs=0.15)
    assert w.var(0).mean() == pytest.approx(1 - 1 / 50, rel=0.05)


def calibrated(N: int, seed: int, S: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = np.broadcast_to(0.3 + 0.7 * rng.random(N), (S, N))
    return confidence, (rng.random((S, N)) < confidence).astype(float)


def test_ece_interval_is_about_the_ece() -> None:
    g = torch.Generator().manual_seed(0)
    Z = 3 * torch.randn(3, 400, 4, generator=g)
    y = torch.randint(4, (400,), generator=g)
    confidence, correct = top_label(Z, y)
    found = ece_interval(confidence, correct, n_boot=200)
    assert found.mean == pytest.approx(float(metrics.ece(Z, y).mean()))
    assert found.low < found.mean < found.high
    cooler = top_label(Z / 2, y)
    pair = ece_interval(confidence, correct, cooler, n_boot=200)
    assert pair.mean == pytest.approx(float((metrics.ece(Z, y) - metrics.ece(Z / 2, y)).mean()))
    assert pair.p < 0.05
    same = ece_interval(confidence, correct, (confidence, correct), n_boot=200)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    one = ece_interval(confidence[:1], correct[:1], n_boot=200)
    assert one.low < one.high
    assert "one seed" in one.method


def test_ece_interval_of_calibrated_arms_reaches_zero() -> None:
    """The basic bootstrap alone leaves 0 out of four intervals in ten."""
    reached = [ece_interval(*calibrated(1000, seed), n_boot=200).low == 0 for seed in range(40)]
    assert np.mean(reached) >= 0.9
    confidence, correct = calibrated(1000, 0)
    assert ece_interval(np.sqrt(confidence), correct, n_boot=200).low > 0


def test_normal_limit_is_that_of_resampling() -> None:
    """`ece_interval` draws bin sums from a normal; classes, resampled one by one, must agree with it."""
    confidence, correct = calibrated(800, 3, S=2)
    confidence = confidence**0.5
    one = ece_interval(confidence, correct, n_boot=4000)
    index = metrics.binned.equal_width(torch.tensor(confidence)).numpy()
    arm = [inference.Binned((c - h)[:, None], i[:, None]) for c, h, i in zip(confidence, correct, index, strict=True)]
    other = inference.binned_interval(arm, n_boot=4000)
    assert one.mean == pytest.approx(other.mean, abs=1e-12)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.06 * (one.high - one.low))


def test_classwise_and_adaptive_intervals_are_about_the_metrics() -> None:
    g = torch.Generator().manual_seed(0)
    Z = 2 * torch.randn(3, 300, 4, generator=g, dtype=torch.float64)
    y = torch.randint(4, (300,), generator=g)
    top = top_label(Z, y)
    found = inference.classwise_interval(Z.softmax(-1), y.expand(3, -1), n_boot=100)
    assert found.mean == pytest.approx(float(metrics.classwise_ece(Z, y).mean()))
    assert found.low < found.mean < found.high
    found = ece_interval(*top, adaptive=True, n_boot=100)
    assert found.mean == pytest.approx(float(metrics.adaptive_ece(Z, y).mean()))


def test_nested_ece_takes_rows_of_unequal_length() -> None:
    rows = [calibrated(n, n) for n in (200, 300, 250)]
    confidence, correct = [np.sqrt(c[0]) for c, _ in rows], [h[0] for _, h in rows]
    found = ece_interval(confidence, correct, nested=True)
    assert 0 < found.low < found.mean < found.high
    assert "over seeds" in found.method
    with pytest.raises(ValueError, match="nested"):
        ece_interval(confidence, correct)
    assert "none" in ece_interval(confidence[:1], correct[:1], nested=True).method


@pytest.mark.parametrize("ties", [False, True])
def test_aurc_influence_is_the_derivative(ties: bool) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(60).round(1) if ties else rng.random(60)
    correct = (rng.random(60) < confidence).astype(float)
    area, best = risk_area(torch.tensor(confidence), torch.tensor(correct))
    values = inference.aurc_n(confidence, correct)
    assert values.mean() == pytest.approx(float(area), abs=1e-12)
    assert inference.aurc_n(confidence, correct, excess=True).mean() == pytest.approx(float(best), abs=1e-12)
    if ties:
        return
    error = 1 - correct[np.argsort(-confidence)]

    def weighted(w: np.ndarray) -> float:
        return float((w * (w * error).cumsum() / w.cumsum()).sum() / w.sum())

    assert weighted(np.ones(60)) == pytest.approx(float(area))
    for rank, i in enumerate(np.argsort(-confidence)):
        step = 1e-5 * (np.arange(60) == rank)
        slope = 60 * (weighted(1 + step) - weighted(1 - step)) / 2e-5
        assert slope == pytest.approx(values[i] - values.mean(), abs=1e-6)


@pytest.mark.parametrize(("wrong", "of"), [(1, 60), (2, 200), (30, 1000), (900, 1000)])
def test_a_share_has_clopper_and_pearsons_limits(wrong: int, of: int) -> None:
    """One seed's variance has n - 1 degrees of freedom, as if there were one example fewer."""
    from scipy import stats

    d = (np.arange(of) >= wrong).astype(float)[None]
    found = crossed_interval(d, scale="share")
    n, m = of - 1, d.mean()
    theirs = stats.beta.ppf([0.025, 0.975], [n * m, n * m + 1], [n * (1 - m) + 1, n * (1 - m)])
    assert (found.low, found.high) == pytest.approx(tuple(theirs))
    exact = stats.binomtest(of - wrong, of).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.06 * (exact.high - exact.low))
    assert found.p == crossed_interval(d).p


def test_scales_stay_in_range() -> None:
    d = (np.random.default_rng(0).random((3, 200)) < 0.97).astype(float)
    plain, share = crossed_interval(d), crossed_interval(d, scale="share")
    assert share.low < plain.low < plain.mean < share.high < plain.high
    log = crossed_interval(d, scale="log")
    assert log.low * log.high == pytest.approx(log.mean**2)
    perfect = crossed_interval(np.ones((3, 100)), scale="share")
    assert perfect.high == 1
    assert perfect.low**100 == pytest.approx(0.025)
    assert crossed_interval(np.zeros((3, 100)), scale="share").high == pytest.approx(1 - perfect.low)
    wild = crossed_interval([[1.0], [1.0], [0.9]], nested=True, scale="share")
    assert 0 < wild.low < wild.mean < wild.high < 1 < crossed_interval([[1.0], [1.0], [0.9]], nested=True).high
    with pytest.raises(ValueError, match="scale"):
        crossed_interval(d, scale="sqrt")


def test_simultaneous_is_bonferroni() -> None:
    rng = np.random.default_rng(0)
    arms = [rng.standard_normal((4, 50)) + m for m in (0, 0.5, 1)]
    for arm, found in zip(arms, inference.simultaneous(arms), strict=True):
        alone, strict = crossed_interval(arm), crossed_interval(arm, level=1 - 0.05 / 3)
        assert (found.low, found.high) == (strict.low, strict.high)
        assert found.p == min(1, 3 * alone.p)
    assert inference.simultaneous([]) == []
    assert math.isnan(inference.simultaneous([[[math.nan, 1.0]]])[0].p)


@pytest.mark.parametrize("arms", [1, 2])
def test_fitted_has_the_moments_of_the_expansion(arms: int) -> None:
    """Errors of log T drawn from their covariance, put into slope x + curvature x^2 / 2, seeds averaged."""
    rng = np.random.default_rng(arms)
    S, M = 3, 40
    log_T = 0.5 * rng.standard_normal((arms, S, M)) + rng.standard_normal((arms, 1, M)) + 0.3
    slope, curvature = rng.standard_normal((2, arms, S))
    weights = (1, -1)[:arms]
    found = inference.fitted(log_T, slope, curvature, weights)
    rows = (log_T - log_T.mean(-1, keepdims=True)).reshape(arms * S, M)
    error = rng.multivariate_normal(np.zeros(arms * S), rows @ rows.T / (M * (M - 1)), 200_000).reshape(-1, arms, S)
    sign = np.array([1, -1])[:arms, None]
    first, second = (sign * slope * error).sum(1).mean(1), (sign * curvature * error**2 / 2).sum(1).mean(1)
    assert found.influence_SM is not None
    column = found.influence_SM.mean(0)
    assert column @ column / (M * (M - 1)) == pytest.approx(first.var(), rel=0.03)
    assert found.variance == pytest.approx(second.var(), rel=0.05)
    assert found.bias == pytest.approx(second.mean(), rel=0.03, abs=0.02 * second.std())
    alone = inference.fitted(log_T, slope, curvature, weights, shared=False)
    assert (alone.influence_SM, alone.variance) == (None, 0)
    assert alone.bias == pytest.approx(found.bias)


def test_fitted_of_arms_with_calibration_sets_of_their_own() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30)) + 1, rng.standard_normal((2, 50)) - 1
    both = inference.apart(a, b)
    assert both.mean(-1) == pytest.approx(np.stack([a.mean(1), b.mean(1)]))
    found = inference.fitted(both, np.ones((2, 2)), np.ones((2, 2)), (1, -1))
    one, other = (inference.fitted(x[None], np.ones((1, 2)), np.ones((1, 2))) for x in (a, b))
    assert found.bias == pytest.approx(one.bias - other.bias, abs=0.02)
    assert found.variance == pytest.approx(one.variance + other.variance, rel=0.1)


def test_what_is_fitted_widens_and_its_bias_extends_one_side() -> None:
    rng = np.random.default_rng(0)
    d = rng.standard_normal((4, 100)) + 0.2
    bare = crossed_interval(d)
    biased = crossed_interval(d, fit=inference.Fitted(None, 0.0, 0.05))
    assert (biased.low, biased.high) == pytest.approx((bare.low - 0.05, bare.high))
    assert biased.p > bare.p
    assert crossed_interval(-d, fit=inference.Fitted(None, 0.0, -0.05)).p == biased.p
    for bias in (0.0, 0.03, 0.4):
        fit = inference.Fitted(rng.standard_normal((4, 50)) * 0.5, 1e-3, bias)
        wide = crossed_interval(d, fit=fit)
        assert wide.low < bare.low < bare.high < wide.high
        assert (wide.p < 0.05) == (wide.low > 0)
        assert "calibration examples counted" in wide.method
        mirrored = crossed_interval(-d, fit=fit.negative())
        assert (mirrored.low, mirrored.high, mirrored.p) == pytest.approx((-wide.high, -wide.low, wide.p))
    same = inference.Fitted(np.zeros((4, 50)), 0.0, 0.0)
    assert (crossed_interval(d, fit=same).low, crossed_interval(d, fit=same).p) == pytest.approx((bare.low, bare.p))


def test_equivalence() -> None:
    def between(low: float, high: float) -> Interval:
        return Interval((low + high) / 2, low, high, 3, 10, 2.0, 0.5, "")

    assert inference.equivalence(between(-0.1, 0.2), 0.3) == inference.EQUAL
    assert inference.equivalence(between(0.1, 0.2), 0.3) == inference.EQUAL
    assert inference.equivalence(between(0.1, 0.4), 0.3) == inference.DIFFERS
    assert inference.equivalence(between(-0.4, -0.1), 0.3) == inference.DIFFERS
    assert inference.equivalence(between(-0.1, 0.4), 0.3) == inference.UNDECIDED
    assert inference.equivalence(between(math.nan, math.nan), 0.3) == inference.UNDECIDED
    with pytest.raises(ValueError, match="margin"):
        inference.equivalence(between(0, 1), 0)


@pytest.mark.plain
@given(st.integers(0, 999), st.integers(1, 5), st.integers(2, 30))
def test_effects_of_a_two_by_two_add_up(seed: int, S: int, N: int) -> None:
    cells = np.random.default_rng(seed).standard_normal((4, S, N))
    found = inference.two_by_two(*cells)
    total = cells[3].mean() - cells[0].mean()
    assert found.total.mean == pytest.approx(total)
    assert found.first.mean + found.second.mean == pytest.approx(total)
    assert found.first_alone.mean + found.second_alone.mean + found.interaction.mean == pytest.approx(total)
    assert found.first_alone == crossed_interval(cells[1] - cells[0])
    with pytest.raises(ValueError, match="shape"):
        inference.two_by_two(*cells[:3], cells[3][:, :1])


def test_share_is_fiellers() -> None:
    """Every ratio inside leaves part - ratio x whole compatible with 0; none just outside does."""
    rng = np.random.default_rng(0)
    for S in (1, 2, 3, 8):
        part = rng.standard_normal((S, 40)) + 1
        whole = part + 0.5 * rng.standard_normal((S, 40)) + 3
        found = inference.share(part, whole)
        assert found.mean == pytest.approx(part.mean() / whole.mean())
        for limit, sign in ((found.low, -1), (found.high, 1)):
            assert crossed_interval(part - (limit - sign * 1e-6) * whole).p > 0.05
            assert crossed_interval(part - (limit + sign * 1e-6) * whole).p < 0.05


def test_share_counts_what_was_fitted() -> None:
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((3, 60)) + 5
    part = 0.5 * whole + 0.3 * rng.standard_normal((3, 60))
    fit = inference.Fitted(rng.standard_normal((3, 40)), 0.01, 0.1)
    bare, found = inference.share(part, whole), inference.share(part, whole, fit=fit)
    assert found.low < bare.low < bare.high < found.high
    for limit, sign in ((found.low, -1), (found.high, 1)):
        assert crossed_interval(part - (limit - sign * 1e-6) * whole, fit=fit).p > 0.05
        assert crossed_interval(part - (limit + sign * 1e-6) * whole, fit=fit).p < 0.05


def test_share_counts_what_was_fitted_to_the_whole_too() -> None:
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((3, 60)) + 5
    part = 0.5 * whole + 0.3 * rng.standard_normal((3, 60))
    influences = 3 * rng.standard_normal((2, 3, 40))

    def fit(of_part: float, of_whole: float) -> inference.Fitted:
        both = np.array([of_part, of_whole])
        return inference.Fitted(np.tensordot(both, influences - influences.mean(-1, keepdims=True), 1), 0.0, 0.0)

    bare, found = inference.share(part, whole), inference.share(part, whole, fit=fit)
    assert found.low < bare.low < bare.high < found.high
    for limit, sign in ((found.low, -1), (found.high, 1)):
        for step, inside in ((-sign * 1e-6, True), (sign * 1e-6, False)):
            r = limit + step
            assert (crossed_interval(part - r * whole, fit=fit(1.0, -r)).p > 0.05) is inside
    # A whole that its fitted temperatures do not tell from 0 bounds no share.
    lost = inference.share(part, whole, fit=lambda a, b: inference.Fitted(60 * (a + b) * influences[0], 0.0, 0.0))
    assert (lost.low, lost.high) == (-math.inf, math.inf)


def test_share_of_nothing_is_unbounded() -> None:
    rng = np.random.default_rng(0)
    part = rng.standard_normal((3, 40)) + 5
    found = inference.share(part, rng.standard_normal((3, 40)))
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert "not separated" in found.method
    assert found.p == crossed_interval(part).p
    assert "none" in inference.share(part, np.zeros((3, 40)) + 1).method
    exact = inference.share(2 * part, part)
    assert (exact.low, exact.mean, exact.high) == pytest.approx((2, 2, 2))
    rows = [[1.0, 2.0], [1.5], [1.2, 1.1, 1.0]]
    nested = inference.share(rows, [[2 * v + 0.1 for v in row] for row in rows], nested=True)
    assert 0.4 < nested.low < nested.high < 0.5


def test_spread_is_a_chi_square_interval_with_fewer_degrees_of_freedom() -> None:
    from scipy import stats

    values = np.random.default_rng(0).standard_normal(10)
    found = inference.spread(values)
    assert found.mean == pytest.approx(values.std(ddof=1))
    assert found.df == pytest.approx(9 / (1 + 1.5 * 0.9))
    inside = stats.chi2.cdf(found.df * (found.mean / np.array([found.high, found.low])) ** 2, found.df)
    assert inside == pytest.approx([0.025, 0.975])
    scaled = inference.spread(3 * values + 7)
    assert (scaled.low, scaled.high) == pytest.approx((3 * found.low, 3 * found.high))
    for values in ([1.0], [1.0, 1.0], [1.0, math.nan]):
        assert "none" in inference.spread(values).method


def test_spread_ratio_is_pitman_morgan(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy import stats

    x, y = np.random.default_rng(1).standard_normal((2, 12))
    found = inference.spread_ratio(2 * x, y)
    assert inference.spread_ratio(y, 2 * x).low == pytest.approx(1 / found.high)
    assert inference.spread_ratio(x, found.high * x).high < 1
    # At the limits, the test of equal spreads has p = 0.05; without tails to allow for, it is that of a correlation.
    assert inference.spread_ratio(2 * x, found.low * y).p == pytest.approx(0.05)
    monkeypatch.setattr(sys.modules["calib_bench.inference.spread"], "KURTOSIS", 0.0)
    assert inference.spread_ratio(2 * x, y).p == pytest.approx(stats.pearsonr(2 * x + y, 2 * x - y).pvalue)
    with pytest.raises(ValueError, match="same seeds"):
        inference.spread_ratio(x, y[:3])
    assert "3 are needed" in inference.spread_ratio([1.0, 2.0], [1.0, 3.0]).method


def test_spreads_that_differ_by_rounding_are_equal() -> None:
    """Such as those of one model's repaired loss at two betas that it was not trained at."""
    x = np.random.default_rng(1).standard_normal(5)
    for shift in (0.1, 0.3, 0.7, 3.3):
        found = inference.spread_ratio(x + shift, x)
        assert (found.mean, found.p) == (1, 1)
        assert found.low <= 1 <= found.high


def test_rate_is_clopper_pearson() -> None:
    from scipy import stats

    for k, n in ((0, 3), (1, 3), (3, 3), (4, 10), (7, 1000)):
        theirs = stats.binomtest(k, n).proportion_ci(method="exact")
        found = inference.rate(k, n)
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    for k, n in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="rate"):
            inference.rate(k, n)


def test_selected_gain_by_hand() -> None:
    # Seeds 0 and 1 favour arm 1, seed 2 alone would make arm 2 win.
    selection = np.array([[5.0, 5, 5], [1, 1, 6], [4, 4, 0.5]])
    test = np.arange(9.0).reshape(3, 3)[..., None] + np.array([0.0, 0.3, 0.1, 0.2])
    found = inference.selected_gain(selection, test, 0)
    assert found.chosen == 1
    assert found.choices == (2, 2, 1)
    d = test[[2, 2, 1], [0, 1, 2]] - test[0]
    assert found.gain.mean == pytest.approx(d.mean())
    assert found.gain.high - found.gain.low >= crossed_interval(d).high - crossed_interval(d).low
    assert inference.selected_gain(-selection, test, 0, largest=True) == found
    alone = inference.selected_gain(selection[:, :1], test[:, :1] * np.array([1.0, 2, 3, 4]), 0)
    assert (alone.chosen, alone.choices) == (1, (1,))
    assert "one seed" in alone.gain.method
    stay = inference.selected_gain([[1.0, 1.0], [2.0, math.nan]], test[:2, :2], 0)
    assert (stay.chosen, stay.gain.mean, stay.gain.low, stay.gain.high) == (0, 0, 0, 0)
    rows = [[[1.0, 2.0], [3.0]], [[2.0, 2.0], [5.0]]]
    assert inference.selected_gain([[1.0, 1.0], [0.0, 0.0]], rows, 0, nested=True).gain.mean == pytest.approx(1.25)
    with pytest.raises(ValueError, match="reference"):
        inference.selected_gain(selection, test, 3)


@pytest.mark.plain
def test_selection_is_not_rewarded_for_luck() -> None:
    """Equal arms judged on the seeds that chose them seem to gain; left-out seeds show that there is nothing."""
    rng = np.random.default_rng(0)
    naive, honest = [], []
    for _ in range(300):
        seeds = rng.standard_normal((8, 4))
        found = inference.selected_gain(seeds, seeds[..., None], 0, largest=True)
        honest.append(found.gain.mean)
        naive.append((seeds[found.chosen] - seeds[0]).mean())
    assert np.mean(naive) > 0.5
    assert np.mean(honest) == pytest.approx(0, abs=0.15)


@pytest.mark.plain
def test_variance_shares_add_up_and_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    first, second = np.array([-1.0, 0, 1]), np.array([-0.5, 0.5])
    both = np.outer([1, -2, 1], [0.1, -0.1])
    found = []
    for _ in range(400):
        noise = 0.4 * rng.standard_normal(5) + 0.3 * rng.standard_normal((3, 2, 5))
        result = inference.variance_shares((first[:, None] + second + both)[..., None] + noise, draws=1)
        assert sum(i.mean for i in result[:4]) == pytest.approx(1)
        found.append([i.mean for i in result[:4]])
    parts = np.array([2 / 3, 0.25, 0.02, 0.25])
    assert np.mean(found, 0) == pytest.approx(parts / parts.sum(), abs=0.02)


@pytest.mark.plain
def test_shares_count_a_choice_to_first_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 3, 1)) + 0.3 * rng.standard_normal((4, 3, 5))
    plain = inference.variance_shares(values, draws=9)
    # One cell moves, by the same under each of two seeds: a share moves by its derivative.
    step, moves = 1e-4, np.zeros((4, 3, 1, 1, 2))
    moves[1, 2] = step
    counted = inference.variance_shares(values, draws=9, choice=moves)
    shifted = values.copy()
    shifted[1, 2] += step
    other = inference.variance_shares(shifted, draws=9)
    for name in ("first", "second", "interaction", "seed", "second_given_first", "first_given_second"):
        before, after = getattr(plain, name), getattr(counted, name)
        size = abs(getattr(other, name).mean - before.mean)
        low = before.mean - math.hypot(before.mean - before.low, stats.norm.ppf(0.975) * size)
        assert after.mean == before.mean
        assert after.low == pytest.approx(max(low, 0), abs=1e-9)
        assert 0 <= after.low <= before.low <= before.high <= after.high <= 1
        wide = getattr(inference.variance_shares(values, draws=9, choice=1e4 * moves), name)
        assert wide.low < before.low or before.low == 0
    # What seeds differ in alone is no choice's doing.
    noise = np.zeros((4, 3, 1, 2, 2))
    noise[1, 2] = [[1.0, -1.0], [-1.0, 1.0]]
    assert inference.variance_shares(values, draws=9, choice=noise).first == plain.first
    assert (counted.p_first, counted.p_second) == (plain.p_first, plain.p_second)


def test_variance_shares_without_replicates_or_variance() -> None:
    values = np.random.default_rng(0).standard_normal((3, 2, 2))
    assert "three seeds" in inference.variance_shares(values, draws=9).first.method
    assert math.isnan(inference.variance_shares(values[..., :1]).p_first)
    assert inference.permutation_p(values, 9) == inference.variance_shares(values, draws=9).p_first
    assert "nothing varies" in inference.variance_shares(np.ones((3, 2, 3)), draws=9).seed.method
    assert "not finite" in inference.variance_shares(values * np.nan).first.method


@pytest.mark.plain
def test_permutation_of_a_factor() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 3, 2, 3)) + 3 * rng.standard_normal((200, 1, 1, 3))
    found = [inference.variance_shares(y, draws=199, seed=i) for i, y in enumerate(noise)]
    assert np.mean([f.p_first for f in found]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([f.p_first <= 0.1 for f in found]) <= 0.17
    # An effect within the second level only; permuted exhaustively, 3! ^ 3 ways of which 3! move all seeds alike.
    effect = np.zeros((3, 2, 1))
    effect[:, 1] = np.array([[-9.0], [0], [9]])
    strong = inference.variance_shares(noise[0] + effect, draws=9999)
    assert strong.p_first == pytest.approx(1 / 36, abs=0.01)


def test_null_mean_is_the_known_bias() -> None:
    for N, expected in ((2000, 0.021), (10_000, 0.0096)):
        confidence = 1 / (1 + np.exp(-2 * np.abs(np.random.default_rng(0).standard_normal(N))))
        mean, p = ece_null_of(confidence, None, draws=200)
        assert mean == pytest.approx(expected, rel=0.25)
        assert math.isnan(p)


def test_null_p_value_is_uniform_under_calibration_and_small_otherwise() -> None:
    p = [ece_null_of(*(a[0] for a in calibrated(500, seed)), draws=99, seed=seed)[1] for seed in range(200)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.07)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    confidence, correct = calibrated(2000, 0)
    assert ece_null_of(np.sqrt(confidence[0]), correct[0], draws=99)[1] == 0.01


def test_null_from_logits() -> None:
    g = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(1000, 5, generator=g)
    y = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    mean, p = ece_null(z, y)
    confidence, correct = top_label(z, y)
    assert (mean, p) == ece_null_of(confidence, correct)
    assert (mean, p) == ece_null(z, y)
    assert p > 0.01
    assert ece_null(3 * z, y)[1] < 0.01
    assert ece_null(z)[0] == mean
    assert ece_null(torch.tensor([[1e4, 0.0]] * 5), torch.zeros(5, dtype=torch.int64)) == (0.0, 1.0)


@pytest.mark.plain
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_what_the_step_down_rule_rejects(p: list[float]) -> None:
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, i in enumerate(np.argsort(p, kind="stable")):
            if p[i] * (len(p) - step) > level:
                break
            rejected.add(int(i))
        assert rejected == set(np.flatnonzero(adjusted <= level))


def test_holm_keeps_nan_as_a_member() -> None:
    adjusted = holm([0.01, math.nan, 0.03])
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.06])
    assert math.isnan(adjusted[1])
    assert len(holm([])) == 0


# the choice of a rate


def test_a_choice_made_again_is_the_same_where_it_is_clear() -> None:
    clear = [[1.0, 1.1, 0.9], [2.0, 2.1, 1.9], [math.inf, 0.1, 0.2], [math.nan, 0.1, 0.2]]
    assert (redrawn_choice(clear, np.zeros((4, 9))) == 0).all()
    with pytest.raises(ValueError, match="finite cost"):
        redrawn_choice([[math.inf, 1.0]])


def test_candidates_that_are_alike_are_chosen_alike() -> None:
    rng = np.random.default_rng(0)
    shares = [np.bincount(redrawn_choice(rng.standard_normal((2, 4)), seed=s), minlength=2) / DRAWS for s in range(200)]
    assert np.mean(shares, 0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_errors_of_a_choice_have_twice_their_variance() -> None:
    """Two candidates, the second worse by one standard error of the difference of their means."""
    rng = np.random.default_rng(1)
    losses = rng.standard_normal((2, 400))
    losses -= losses.mean(1, keepdims=True)
    error = math.sqrt(np.cov(losses) @ [1, -1] @ [1, -1] / 400)
    chosen = redrawn_choice([[0.0], [error]], losses, draws=20_000)
    assert chosen.mean() == pytest.approx(stats.norm.sf(1 / math.sqrt(2)), abs=0.02)


def test_a_bad_candidate_is_not_good_because_its_seeds_scatter() -> None:
    cost = [[0.17, 0.18, 0.19], [0.18, 0.19, 0.21], [0.25, 0.4, 0.9]]
    assert 2 not in redrawn_choice(cost)


def test_draws_are_common_to_arms_of_the_same_seeds_and_examples() -> None:
    rng = np.random.default_rng(2)
    cost, losses = rng.standard_normal((3, 3)), rng.standard_normal((3, 50))
    np.testing.assert_array_equal(redrawn_choice(cost, losses), redrawn_choice(cost + 7, losses - 7))
    order = [2, 0, 1]
    np.testing.assert_array_equal(
        np.asarray(order)[redrawn_choice(cost[order], losses[order])], redrawn_choice(cost, losses)
    )


def test_the_variance_of_a_choice_is_that_of_two_alike() -> None:
    """Its expectation is arctan(sqrt 2) / pi of the squared difference of results, where a fair choice has a quarter.

    The difference of means over its error is normal, and a draw chooses otherwise where a normal value is above
    1 / sqrt 2 of its size.
    """
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        cost = rng.standard_normal((2, 30))
        best = cost.mean(1).argmin()
        move = np.where(redrawn_choice(cost) == best, 0.0, 0.2)
        found.append(choice_variance(np.repeat(move[:, None], 3, 1)))
    assert np.mean(found) == pytest.approx(0.2**2 * math.atan(math.sqrt(2)) / math.pi, rel=0.1)


def test_noise_of_seeds_is_no_variance_of_a_choice() -> None:
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((100_000, 3))
    assert choice_variance(noise) < 0.02
    assert choice_variance(noise + 1) == pytest.approx(1, abs=0.02)
    assert choice_variance(noise[:, :1] + 1) == pytest.approx(2, abs=0.05)


@pytest.mark.plain
@given(st.floats(-3, 3), st.floats(1e-3, 1), st.floats(0, 1), st.integers(2, 10))
def test_a_widened_interval_agrees_with_its_p_value(mean: float, spread: float, variance: float, S: int) -> None:
    before = crossed_interval(mean + spread * np.linspace(-1, 1, S)[:, None], nested=True)
    after = widened(before, variance)
    half, added = (before.high - before.low) / 2, stats.norm.ppf(0.975) * math.sqrt(variance)
    assert (after.high - after.low) / 2 == pytest.approx(math.hypot(half, added))
    assert (after.p < 0.05) == (after.low > 0 or after.high < 0) or after.p == pytest.approx(0.05)
    assert after.p >= before.p - 1e-12
    assert widened(before, 0.0) == before
    none = crossed_interval([[1.0], [1.0]])
    assert math.isnan(none.low)
    assert math.isnan(widened(none, variance).low)


def test_a_choice_that_moves_nothing_changes_no_share_and_no_2x2() -> None:
    rng = np.random.default_rng(5)
    part, whole = 0.5 + rng.standard_normal((4, 50)), 2 + rng.standard_normal((4, 50))
    still, moving = np.zeros((9, 3)), np.full((9, 3), 0.1)
    assert share(part, whole, choice=(still, still)) == share(part, whole)
    wide = share(part, whole, choice=(moving, still))
    assert wide.low < share(part, whole).low
    # Where part moves as its share of the whole does, the share does not move: only the whole is less sure.
    ratio = wide.mean
    along = share(part, whole, choice=(ratio * moving, moving))
    assert along.high - along.low < wide.high - wide.low
    cells = [rng.standard_normal((3, 40)) for _ in range(4)]
    assert two_by_two(*cells, choice=[still] * 4) == two_by_two(*cells)
    both = two_by_two(*cells, choice=[moving] * 4)
    assert both.total == two_by_two(*cells).total
    lone = two_by_two(*cells, choice=[still, still, still, moving])
    expected = widened(two_by_two(*cells).first, 0.1**2 / 4)
    assert (lone.first.low, lone.first.high) == pytest.approx((expected.low, expected.high))


# seeds of two kinds

NOISES = {
    "normal": lambda rng, S: rng.standard_normal(S),
    "t5": lambda rng, S: rng.standard_t(5, S) / math.sqrt(5 / 3),
    "t3": lambda rng, S: rng.standard_t(3, S) / math.sqrt(3),
}


@pytest.mark.plain
@pytest.mark.parametrize("S", [3, 5, 10, 20])
@pytest.mark.parametrize("noise", NOISES)
def test_ordinary_seeds_do_not_collapse(noise: str, S: int) -> None:
    """A spread of a twentieth and a tenth of the way to guessing is mistaken for two kinds in at most one arm of 50."""
    rng = np.random.default_rng(S)
    for spread in (0.04, 0.08):
        fired = [collapsed(0.9 + spread * NOISES[noise](rng, S), 0.1, largest=True).any() for _ in range(800)]
        assert np.mean(fired) <= 0.02


LONG_TAILS = {
    "exponential": (lambda rng, S: 1 - rng.exponential(size=S), 0.04),
    "lognormal": (
        lambda rng, S: (math.exp(0.5) - np.exp(rng.standard_normal(S))) / math.sqrt(math.e**2 - math.e),
        0.06,
    ),
    "gamma": (lambda rng, S: math.sqrt(2) * (0.5 - rng.gamma(0.5, size=S)), 0.06),
}


@pytest.mark.plain
@pytest.mark.parametrize("S", [3, 5, 10])
@pytest.mark.parametrize("noise", LONG_TAILS)
def test_a_long_tail_towards_guessing_is_seldom_a_collapse(noise: str, S: int) -> None:
    """Standard deviation a tenth of the way to guessing; a gap of ten of those within was no rarer than 6 and 9%."""
    draw, most = LONG_TAILS[noise]
    rng = np.random.default_rng(S)
    assert np.mean([collapsed(0.9 + 0.08 * draw(rng, S), 0.1, largest=True).any() for _ in range(1500)]) <= most


@pytest.mark.plain
@pytest.mark.parametrize(("spread", "least"), [(0.04, 0.98), (0.08, 0.75)])
@pytest.mark.parametrize("S", [3, 5, 10, 20])
def test_seeds_near_chance_are_found_among_seeds_that_scatter(S: int, spread: float, least: float) -> None:
    rng = np.random.default_rng(S)
    hits = []
    for _ in range(400):
        bad = rng.random(S) < 0.2
        bad &= bad.cumsum() <= S // 2
        accuracy = np.where(bad, 0.115, 0.9 + spread * rng.standard_normal(S))
        if bad.any():
            hits.append((collapsed(accuracy, 0.1, largest=True) == bad).all())
    assert np.mean(hits) >= least


@pytest.mark.plain
@pytest.mark.parametrize("S", [3, 5, 10, 20])
def test_seeds_at_chance_are_found_and_no_others(S: int) -> None:
    rng = np.random.default_rng(S)
    for _ in range(200):
        bad = rng.random(S) < 0.2
        bad &= bad.cumsum() <= S // 2
        accuracy = 0.9 + 0.01 * rng.standard_normal(S) - 0.79 * bad
        loss = 0.3 + 0.02 * rng.standard_normal(S) + 1.98 * bad
        np.testing.assert_array_equal(collapsed(accuracy, 0.1, largest=True), bad)
        np.testing.assert_array_equal(collapsed(loss, math.log(10), largest=False), bad)


def test_a_milder_collapse_is_found_among_five_and_what_is_not_finite_is_one() -> None:
    assert collapsed([0.90, 0.91, 0.70, 0.90, 0.905], 0.1, largest=True).tolist() == [False, False, True, False, False]
    assert collapsed([0.3, math.inf, 0.31, 0.3], 2.3, largest=False).tolist() == [False, True, False, False]
    assert not collapsed([0.9], 0.1, largest=True).any()
    assert not collapsed([0.9, 0.9, 0.9], 0.1, largest=True).any()
    assert not collapsed([0.1, 0.1, 0.1001], 0.1, largest=True).any()
    # A lucky seed is no collapse of the others.
    assert not collapsed([0.5, 0.5, 0.51, 0.9], 0.1, largest=True).any()


@pytest.mark.plain
@given(st.lists(st.integers(0, 999), min_size=2, max_size=12), st.randoms())
def test_collapse_knows_no_scale_and_no_order(thousandths: list[int], random: Any) -> None:
    values = [value / 1000 for value in thousandths]
    found = collapsed(values, -0.5, largest=True)
    assert found.sum() <= len(values) // 2
    order = random.sample(range(len(values)), len(values))
    np.testing.assert_array_equal(collapsed(np.asarray(values)[order], -0.5, largest=True), found[order])
    np.testing.assert_array_equal(collapsed(-8 * np.asarray(values), 4.0, largest=False), found)


# temperatures fitted anew


@pytest.mark.plain
def test_refitted_has_the_moments_of_fitted_and_is_common_to_arms() -> None:
    rng = np.random.default_rng(2)
    log_T, slope, curvature = 0.3 + 3 * rng.standard_normal((4, 250)), rng.standard_normal(4) / 9, np.full(4, 0.8)
    log_T += 4 * rng.standard_normal(250)  # what an example does, it does to every seed
    drawn = inference.refitted(log_T, slope, curvature, draws=40_000)
    found = inference.fitted(log_T[None], slope[None], curvature[None])
    first = found.influence_SM.mean(0)
    assert drawn.mean() == pytest.approx(-found.bias, rel=0.05)
    assert drawn.var() == pytest.approx(first.var(ddof=1) / 250 + found.variance, rel=0.05)
    other = inference.refitted(log_T + 1, slope, curvature, draws=40_000)
    np.testing.assert_allclose(other, drawn, atol=1e-12)
    np.testing.assert_allclose(inference.refitted(log_T, slope, curvature, False, draws=5), -found.bias)


@pytest.mark.plain
def test_a_mean_of_refits_is_where_refitted_puts_it() -> None:
    """Draws of the truth from temperatures of a normal error cover it as often as they say, at a slope of 0 too."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(300):
        error = rng.standard_normal(100)
        influence = 5 * (error - error.mean()) / error.std(ddof=1)
        delta = 5 / math.sqrt(100) * rng.standard_normal()
        estimate = delta**2 / 2  # of a score that is least at the true temperature, where it is 0
        low, high = estimate + np.quantile(inference.refitted(influence[None], [delta], [1.0]), [0.025, 0.975])
        inside.append(low <= 1e-12 and high >= -1e-12)
    assert np.mean(inside) >= 0.93
