"""Calibrators that are affine in the logits or their logarithms: optima, identities, and other packages' fits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch
from drawn import nll, overconfident
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from calib_bench.baselines import _linear, vector_scaling
from calib_bench.baselines._affine import tempered
from calib_bench.baselines._linear import Precision, fit_diagonal, fit_full
from calib_bench.baselines._solvers import log_odds, spread
from calib_bench.baselines.dirichlet_scaling import BASELINE as DIRICHLET
from calib_bench.baselines.matrix_scaling import BASELINE as MATRIX
from calib_bench.baselines.platt_scaling import apply_platt, fit_platt
from calib_bench.baselines.structured_matrix_scaling import BASELINE as STRUCTURED_MATRIX
from calib_bench.baselines.structured_vector_scaling import BASELINE as STRUCTURED_VECTOR
from calib_bench.baselines.temperature_scaling import apply_temperature, fit_temperature
from calib_bench.baselines.vector_scaling import BASELINE as VECTOR

NAMES = (
    "vector_scaling",
    "matrix_scaling",
    "dirichlet_scaling",
    "structured_vector_scaling",
    "structured_matrix_scaling",
)
RIGID = Precision(1e12, 1e12, 1e12)
each_family = pytest.mark.parametrize("name", NAMES)


def sample(N: int = 400, K: int = 5, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits, and labels whose own logits are an affine map of them that no temperature makes up for."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(N, K, generator=g, dtype=torch.float64)
    truth = 1.8 * z + 0.5 * z.roll(1, 1) + 0.7 * torch.randn(K, generator=g, dtype=torch.float64)
    return scale * z, torch.multinomial(truth.softmax(1), 1, generator=g)[:, 0]


def fitted(name: str, z: Tensor, y: Tensor) -> Tensor:
    baseline = import_module(f"calib_bench.baselines.{name}").BASELINE
    return baseline.apply(baseline.fit(z, y), z)


def objective(name: str, z: Tensor, y: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Each family's total loss with its prior, written out as its docstring has it, and its unknowns at the fit."""
    N, K = z.shape
    params = import_module(f"calib_bench.baselines.{name}").BASELINE.fit(z, y)
    T = float(fit_temperature(z, y)["temperature"])
    logp = z.log_softmax(1)
    x, unit, start, own, intercept, off = {
        "vector_scaling": (z, spread(z), 1 / T, 0.1, 0.1, 0.0),
        "matrix_scaling": (z, spread(z), 1 / T, 0.1, 1.0, 10 * K),
        "dirichlet_scaling": (logp, float(logp.square().mean().sqrt()), 1 / T, 0.1, 1.0, 10 * K),
    }.get(name, (((z / T).softmax(1) * N / (N + 1) + 1 / (N + 1) / K).log(), 1.0, 1.0, 2 * K, 2 * K, 2 * K * (K - 1)))
    weight = params["weight"]
    eye = torch.eye(K, dtype=torch.float64)
    penalty = (own * eye + off * (1 - eye)) if weight.ndim == 2 else torch.full((K,), own, dtype=torch.float64)

    def total(theta: Tensor) -> Tensor:
        W, b = theta[:-K].view_as(weight), theta[-K:]
        logits = x @ W.T + b if W.ndim == 2 else W * x + b
        departure = unit * (W - start * (eye if W.ndim == 2 else 1))
        prior = (penalty * departure.square()).sum() + intercept * b.square().sum()
        return F.cross_entropy(logits, y, reduction="sum") + prior / 2

    return total, torch.cat([weight.flatten(), params["bias"]])


@each_family
@pytest.mark.parametrize(("N", "K"), [(400, 2), (2000, 5), (300, 20), (40, 60), (6000, 3)])
def test_the_gradient_vanishes_at_the_fit(name: str, N: int, K: int) -> None:
    z, y = sample(N, K)
    total, theta = objective(name, z, y)
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(total(theta), theta)
    assert gradient.norm() / N < 2e-5  # of 0.1 to 100 at the start


@each_family
def test_no_general_optimizer_does_better(name: str) -> None:
    from scipy.optimize import minimize

    z, y = sample(600, 4)
    total, theta = objective(name, z, y)

    def both(v: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(v, requires_grad=True)
        value = total(t) / 600
        return value.item(), torch.autograd.grad(value, t)[0].numpy()

    best = minimize(both, np.zeros(len(theta)), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).fun
    assert float(total(theta)) / 600 <= best + 1e-9


@pytest.mark.parametrize("family", [fit_diagonal, fit_full])
@pytest.mark.parametrize("K", [4, 30])
def test_every_metric_leads_to_one_optimum(
    family: Callable[..., tuple[Tensor, Tensor]], K: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, y = sample(800, K)

    def fit() -> Tensor:
        return torch.cat([t.flatten() for t in family(z, y, lambda a: (a / 3, a), Precision(1.0, 1.0, 20.0))])

    first = fit()
    for constants in (
        {"EXACT_DIAGONAL": 0, "EXACT_FULL": 0},
        {"EXACT_FULL": 50},
        {"LARGE_DIAGONAL": 0, "LARGE_FULL": 0},
        {"CACHE": 0, "ENTRIES": 1000, "ROWS": 7},
        {"SAMPLE": 100},
    ):
        with monkeypatch.context() as patch:
            for constant, value in constants.items():
                patch.setattr(_linear, constant, value)
            torch.testing.assert_close(fit(), first, rtol=0, atol=5e-5)  # where the mean loss is flat to 1e-12


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 14), st.integers(1, 60), st.sampled_from([1e-3, 1.0, 30.0, 1e3]))
def test_fits_never_lose_to_their_start(seed: int, K: int, N: int, scale: float) -> None:
    """Temperature scaling, to which the priors pull, lies in each family and has a penalty of zero."""
    z, y = sample(N, K, seed, scale)
    start = nll(apply_temperature(fit_temperature(z, y), z), y)
    for name in ("vector_scaling", "matrix_scaling", "dirichlet_scaling"):
        assert nll(fitted(name, z, y), y) <= start + 1e-9
    x = tempered(STRUCTURED_VECTOR.fit(z, y), z)
    for name in ("structured_vector_scaling", "structured_matrix_scaling"):
        assert nll(fitted(name, z, y), y) <= nll(x, y) + 1e-9


# ---- identities


def test_an_infinite_off_diagonal_penalty_is_vector_scaling() -> None:
    z, y = sample()
    W = MATRIX.fit(z, y, prior=Precision(0.1, 0.1, 1e12))
    v = VECTOR.fit(z, y)
    torch.testing.assert_close(W["weight"], v["weight"].diag(), rtol=0, atol=1e-6)
    torch.testing.assert_close(W["bias"], v["bias"], rtol=0, atol=1e-6)
    sms = STRUCTURED_MATRIX.fit(z, y, prior=Precision(10, 10, 1e12))
    svs = STRUCTURED_VECTOR.fit(z, y)
    torch.testing.assert_close(sms["weight"], svs["weight"].diag(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sms["bias"], svs["bias"], rtol=0, atol=1e-6)


def test_an_infinite_penalty_is_temperature_scaling() -> None:
    z, y = sample()
    expected = apply_temperature(fit_temperature(z, y), z)
    for logp in (
        VECTOR.apply(VECTOR.fit(z, y, prior=RIGID), z),
        MATRIX.apply(MATRIX.fit(z, y, prior=RIGID), z),
        DIRICHLET.apply(DIRICHLET.fit(z, y, prior=RIGID), z),
    ):
        torch.testing.assert_close(logp, expected, rtol=0, atol=1e-6)
    mixed = tempered(STRUCTURED_VECTOR.fit(z, y), z)
    torch.testing.assert_close(mixed.exp(), expected.exp() * 400 / 401 + 1 / 401 / 5, rtol=1e-12, atol=0)
    for logp in (
        STRUCTURED_VECTOR.apply(STRUCTURED_VECTOR.fit(z, y, prior=RIGID), z),
        STRUCTURED_MATRIX.apply(STRUCTURED_MATRIX.fit(z, y, prior=RIGID), z),
    ):
        torch.testing.assert_close(logp, mixed, rtol=0, atol=1e-6)


def test_fits_of_scaled_logits_are_scaled() -> None:
    z, y = sample()
    for fit in (VECTOR.fit, MATRIX.fit):
        one, many = fit(z, y), fit(1000 * z, y)
        torch.testing.assert_close(1000 * many["weight"], one["weight"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(many["bias"], one["bias"], rtol=0, atol=1e-6)


def test_dirichlet_of_two_classes_is_logistic_in_both_logarithms() -> None:
    from sklearn.linear_model import LogisticRegression

    z, y = sample(1000, 2)
    x = z.log_softmax(1).numpy()
    theirs = LogisticRegression(C=1e10, tol=1e-12, max_iter=10_000, solver="newton-cg").fit(x, y.numpy())
    logp = DIRICHLET.apply(DIRICHLET.fit(z, y, prior=Precision(1e-6, 1e-6, 1e-6)), z)
    assert logp.exp().numpy() == pytest.approx(theirs.predict_proba(x), abs=1e-5)
    best = float(-np.log(theirs.predict_proba(x))[np.arange(1000), y.numpy()].mean())
    assert nll(logp, y) <= best + 1e-9


@pytest.mark.parametrize("K", [2, 6])
def test_vector_scaling_reaches_the_maximum_likelihood(K: int) -> None:
    from scipy.optimize import minimize

    z, y = overconfident(1000, K)
    Z, Y = z.double().numpy(), y.numpy()

    def mean_loss(theta: np.ndarray) -> float:
        return F.cross_entropy(torch.tensor(theta[:K] * Z + theta[K:]), y).item()

    best = minimize(mean_loss, np.r_[np.ones(K), np.zeros(K)], method="BFGS", options={"gtol": 1e-6}).fun
    ours = nll(VECTOR.apply(VECTOR.fit(z, y, prior=Precision(1e-6, 1e-6)), z), y)
    assert ours - best < 1e-8
    assert nll(VECTOR.apply(VECTOR.fit(z, y), z), y) - best < 1e-4  # what the prior costs
    assert len(Y) == 1000


def test_matrix_scaling_without_priors_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    z, y = sample(1500, 4)
    theirs = LogisticRegression(C=1e10, tol=1e-9, max_iter=1000, solver="newton-cg").fit(z.numpy(), y.numpy())
    best = float(-np.log(theirs.predict_proba(z.numpy()))[np.arange(1500), y.numpy()].mean())
    assert nll(MATRIX.apply(MATRIX.fit(z, y, prior=Precision(1e-6, 1e-6, 1e-6)), z), y) <= best + 1e-9


def test_matrix_scaling_with_one_ridge_is_logistic_regression_about_temperature_scaling() -> None:
    """scikit-learn's ridge pulls to zero: the same objective, once the start is fitted as an offset of its own."""
    from sklearn.linear_model import LogisticRegression

    z, y = sample(500, 3)
    D, b = fit_full(z, y, lambda a: (torch.zeros_like(a), a / 3), Precision(5.0, 1e-7, 5.0))
    theirs = LogisticRegression(C=1 / 5, tol=1e-10, max_iter=1000, solver="newton-cg").fit(z.numpy() / 3, y.numpy())
    assert D.numpy() == pytest.approx(theirs.coef_, abs=1e-5)
    assert (b - b.mean()).numpy() == pytest.approx(theirs.intercept_ - theirs.intercept_.mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "peer"), [("structured_vector_scaling", "SVSCalibrator"), ("structured_matrix_scaling", "SMSCalibrator")]
)
def test_structured_scaling_is_probmetrics(name: str, peer: str) -> None:
    calibrators = pytest.importorskip("probmetrics.calibrators")
    z, y = sample(500, 4)
    theirs = getattr(calibrators, peer)()
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    before = torch.tensor(theirs.ts_.predict_proba(z.softmax(1).numpy()))
    torch.testing.assert_close(tempered(STRUCTURED_VECTOR.fit(z, y), z).exp(), before, rtol=0, atol=1e-7)
    total, ours = objective(name, z, y)
    found = theirs.W_ if hasattr(theirs, "W_") else np.stack([theirs.v_, theirs.b_], 1)
    reached = float(total(torch.tensor(np.r_[found[:, :-1].ravel(), found[:, -1]]).double()))
    assert float(total(ours)) <= reached <= float(total(ours)) + 1e-3  # float32 stops early
    probabilities = theirs.predict_proba(z.softmax(1).numpy())
    assert fitted(name, z, y).exp().numpy() == pytest.approx(probabilities, abs=2e-3)


def test_vector_scaling_beats_netcal_and_probmetrics_at_their_own_objective() -> None:
    """Without its prior ours is the maximum likelihood, which theirs approach from above."""
    from netcal.scaling import LogisticCalibration

    calibrators = pytest.importorskip("probmetrics.calibrators")
    z, y = sample(1000, 4)
    logp = z.log_softmax(1)  # what packages that take probabilities see
    ours = nll(VECTOR.apply(VECTOR.fit(logp, y, prior=Precision(1e-7, 1e-7)), logp), y)
    theirs = calibrators.VectorScalingCalibrator()
    theirs.fit(logp.exp().numpy(), y.numpy())
    assert ours <= nll(torch.tensor(theirs.predict_proba(logp.exp().numpy())).double().log(), y) + 1e-9
    netcal = LogisticCalibration(temperature_only=False)
    netcal.fit(logp.exp().numpy(), y.numpy())
    assert ours <= nll(torch.tensor(netcal.transform(logp.exp().numpy())).double().log(), y) + 1e-9


# ---- awkward data


@each_family
@pytest.mark.parametrize("common", [1e3, 1e6])
def test_a_common_shift_of_all_logits_is_survived(name: str, common: float) -> None:
    z, y = sample(300, 6)
    assert nll(fitted(name, z + common, y), y) <= nll(apply_temperature(fit_temperature(z, y), z), y) + 1e-3


@each_family
def test_fewer_examples_than_classes(name: str) -> None:
    z, y = sample(25, 120)
    logp = fitted(name, z, y)
    assert logp.isfinite().all()
    assert nll(logp, y) < nll(z.log_softmax(1), y) + 1e-9


# ---- calibration sets that say too little


def lacking(N: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Calibrated logits of one Gaussian a class, without the examples of the last class."""
    g = np.random.default_rng(seed)
    y = g.integers(0, K, N)
    z = 2 * (2 * np.eye(K)[y] + g.standard_normal((N, K)))
    return torch.from_numpy(z[y < K - 1]), torch.from_numpy(y[y < K - 1])


@pytest.mark.parametrize(
    ("name", "peer"), [("structured_vector_scaling", "SVSCalibrator"), ("structured_matrix_scaling", "SMSCalibrator")]
)
@pytest.mark.parametrize("missing", ["last", "first", "all but two"])
def test_structured_scaling_without_a_class_is_no_worse_than_probmetrics(name: str, peer: str, missing: str) -> None:
    calibrators = pytest.importorskip("probmetrics.calibrators")
    g = np.random.default_rng(1)
    y_all = g.integers(0, 5, 1300)
    z_all = torch.from_numpy(3 * (2 * np.eye(5)[y_all] + g.standard_normal((1300, 5))))
    y_all = torch.from_numpy(y_all)
    new, labels = z_all[300:], y_all[300:]
    z, y = z_all[:300], y_all[:300]
    kept = {"last": y < 4, "first": y > 0, "all but two": y < 2}[missing]
    z, y = z[kept], y[kept]
    theirs = getattr(calibrators, peer)()
    theirs.fit(z.softmax(1).numpy(), y.numpy())
    other = torch.from_numpy(theirs.predict_proba(new.softmax(1).numpy())).double().log()
    baseline = import_module(f"calib_bench.baselines.{name}").BASELINE
    ours = baseline.apply(baseline.fit(z, y), new)
    assert nll(ours, labels) <= nll(other, labels) + 1e-3
    seen = torch.isin(labels, y)
    assert nll(ours[seen], labels[seen]) <= nll(other[seen], labels[seen]) + 1e-3


@each_family
def test_a_class_without_examples_is_told(name: str) -> None:
    warn = import_module(f"calib_bench.baselines.{name}").BASELINE.warn
    z, y = lacking(500, 5)
    assert "1 of the 5 classes (4)" in warn(z, y)
    assert warn(*sample(500, 5)) is None
    assert "(0, 1, 2, 3, 4, ...)" in warn(torch.zeros(3, 9), torch.tensor([8, 8, 8]))


def test_vector_scaling_tells_of_few_examples_and_then_loses_to_raw() -> None:
    z, y = lacking(300, 100)
    new, labels = lacking(2000, 100, seed=1)
    assert nll(VECTOR.apply(VECTOR.fit(z, y), new), labels) > nll(new.log_softmax(1), labels)
    said = vector_scaling.warn(z, y)
    assert said is not None
    assert f"{len(y)} calibration examples for 200 parameters" in said
    z, y = torch.zeros(1000, 50), torch.arange(1000) % 50
    assert vector_scaling.warn(z, y) is None
    assert vector_scaling.warn(z[:999], y[:999]) is not None


# ---- Platt scaling


def test_platt_of_several_classes_is_the_optimum_of_its_targets() -> None:
    from scipy.optimize import minimize

    z, y = sample(500, 3)
    params = fit_platt(z, y)
    for k in range(3):
        x = log_odds(z)[:, k]
        t = (500 * (y == k).double() + 1 / 3) / 501

        def total(v: np.ndarray, x: Tensor = x, t: Tensor = t) -> float:
            return float(F.binary_cross_entropy_with_logits(v[0] * x + v[1], t, reduction="sum"))

        v = np.array([float(params["slope"][k]), float(params["intercept"][k])])
        assert total(v) <= minimize(total, [1.0, 0.0], method="BFGS").fun + 1e-6


@pytest.mark.parametrize("N", [12, 300])
def test_platt_of_two_classes_is_scikit_learns(N: int) -> None:
    from sklearn.calibration import _SigmoidCalibration

    z, y = sample(N, 2)
    x = (z[:, 1] - z[:, 0]).numpy()
    theirs = _SigmoidCalibration().fit(x, y.numpy()).predict(x)
    assert apply_platt(fit_platt(z, y), z).exp()[:, 1].numpy() == pytest.approx(theirs, abs=1e-4)


def test_platt_from_a_sample_streamed_is_platt(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = sample(3000, 4)
    whole = fit_platt(z, y)
    for constant, value in {"SAMPLE": 300, "CACHE": 0}.items():
        monkeypatch.setattr(f"calib_bench.baselines.platt_scaling.{constant}", value)
    streamed = fit_platt(z, y)
    for name in whole:
        torch.testing.assert_close(streamed[name], whole[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e5])
def test_platt_at_any_scale(scale: float) -> None:
    z, y = sample(400, 2)
    expected = apply_platt(fit_platt(z, y), z)
    torch.testing.assert_close(apply_platt(fit_platt(scale * z, y), scale * z), expected, rtol=0, atol=1e-5)


def test_platt_classes_are_fitted_independently() -> None:
    z, y = overconfident(400, 4)
    params = fit_platt(z, y)
    for k in range(4):
        alone = fit_platt(
            z, torch.where(y == k, k, (k + 1) % 4)
        )  # which of the others an example is of does not matter
        assert float(alone["slope"][k]) == pytest.approx(float(params["slope"][k]), rel=1e-5)
        assert float(alone["intercept"][k]) == pytest.approx(float(params["intercept"][k]), abs=1e-5)
