"""One-vs-rest calibrators and the ensemble of temperatures against other packages, definitions and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn import nll, overconfident
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calib_bench.baselines import _one_vs_rest, _tallies, bbq, spline, venn_abers
from calib_bench.baselines import ensemble_temperature_scaling as ensemble
from calib_bench.baselines._solvers import log_odds
from calib_bench.baselines.beta_calibration import BASELINE as BETA
from calib_bench.baselines.ensemble_temperature_scaling import (
    apply_ensemble,
    fit_ensemble,
    simplex_weights,
)
from calib_bench.baselines.histogram_binning import apply_histogram, fit_histogram
from calib_bench.baselines.isotonic import apply_isotonic, fit_isotonic
from calib_bench.baselines.isotonic_multiclass import apply_isotonic_multiclass, fit_isotonic_multiclass
from calib_bench.baselines.platt_scaling import apply_platt, fit_platt
from calib_bench.baselines.quadratic_scaling import apply_quadratic, fit_quadratic
from calib_bench.baselines.temperature_scaling import apply_temperature, fit_temperature
from calib_bench.errors import UserError


def sample(N: int = 1000, K: int = 2, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Overconfident logits [N, K], float64; labels [N] from softmax(0.6 z)."""
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(N, K, generator=g, dtype=torch.float64)
    return z, torch.multinomial(torch.softmax(0.6 * z, 1), 1, generator=g)[:, 0]


def pair(x: Tensor) -> Tensor:
    """Logits [N, 2] whose log odds of class 1 are x."""
    return torch.stack([-x / 2, x / 2], 1)


# ---- the shared solver


@pytest.mark.parametrize("P", [2, 5])
def test_logistic_regressions_are_scikit_learns(P: int) -> None:
    from sklearn.linear_model import LogisticRegression

    g = torch.Generator().manual_seed(0)
    X = torch.randn(3, P, 400, generator=g, dtype=torch.float64)
    t = (torch.rand(3, 400, generator=g) < torch.sigmoid(X[:, 0] - 0.5)).double()
    penalty = torch.full((3, P), 0.5, dtype=torch.float64)
    found = _one_vs_rest.logistic(X, t, penalty, torch.zeros_like(penalty))
    for c in range(3):
        theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10).fit(X[c].T.numpy(), t[c].numpy())
        assert found.theta[c].numpy() == pytest.approx(theirs.coef_[0], abs=1e-5)

        def loss(w: Tensor, c: int = c) -> Tensor:
            f = w @ X[c]
            return torch.nn.functional.binary_cross_entropy_with_logits(f, t[c], reduction="sum") + w @ w / 4

        assert found.value[c] == pytest.approx(float(loss(found.theta[c])), rel=1e-12)
        torch.testing.assert_close(found.hessian[c], torch.autograd.functional.hessian(loss, found.theta[c]))


def test_a_held_unknown_stays_where_it_started() -> None:
    z, y = sample(300)
    X = torch.stack([z[:, 0], z[:, 1], torch.ones(300, dtype=torch.float64)])[None]
    start = torch.tensor([[0.0, 0.3, 0.0]], dtype=torch.float64)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    found = _one_vs_rest.logistic(X, y[None].double(), nothing, start, torch.tensor([[True, False, True]]))
    assert found.theta[0, 1] == 0.3
    assert found.theta[0, 0] != 0


def test_scores_of_rows_that_differ_by_rounding_are_ties() -> None:
    z = torch.tensor([[0.1, 0.7, -2.3, 1.1]], dtype=torch.float64)
    x = _one_vs_rest.scores(torch.cat([z, z + 0.3, z.log_softmax(1)]))
    assert (x == x[:, :1]).all()


def test_log_odds_are_exact_at_both_ends() -> None:
    z = torch.tensor([[800.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    odds = log_odds(z)
    assert odds[0].tolist() == pytest.approx([800 - math.log(2), -800, -800])
    p = z[1].softmax(0)
    torch.testing.assert_close(odds[1], torch.logit(p))
    torch.testing.assert_close(log_odds(z + 5), odds)


def test_tallies_count() -> None:
    z, y = sample(200, 4)
    z = z.round()
    x = _one_vs_rest.scores(z)
    for k, tally in enumerate(_tallies.tallies(x, y)):
        score, inverse = np.unique(x[k].numpy(), return_inverse=True)
        assert np.array_equal(tally.score, score)
        assert np.array_equal(tally.number, np.bincount(inverse))
        assert np.array_equal(tally.hits, np.bincount(inverse[y.numpy() == k], minlength=len(score)))


@pytest.mark.parametrize(
    ("fit", "apply"),
    [
        (fit_platt, apply_platt),
        (fit_isotonic, apply_isotonic),
        (fit_histogram, apply_histogram),
        (spline.BASELINE.fit, spline.apply_spline),
        (venn_abers.fit_venn_abers, venn_abers.apply_venn_abers),
    ],
)
def test_the_scale_of_two_logits_drops_out_but_that_of_three_does_not(fit, apply) -> None:
    # Log odds of two classes are proportional to the logits; those of more depend on the inverse temperature.
    for K, same in ((2, True), (3, False)):
        z, y = sample(400, K)
        gap = (apply(fit(z, y), z).exp() - apply(fit(4 * z, y), 4 * z).exp()).abs().max()
        assert (gap < 1e-5) == same


# ---- the prior of one example


def test_targets_are_the_labels_and_one_example_more() -> None:
    """The loss against them is that of the labels and of an example of any label at any of the scores."""
    z, y = sample(40, 3)
    f_CN = _one_vs_rest.scores(z)
    onehot_CN = torch.nn.functional.one_hot(y, 3).double().T
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    labels = bce(f_CN, onehot_CN, reduction="none").sum(1)
    one_more = bce(f_CN, torch.full_like(f_CN, 1 / 3), reduction="none").mean(1)
    against = bce(f_CN, _one_vs_rest.targets(y, 3), reduction="none").sum(1)
    torch.testing.assert_close(against, 40 / 41 * (labels + one_more))
    torch.testing.assert_close(_one_vs_rest.targets(y % 2, 1)[0], (40 * (y % 2).double() + 0.5) / 41)


ONE_VS_REST = {
    "platt": (fit_platt, apply_platt),
    "beta": (BETA.fit, BETA.apply),
    "spline": (spline.BASELINE.fit, spline.apply_spline),
}


def gaussian(N: int, K: int, seed: int, distance: float, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """One Gaussian a class: at scale 1 the logits are the log posterior, so that softmax is calibrated."""
    g = np.random.default_rng(seed)
    y = g.integers(0, K, N)
    z = scale * distance * (distance * np.eye(K)[y] + g.standard_normal((N, K)))
    return torch.from_numpy(z), torch.from_numpy(y)


@pytest.mark.parametrize("name", ONE_VS_REST)
def test_what_is_calibrated_and_sure_stays_so_with_few_examples_a_class(name: str) -> None:
    """25 examples of each of 10 classes: no cap at 26 / 27 on the confidence of a model that is right to be sure."""
    fit, apply = ONE_VS_REST[name]
    gap, lost = [], []
    for seed in range(5):
        z, y = gaussian(250, 10, seed, 3.6)
        new, labels = gaussian(4000, 10, 100 + seed, 3.6)
        logp = apply(fit(z, y), new)
        gap.append(float(logp.exp().amax(1).mean() - (logp.argmax(1) == labels).double().mean()))
        lost.append(nll(logp, labels) - nll(new.log_softmax(1), labels))
    assert abs(np.mean(gap)) < 0.01
    assert np.mean(lost) < (0.02 if name == "beta" else 0.0115)  # temperature scaling loses .0095


def logarithms(s: np.ndarray) -> np.ndarray:
    return np.stack([np.log(s), -np.log1p(-s)], 1)


def published_beta(s: np.ndarray, hit: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Kull et al.'s algorithm: logistic regression, fitted again without a feature whose coefficient is negative."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=99999999.0, tol=1e-8, max_iter=1000)
    kept = np.flatnonzero(model.fit(logarithms(s), hit).coef_[0] > 0)
    model.fit(logarithms(s)[:, kept], hit)
    return model.predict_proba(logarithms(new)[:, kept])[:, 1]


def published_platt(s: np.ndarray, hit: np.ndarray, new: np.ndarray) -> np.ndarray:
    from sklearn.calibration import _SigmoidCalibration

    return _SigmoidCalibration().fit(logarithms(s).sum(1), hit).predict(logarithms(new).sum(1))


def published_spline(s: np.ndarray, hit: np.ndarray, new: np.ndarray) -> np.ndarray:
    """As Lucena's: a natural cubic regression spline of the probability, its ridge chosen by cross-validation."""
    from scipy.interpolate import CubicSpline
    from sklearn.linear_model import LogisticRegressionCV

    knot = np.unique(np.quantile(s, np.linspace(0, 1, 8)))
    basis = CubicSpline(knot, np.eye(len(knot)), bc_type="natural")
    model = LogisticRegressionCV(
        Cs=np.logspace(-2, 3, 4),
        cv=3,
        scoring="neg_log_loss",
        l1_ratios=(0,),
        max_iter=500,
        use_legacy_attributes=False,
    )
    model.fit(basis(s), hit)
    return model.predict_proba(basis(np.clip(new, s.min(), s.max())))[:, 1]


PUBLISHED = {"platt": published_platt, "beta": published_beta, "spline": published_spline}


def published(name: str, z: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Log probabilities [N, K] of one published fit a class, normalized; at least 1e-6 first, where theirs are zero."""
    s, s_new, K = z.softmax(1).numpy(), new.softmax(1).numpy(), z.shape[1]
    columns = [PUBLISHED[name](s[:, k], (y == k).numpy(), s_new[:, k]) for k in range(1 if K == 2 else 0, K)]
    q = np.clip(np.stack([1 - columns[0], *columns] if K == 2 else columns, 1), 1e-6, 1)
    return torch.from_numpy(q / q.sum(1, keepdims=True)).log()


@pytest.mark.parametrize("name", ONE_VS_REST)
@pytest.mark.parametrize(
    ("N", "K", "distance", "scale"), [(250, 10, 3.6, 1.0), (800, 4, 1.5, 2.0), (100, 2, 2.5, 1.0), (800, 2, 1.5, 2.0)]
)
def test_held_out_loss_is_not_above_the_published_fits(
    name: str, N: int, K: int, distance: float, scale: float
) -> None:
    fit, apply = ONE_VS_REST[name]
    excess = []
    for seed in range({2: 6, 4: 2, 10: 1}[K]):
        z, y = gaussian(N, K, seed, distance, scale)
        new, labels = gaussian(3000, K, 100 + seed, distance, scale)
        excess.append(nll(apply(fit(z, y), new), labels) - nll(published(name, z, y, new), labels))
    assert np.mean(excess) < 1e-3


# ---- beta calibration


def test_beta_calibration_is_the_constrained_optimum() -> None:
    from scipy.optimize import minimize

    for seed, flip in ((0, 1), (1, 1), (2, -1), (3, 1)):
        z, y = sample(300, seed=seed)
        x = z[:, 1] - z[:, 0] if seed != 3 else (z[:, 1] - z[:, 0]).abs()
        t = _one_vs_rest.targets(y, 1)[0]
        f1, f2 = torch.sigmoid(flip * x).log(), -torch.log1p(-torch.sigmoid(flip * x))
        X = torch.stack([f1, f2, torch.ones_like(f1)], 1).numpy()

        def loss(w: np.ndarray, X: np.ndarray = X, t: Tensor = t) -> float:
            f = X @ w
            return float((np.logaddexp(0, f) - t.numpy() * f).sum())

        best = minimize(loss, [1, 1, 0], bounds=[(0, None), (0, None), (None, None)], method="L-BFGS-B", tol=1e-14)
        params = BETA.fit(pair(flip * x), y)
        ours = np.array([float(params[name]) for name in "abc"])
        assert (ours[:2] >= 0).all()
        assert loss(ours) <= best.fun + 1e-4
        assert ours == pytest.approx(best.x, abs=0.05)


def test_beta_calibration_against_netcal() -> None:
    from netcal.scaling import BetaCalibration

    z, y = sample(3000)
    new, _ = sample(500, seed=1)
    theirs = BetaCalibration()
    theirs.fit(z.softmax(1)[:, 1].numpy(), y.numpy())
    p = BETA.apply(BETA.fit(z, y), new).exp()[:, 1].numpy()
    assert p == pytest.approx(np.ravel(theirs.transform(new.softmax(1)[:, 1].numpy())), abs=2e-3)


def test_beta_calibration_recovers_its_own_family() -> None:
    g = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(200_000, generator=g, dtype=torch.float64)
    s = torch.sigmoid(x)
    y = (torch.rand(200_000, generator=g) < torch.sigmoid(0.5 * s.log() - 1.5 * torch.log1p(-s) + 0.4)).long()
    params = BETA.fit(pair(x), y)
    assert [float(params[name]) for name in "abc"] == pytest.approx([0.5, 1.5, 0.4], abs=0.05)


def test_beta_calibration_of_classes_swapped_is_the_same() -> None:
    z, y = sample(500)
    there = BETA.apply(BETA.fit(z.flip(1), 1 - y), z.flip(1)).flip(1)
    torch.testing.assert_close(BETA.apply(BETA.fit(z, y), z), there, rtol=0, atol=1e-5)


# ---- ensemble temperature scaling


@pytest.mark.parametrize("K", [2, 10])
def test_ensemble_is_never_worse_than_its_temperature(K: int) -> None:
    for seed in range(3):
        z, y = sample(500, K, seed)
        y = torch.where(torch.rand(500, generator=torch.Generator().manual_seed(seed)) < 0.1, 0, y)
        alone = nll(apply_temperature(fit_temperature(z, y), z), y)
        params = fit_ensemble(z, y)
        assert nll(apply_ensemble(params, z), y) <= alone + 1e-12
        assert params["weight"].sum() == pytest.approx(1)
        assert (params["weight"] >= 0).all()


def test_simplex_weights_satisfy_the_optimality_conditions() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        p = torch.rand(300, 3, generator=g, dtype=torch.float64) ** 3 * torch.rand(3, generator=g)
        w = simplex_weights(p.log())
        gain = (p / (p @ w)[:, None]).mean(0)  # 1 where weight is, at most 1 elsewhere
        assert gain.max() < 1 + 1e-4
        assert gain[w > 1e-4].min() > 1 - 1e-4


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 100_000), st.integers(1, 200), st.floats(0.1, 15), st.booleans())
def test_simplex_weights_are_the_optimum_and_zero_where_it_is_on_a_face(
    seed: int, N: int, power: float, uniform: bool
) -> None:
    from scipy.optimize import minimize

    g = torch.Generator().manual_seed(seed)
    p = torch.rand(N, 3, generator=g, dtype=torch.float64) ** power * torch.rand(3, generator=g)
    if uniform:
        p[:, 2] = 0.3
    w = simplex_weights(p.log())
    assert w.sum() == pytest.approx(1, abs=1e-15)
    gain = (p / (p @ w)[:, None]).mean(0)
    assert gain.max() <= 1 + 1e-4
    assert (gain[w > 0] - 1).abs().max() < 1e-10
    assert (w[gain < 1 - 1e-6] == 0).all()
    p_N3 = p.numpy()

    def loss(v: np.ndarray) -> float:
        return -float(np.log(np.clip(p_N3 @ v, 1e-300, None)).mean())

    sum_one = {"type": "eq", "fun": lambda v: v.sum() - 1}
    found = minimize(
        loss, np.full(3, 1 / 3), method="SLSQP", bounds=[(0, 1)] * 3, constraints=sum_one, options={"ftol": 1e-14}
    )
    theirs = np.clip(found.x, 0, None)
    assert loss(w.numpy()) <= loss(theirs / theirs.sum()) + 1e-10


def test_parts_that_agree_on_the_labels_leave_the_first_its_weight() -> None:
    p = torch.tensor([[0.9, 0.9, 0.3], [0.2, 0.2, 0.3]], dtype=torch.float64)
    wobble = 1 + 1e-13 * torch.tensor([[0, 1, 0], [0, -1, 0]], dtype=torch.float64)
    for logp in (p.log(), (p * wobble).log(), (p * (2 - wobble)).log()):
        assert simplex_weights(logp)[1] == 0
    line = torch.stack([p[:, 0], p[:, 2], (p[:, 0] + p[:, 2]) / 2], 1)  # the third is a mixture of the others
    inner = simplex_weights(line.log())
    assert (inner > 0).sum() <= 2
    assert simplex_weights(torch.full((5, 3), -0.7, dtype=torch.float64)).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("best", "expected"), [(0, [1, 0, 0]), (1, [0, 1, 0]), (2, [0, 0, 1])])
def test_a_part_that_is_best_everywhere_takes_all(best: int, expected: list[int]) -> None:
    logp = torch.full((20, 3), -3.0, dtype=torch.float64)
    logp[:, best] = -1.0
    logp[0] = torch.tensor([-900.0, -900.0, -900.0])
    logp[0, best] = -5.0
    assert simplex_weights(logp).tolist() == expected


def test_a_part_that_gives_one_label_no_chance_still_takes_its_share() -> None:
    """Of 100 examples one is impossible under the first part: the optimum on that edge is known."""
    logp = torch.tensor([0.0, -2000.0, -4.0], dtype=torch.float64).repeat(100, 1)
    logp[0, 0] = -1e5
    w = simplex_weights(logp)
    share = 0.01 / (1 - math.exp(-4))  # the root of 0.01 / t = 0.99 (1 - e) / (1 - t (1 - e)), e = exp(-4)
    assert w.tolist() == pytest.approx([1 - share, 0, share], abs=1e-12)


@pytest.mark.parametrize("K", [2, 3, 10])
def test_ensemble_does_not_see_the_rounding_of_its_temperature(K: int) -> None:
    """What the tail of a prediction says must not hang on a processor's last bits."""
    for seed in range(3):
        z, y = sample(80, K, seed)
        for logits in (z, 1e4 * z, z.round(), torch.zeros_like(z)):
            for labels in (y, y % 2, logits.argmax(1), logits.argmin(1), torch.full_like(y, K - 1)):
                temperature = fit_temperature(logits, labels)["temperature"]
                logps = []
                for wobble in (1, 1 + 1e-15, 1 - 1e-14):
                    T = temperature * wobble
                    weight = simplex_weights(ensemble._own(logits, labels, T))
                    logps.append(apply_ensemble({"temperature": T, "weight": weight}, 10 * logits))
                for logp in logps[1:]:
                    torch.testing.assert_close(logp, logps[0], rtol=1e-6, atol=1e-7)


def test_ensemble_against_probmetrics() -> None:
    from probmetrics.calibrators import ETSCalibrator

    z, y = sample(2000, 5)
    y = torch.where(torch.rand(2000, generator=torch.Generator().manual_seed(0)) < 0.1, 0, y)
    new, labels = sample(2000, 5, seed=1)
    theirs = ETSCalibrator(loss="ce")
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    other = torch.from_numpy(theirs.predict_proba(new.softmax(1).numpy())).log()
    ours = apply_ensemble(fit_ensemble(z, y), new)
    assert nll(ours, labels) == pytest.approx(nll(other, labels), abs=2e-4)


# ---- quadratic scaling


def two_normals(N: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores N(1, 2^2) of one class and N(-1, 1) of the other: log odds log(p / 2q) + (x + 1)^2 / 2 - (x - 1)^2 / 8."""
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(N, generator=g) < 0.4).long()
    x = torch.randn(N, generator=g, dtype=torch.float64) * (1 + y) + 2 * y - 1
    return pair(x), y


def test_quadratic_scaling_is_probmetrics() -> None:
    from probmetrics.calibrators.logistic import BinaryLogisticCalibrator

    z, y = two_normals(4000)
    theirs = BinaryLogisticCalibrator(type="quadratic")
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    new = pair(torch.linspace(-12, 12, 49, dtype=torch.float64))
    p = apply_quadratic(fit_quadratic(z, y), new).exp()
    assert p.numpy() == pytest.approx(theirs.predict_proba(new.softmax(1).numpy()), abs=4e-3)


def test_quadratic_scaling_is_the_optimum_of_its_targets() -> None:
    from scipy.optimize import minimize

    z, y = two_normals(200)
    x, t = (z[:, 1] - z[:, 0]).numpy(), _one_vs_rest.targets(y, 1)[0].numpy()

    def loss(w: np.ndarray) -> float:
        f = w[0] + w[1] * x + w[2] * x**2
        return float((np.logaddexp(0, f) - t * f).sum())

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
    found = best.x[0] + best.x[1] * x + best.x[2] * x**2
    log_odds = apply_quadratic(fit_quadratic(z, y), z).diff(dim=1)[:, 0]
    assert log_odds.numpy() == pytest.approx(found, abs=1e-3)


def test_quadratic_scaling_finds_the_log_odds_of_two_normals() -> None:
    z, y = two_normals(100_000)
    new = pair(torch.linspace(-4, 5, 19, dtype=torch.float64))
    x = new[:, 1] - new[:, 0]
    truth = math.log(0.4 / 0.6 / 2) + (x + 1).square() / 2 - (x - 1).square() / 8
    params = fit_quadratic(z, y)
    torch.testing.assert_close(apply_quadratic(params, new).diff(dim=1)[:, 0], truth, rtol=0.05, atol=0.1)
    held_out, labels = two_normals(20_000, seed=1)
    platt = nll(apply_platt(fit_platt(z, y), held_out), labels)
    assert nll(apply_quadratic(params, held_out), labels) < platt - 0.01


def test_quadratic_scaling_of_logits_without_end() -> None:
    z, y = two_normals(200)
    new = torch.tensor([[-1e200, 1e200], [1e300, -1e300], [0.0, -1e150]], dtype=torch.float64)
    logp = apply_quadratic(fit_quadratic(z, y), new)
    assert not logp.isnan().any()
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(3, dtype=torch.float64))


# ---- isotonic, histogram


def test_multiclass_isotonic_is_one_function_and_keeps_the_order() -> None:
    from sklearn.isotonic import IsotonicRegression

    z, y = sample(400, 4)
    p = z.softmax(1)
    onehot = torch.nn.functional.one_hot(y, 4).double()
    q = IsotonicRegression().fit_transform(p.flatten().numpy(), onehot.flatten().numpy()).reshape(400, 4)
    share = 1 / 401
    q = q + 1e-6 * p.numpy()
    expected = (1 - share) * q / q.sum(1, keepdims=True) + share / 4
    logp = apply_isotonic_multiclass(fit_isotonic_multiclass(z, y), z)
    assert logp.exp().numpy() == pytest.approx(expected, abs=1e-9)
    assert torch.equal(logp.argsort(dim=1), z.argsort(dim=1))


def test_isotonic_against_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    z, y = overconfident(400, 2)
    z = (4 * z).round() / 4  # ties
    score = log_odds(z)[:, 1].numpy()
    new = log_odds(overconfident(300, 2, seed=1)[0])
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, y.numpy())
    params = fit_isotonic(z, y)
    p = apply_isotonic(params, new / 2)[:, 1].exp().numpy()  # log odds of (-x/2, x/2) are (-x, x)
    share = 1 / 401
    assert params["uniform"] == share
    assert p == pytest.approx((1 - share) * theirs.predict(new[:, 1].numpy()) + share / 2, abs=1e-6)


def test_isotonic_without_mixing_has_an_infinite_log_loss_and_with_it_not() -> None:
    # netcal, scikit-learn and probmetrics return probabilities of exactly zero.
    from netcal.binning import IsotonicRegression

    z, y = sample(300, 3)
    new, labels = sample(20_000, 3, seed=1)
    theirs = IsotonicRegression()
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    assert (theirs.transform(new.softmax(1).numpy())[np.arange(20_000), labels.numpy()] == 0).any()
    assert math.isfinite(nll(apply_isotonic(fit_isotonic(z, y), new), labels))


def test_histogram_binning_against_its_definition() -> None:
    z, y = overconfident(300, 3)
    params = fit_histogram(z, y, bins=10)
    x = log_odds(z)
    share = 1 / 301
    q = torch.empty_like(x)
    for k in range(3):
        for part in x[:, k].argsort().chunk(10):
            q[part, k] = (y[part] == k).double().mean()
    total = q.sum(1, keepdim=True)
    expected = (1 - share) * torch.where(total > 0, q / total, 1 / 3) + share / 3
    torch.testing.assert_close(apply_histogram(params, z).exp(), expected)


def test_histogram_of_two_classes_is_one_map() -> None:
    x = torch.arange(10, dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 1, 1])
    params = fit_histogram(pair(x), y, bins=3)
    assert params["edge"].tolist() == [3, 6, 9]  # ranks 4, 7 and 10
    assert params["value"].tolist() == pytest.approx([1 / 4, 2 / 3, 2 / 3])
    p = apply_histogram(params, pair(x)).exp()[:, 1]
    assert p[0] == pytest.approx(1 / 4 * 10 / 11 + 0.5 / 11)


@pytest.mark.parametrize(
    ("fit", "apply"), [(fit_isotonic, apply_isotonic), (fit_histogram, apply_histogram)], ids=["isotonic", "histogram"]
)
def test_binned_maps_never_give_an_infinite_loss(fit, apply) -> None:
    z, y = overconfident(100, 10)
    new, labels = overconfident(5000, 10, seed=3)
    logp = apply(fit(z, y), new)
    assert logp.amin() >= math.log(1 / 101 / 10) - 1e-9
    assert math.isfinite(nll(logp, labels))


# ---- Bayesian binning


def brute_force_bbq(x: np.ndarray, y: np.ndarray, new: float) -> float:
    from scipy.special import betaln, expit

    order = np.argsort(x)
    x, y, N = x[order], y[order], len(x)
    scores, means = [], []
    for B in bbq.bin_counts(N):
        ends = [math.ceil(b * N / B) for b in range(1, B + 1)]
        score, start, low = 0.0, 0, 0.0
        mean = None
        for b, end in enumerate(ends):
            high = 1.0 if b == B - 1 else expit(x[end - 1])
            middle = (low + high) / 2
            n, m = end - start, y[start:end].sum()
            alpha, beta = 2 * middle / B, 2 * (1 - middle) / B
            score += betaln(m + alpha, n - m + beta) - betaln(alpha, beta)
            if mean is None and (new <= x[end - 1] or b == B - 1):
                mean = (m + alpha) / (n + 2 / B)
            start, low = end, high
        scores.append(score)
        means.append(mean)
    weights = np.exp(np.array(scores) - max(scores))
    return float(weights @ np.array(means) / weights.sum())


def test_bbq_is_its_definition() -> None:
    z, y = sample(120)
    x = (z[:, 1] - z[:, 0]).numpy()
    params = bbq.fit_bbq(z, y)
    new = np.linspace(-8, 8, 41) + 0.001
    p = bbq.apply_bbq(params, pair(torch.from_numpy(new))).exp()[:, 1]
    expected = [brute_force_bbq(x, y.numpy(), s) for s in new]
    assert p.numpy() == pytest.approx(expected, abs=1e-6)


def test_bbq_is_flat_where_scores_say_nothing_and_not_where_they_do() -> None:
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2000, generator=g, dtype=torch.float64)
    coin = (torch.rand(2000, generator=g) < 0.5).long()
    real = (torch.rand(2000, generator=g) < torch.sigmoid(x)).long()
    assert (bbq.fit_bbq(pair(x), coin)["value"] - 0.5).abs().max() < 0.1
    assert bbq.fit_bbq(pair(x), real)["value"].aminmax() == pytest.approx((0.03, 0.97), abs=0.04)


def test_bbq_is_not_worse_than_netcals() -> None:
    # netcal's binnings have bins of equal width and are weighted by BIC.
    from netcal.binning import BBQ

    z, y = sample(1000)
    new, labels = sample(4000, seed=1)
    theirs = BBQ()
    theirs.fit(z.softmax(1)[:, 1].numpy(), y.numpy())
    other = torch.from_numpy(np.clip(theirs.transform(new.softmax(1)[:, 1].numpy()), 1e-12, 1 - 1e-12))
    other = torch.stack([1 - other, other], 1).log()
    assert nll(bbq.apply_bbq(bbq.fit_bbq(z, y), new), labels) < nll(other, labels) + 5e-3


def test_netcal_cannot_use_bins_of_equal_count() -> None:
    # Its equal-mass histogram is fitted and then refuses to transform.
    from netcal.binning import HistogramBinning

    z, y = sample(200)
    p = z.softmax(1)[:, 1].numpy()
    method = HistogramBinning(bins=5, equal_intervals=False)
    method.fit(p, y.numpy())
    with pytest.raises(ValueError, match="not implemented"):
        method.transform(p)


# ---- Venn-Abers


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_venn_abers_is_isotonic_regression_with_one_example_more(ties: bool, sign: int) -> None:
    from sklearn.isotonic import IsotonicRegression

    for N in (1, 2, 7, 40):
        z, y = sample(N, seed=N)
        x = sign * (z[:, 1] - z[:, 0])
        x = (x / 2).round() * 2 if ties else x
        new = torch.cat([x[:10], torch.linspace(-9.1, 9, 15, dtype=torch.float64)])
        p0, p1 = venn_abers.bounds(venn_abers.fit_venn_abers(pair(x), y), pair(new))
        for i, s in enumerate(new.tolist()):
            for label, found in ((0, p0), (1, p1)):
                more = IsotonicRegression().fit(np.append(x, s), np.append(y, label))
                assert float(found[0, i]) == pytest.approx(more.predict([s])[0], abs=1e-9)


def test_venn_abers_bounds_hold_and_merge() -> None:
    z, y = sample(500, 3)
    new, _ = sample(500, 3, seed=1)
    params = venn_abers.fit_venn_abers(z, y)
    p0, p1 = venn_abers.bounds(params, new)
    assert (p0 < p1).all()
    assert (p0 >= 0).all()
    assert (p1 <= 1).all()
    q = (p1 / (1 - p0 + p1)).T
    torch.testing.assert_close(venn_abers.apply_venn_abers(params, new).exp(), q / q.sum(1, keepdim=True))
    for x, *both in zip(_one_vs_rest.scores(new), p0, p1, strict=True):
        assert all((p[x.argsort()].diff() >= -1e-12).all() for p in both)


def test_venn_abers_says_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venn_abers, "LIMIT", 1000)
    with pytest.raises(UserError, match="at most 250 examples"):
        venn_abers.fit_venn_abers(*sample(300, 4))


# ---- splines


def test_spline_basis_is_the_natural_cubic_spline() -> None:
    from scipy.interpolate import CubicSpline

    g = torch.Generator().manual_seed(0)
    knot = (4 * torch.rand(1, 8, generator=g, dtype=torch.float64)).sort(1).values
    curvature = torch.randn(1, 6, generator=g, dtype=torch.float64)

    def f(u: Tensor) -> np.ndarray:
        return torch.bmm(curvature[:, None], spline.hats(knot, u[None]))[0, 0].numpy()

    theirs = CubicSpline(knot[0].numpy(), f(knot[0]), bc_type="natural")
    u = torch.linspace(float(knot[0, 0]), float(knot[0, -1]), 501, dtype=torch.float64)
    assert f(u) == pytest.approx(theirs(u.numpy()), abs=1e-9)
    assert theirs(knot[0, 1:-1].numpy(), 2) == pytest.approx(curvature[0].numpy(), abs=1e-7)
    outside = torch.linspace(9, 11, 5, dtype=torch.float64)
    assert np.diff(f(outside), 2) == pytest.approx(np.zeros(3), abs=1e-9)
    fine = np.linspace(float(knot[0, 0]), float(knot[0, -1]), 200_001)
    integral = np.trapezoid(theirs(fine, 2) ** 2, fine)
    assert float(curvature @ spline.gram(knot)[0] @ curvature.T) == pytest.approx(integral, rel=1e-4)


def bent(N: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores whose log odds are bent: no sigmoid of a line fits."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(N, generator=g, dtype=torch.float64)
    return pair(x), (torch.rand(N, generator=g) < torch.sigmoid(1.5 * torch.sin(1.5 * x))).long()


def test_spline_follows_a_bend_and_is_platt_where_there_is_none() -> None:
    z, y = bent(4000)
    new, labels = bent(4000, seed=1)
    ours = nll(spline.apply_spline(spline.BASELINE.fit(z, y), new), labels)
    truth = torch.sigmoid(1.5 * torch.sin(1.5 * (new[:, 1] - new[:, 0])))
    best = nll(torch.stack([1 - truth, truth], 1).log(), labels)
    assert ours < nll(apply_platt(fit_platt(z, y), new), labels) - 0.02
    assert ours < best + 0.01
    z, y = sample(4000)
    straight = spline.BASELINE.fit(z, y)
    torch.testing.assert_close(
        spline.apply_spline(straight, z).exp(), apply_platt(fit_platt(z, y), z).exp(), rtol=0, atol=0.02
    )


def test_spline_smoothness_maximizes_the_laplace_evidence() -> None:
    z, y = bent(500)
    x = _one_vs_rest.scores(z, y)
    u, _, _ = _one_vs_rest.standardized(x)
    knot = spline.knots(u)
    root = torch.linalg.cholesky(spline.gram(knot))
    bends = torch.linalg.solve_triangular(root, spline.hats(knot, u), upper=False)
    X = torch.cat([torch.ones_like(u)[:, None], u[:, None], bends], 1)
    r, t = bends.shape[1], _one_vs_rest.targets(y, 1)

    def evidence(smoothness: float) -> float:
        penalty = torch.tensor([[0.0, _one_vs_rest.RIDGE, *[smoothness] * r]], dtype=torch.float64)
        found = _one_vs_rest.logistic(X, t, penalty, torch.zeros_like(penalty))
        return float(r / 2 * math.log(smoothness) - found.value - torch.linalg.slogdet(found.hessian[0])[1] / 2)

    chosen = float(spline.BASELINE.fit(z, y)["smoothness"])
    best = max(evidence(10**e) for e in np.linspace(-3, 6, 37))
    assert evidence(chosen) > best - 0.1


def test_spline_against_probmetrics() -> None:
    # Its splines of the cumulative score leave [0, 1]: clipped here, as a log loss needs.
    from probmetrics.calibrators import CDFSplineCalibrator

    z, y = bent(3000)
    new, labels = bent(3000, seed=1)
    theirs = CDFSplineCalibrator()
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    p = torch.from_numpy(np.clip(theirs.predict_proba(new.softmax(1).numpy()), 1e-6, 1))
    ours = nll(spline.apply_spline(spline.BASELINE.fit(z, y), new), labels)
    assert ours <= nll((p / p.sum(1, keepdim=True)).log(), labels) + 1e-3
