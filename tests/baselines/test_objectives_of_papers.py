"""The contracts that every baseline keeps, and each one's own truths against independent implementations."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

import calib_bench
from calib_bench.baselines import _solvers
from calib_bench.baselines._linear import Precision
from calib_bench.baselines.histogram_binning import apply_histogram, fit_histogram
from calib_bench.baselines.isotonic import apply_isotonic, fit_isotonic
from calib_bench.baselines.matrix_scaling import BASELINE as MATRIX
from calib_bench.baselines.platt_scaling import apply_platt, fit_platt
from calib_bench.baselines.temperature_scaling import apply_temperature, fit_temperature, loss
from calib_bench.baselines.vector_scaling import BASELINE as VECTOR
from calib_bench.core.baseline import Calibrator, Objective
from calib_bench.errors import UserError

FOLDER = Path(_solvers.__file__).parent
NAMES = sorted(f.stem for f in FOLDER.glob("*.py") if not f.stem.startswith("_"))
ALL = {name: import_module(f"calib_bench.baselines.{name}").BASELINE for name in NAMES}
CALIBRATORS = {name: b for name, b in ALL.items() if isinstance(b, Calibrator)}
OBJECTIVES = {name: b for name, b in ALL.items() if isinstance(b, Objective)}
each_calibrator = pytest.mark.parametrize("name", CALIBRATORS)


def sample(N: int = 250, K: int = 5, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Overconfident logits: labels come from softmax(0.6 z)."""
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(N, K, generator=g)
    return z, torch.multinomial(torch.softmax(0.6 * z, 1), 1, generator=g)[:, 0]


def classes(name: str, K: int) -> int:
    """K, or the only number of classes that the calibrator is for."""
    return CALIBRATORS[name].classes or K


def nll(logp: Tensor, y: Tensor) -> float:
    return float(-logp.gather(1, y[:, None]).mean())


def check(name: str, z: Tensor, y: Tensor, new: Tensor | None = None) -> Tensor:
    """Fits, stores, loads, applies and holds the result to the contract; returns the log probabilities."""
    calibrator = CALIBRATORS[name]
    before = z.clone()
    params = calibrator.fit(z, y)
    assert torch.equal(z, before)
    logp = calibrator.apply(params, new if new is not None else z)
    target = new if new is not None else z
    assert logp.shape == target.shape
    assert logp.dtype == torch.float64
    assert not logp.isnan().any()
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(len(logp), dtype=torch.float64), rtol=0, atol=1e-9)
    again = load(save({key: value.contiguous() for key, value in params.items()}))
    assert torch.equal(calibrator.apply(again, target), logp)
    for value in params.values():
        assert value.dtype is torch.bool or value.isfinite().all()
    if calibrator.keeps_argmax:
        torch.testing.assert_close(logp.gather(1, target.argmax(1)[:, None])[:, 0], logp.amax(1), rtol=0, atol=0)
    return logp


def test_every_baseline_is_described() -> None:
    references = (Path(calib_bench.__file__).parent / "references.bib").read_text()
    assert len(CALIBRATORS) >= 6
    assert len(OBJECTIVES) >= 2
    for name, baseline in ALL.items():
        assert isinstance(baseline, Calibrator | Objective), name
        assert f"{{{baseline.reference}," in references, name
        assert baseline.title, name
        assert import_module(f"calib_bench.baselines.{name}").__doc__, name


@each_calibrator
@pytest.mark.parametrize("K", [2, 3, 10])
def test_calibrator_improves_overconfident_logits(name: str, K: int) -> None:
    K = classes(name, K)
    z, y = sample(3000, K)
    logp = check(name, z, y)
    assert nll(logp, y) < nll(z.double().log_softmax(1), y)
    new, labels = sample(3000, K, seed=1)
    assert nll(check(name, z, y, new), labels) < nll(new.double().log_softmax(1), labels)


@each_calibrator
def test_float32_and_float64_agree(name: str) -> None:
    z, y = sample(K=classes(name, 5))
    torch.testing.assert_close(check(name, z, y), check(name, z.double(), y), rtol=1e-7, atol=1e-7)


@each_calibrator
def test_half_precision_logits_are_summed_in_float64(name: str) -> None:
    z, y = sample(K=classes(name, 5))
    for low in (z.bfloat16(), z.half()):
        torch.testing.assert_close(check(name, low, y), check(name, low.double(), y), rtol=1e-7, atol=1e-7)


@each_calibrator
@pytest.mark.parametrize("K", [2, 5])
@pytest.mark.parametrize("labels", [(0,), (1,), (0, 1)])
def test_missing_classes(name: str, K: int, labels: tuple[int, ...]) -> None:
    K = classes(name, K)
    z, y = sample(60, K)
    y = torch.tensor(labels)[y % len(labels)]
    new, _ = sample(60, K, seed=1)
    assert check(name, z, y, new).isfinite().all()


@each_calibrator
@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("K", [2, 4])
def test_tiny_sets(name: str, N: int, K: int) -> None:
    K = classes(name, K)
    z, y = sample(N, K)
    assert check(name, z, y, sample(20, K, seed=1)[0]).isfinite().all()


@each_calibrator
@pytest.mark.parametrize("K", [2, 4])
def test_ties_and_constant_logits(name: str, K: int) -> None:
    K = classes(name, K)
    _, y = sample(50, K)
    new, _ = sample(20, K, seed=1)
    for z in (torch.zeros(50, K), torch.full((50, K), 7.0), torch.eye(K)[y.flip(0)], torch.eye(K)[y] + 1):
        assert check(name, z, y, new).isfinite().all()


@each_calibrator
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_extreme_scales(name: str, scale: float) -> None:
    z, y = sample(300, classes(name, 4))
    big = check(name, scale * z, y)
    # The odds against the rest are not proportional to the logits for K > 2, so only these fits undo a scale exactly.
    exact = name in ("temperature_scaling", "vector_scaling", "matrix_scaling")
    assert nll(big, y) == pytest.approx(nll(check(name, z, y), y), abs=1e-6 if exact else 0.2)


@each_calibrator
@pytest.mark.parametrize("K", [2, 4])
def test_separable_data_stay_finite(name: str, K: int) -> None:
    K = classes(name, K)
    z, _ = sample(200, K)
    y = z.argmax(1)
    new, _ = sample(500, K, seed=1)
    logp = check(name, z, y, new)
    assert logp.isfinite().all()
    assert nll(logp, new.argmax(1)) < nll(new.double().log_softmax(1), new.argmax(1)) + 0.1
    check(name, z, z.argmin(1))


@each_calibrator
def test_probabilities_of_zero_and_one(name: str) -> None:
    z, y = sample(200, classes(name, 4))
    hard = F.one_hot(z.argmax(1), z.shape[1]).double().log()
    assert check(name, hard, y).amax() <= 0
    mixed = torch.where((z < -3) & (z < z.amax(1, keepdim=True)), -torch.inf, z)
    check(name, mixed, y, z)
    check(name, z, y, mixed)


@each_calibrator
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unusable_logits_are_refused(name: str, bad: float) -> None:
    z, y = sample(20, classes(name, 5))
    params = CALIBRATORS[name].fit(z, y)
    z[3, 1] = bad
    with pytest.raises(UserError, match="NaN"):
        CALIBRATORS[name].fit(z, y)
    with pytest.raises(UserError, match="NaN"):
        CALIBRATORS[name].apply(params, z)


@each_calibrator
def test_labels_and_shapes_that_do_not_fit_are_refused(name: str) -> None:
    z, y = sample(20, classes(name, 5))
    fit = CALIBRATORS[name].fit
    for bad_z, bad_y in ((z, y[:-1]), (z, y + 5), (z, y - 5), (z[:0], y[:0]), (z[:, :1], y * 0), (z.long(), y)):
        with pytest.raises(UserError, match="needs"):
            fit(bad_z, bad_y)


@pytest.mark.parametrize("name", [name for name, calibrator in CALIBRATORS.items() if calibrator.classes])
def test_another_number_of_classes_than_it_is_for_is_refused(name: str) -> None:
    K = classes(name, 0)
    params = CALIBRATORS[name].fit(*sample(20, K))
    z, y = sample(20, K + 1)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].fit(z, y)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].apply(params, z)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].fits(z.expand(3, -1, -1), y.expand(3, -1))


@each_calibrator
def test_a_thousand_classes(name: str) -> None:
    if name == "matrix_scaling":
        pytest.skip("has a test of its own, marked slow")
    z, y = sample(120, classes(name, 1000))
    assert check(name, z, y).isfinite().all()


@pytest.mark.slow
def test_matrix_scaling_of_a_thousand_classes() -> None:
    z, y = sample(120, 1000)
    assert nll(check("matrix_scaling", z, y), y) < nll(z.double().log_softmax(1), y)


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 30), st.floats(-8, 4))
def test_temperature_never_changes_a_prediction(seed: int, K: int, N: int, exponent: float) -> None:
    z, y = sample(N, K, seed, scale=10**exponent)
    check("temperature_scaling", z, y)


# ---- temperature scaling


@pytest.mark.parametrize("K", [2, 10])
def test_temperature_is_the_optimum(K: int) -> None:
    from scipy.optimize import minimize_scalar

    z, y = sample(2000, K)
    params = fit_temperature(z, y)
    best = minimize_scalar(lambda u: loss(z, y, math.exp(u)).f, bracket=(-1, 0), tol=1e-12)
    assert math.log(1 / params["temperature"]) == pytest.approx(best.x, abs=1e-6)
    assert loss(z, y, 1 / float(params["temperature"])).f - best.fun < 1e-15
    assert abs(params["gradient"]) < 1e-8
    assert params["iterations"] <= 10
    assert not params["at_bound"]


def test_temperature_derivatives_are_exact() -> None:
    z, y = sample(50)
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    f = F.cross_entropy(s * z.double(), y)
    (d1,) = torch.autograd.grad(f, s, create_graph=True)
    (d2,) = torch.autograd.grad(d1, s)
    assert loss(z, y, 0.7) == pytest.approx((f.item(), d1.item(), d2.item()), rel=1e-12)


def test_temperature_against_netcal_and_scikit_learn() -> None:
    from netcal.scaling import TemperatureScaling
    from sklearn.calibration import _TemperatureScaling

    z, y = sample(2000, 10)
    T = float(fit_temperature(z, y)["temperature"])
    theirs = TemperatureScaling()
    theirs.fit(z.double().softmax(1).numpy(), y.numpy())
    assert 1 / float(theirs.temperature[0]) == pytest.approx(T, rel=1e-4)  # netcal's is the inverse
    sk = _TemperatureScaling().fit(z.double().numpy(), y.numpy())
    assert 1 / sk.beta_ == pytest.approx(T, rel=1e-3)


@given(st.floats(1e-4, 1e4), st.integers(0, 100))
def test_temperature_scales_with_the_logits(factor: float, seed: int) -> None:
    z, y = sample(100, 4, seed)
    a, b = fit_temperature(z.double(), y), fit_temperature(factor * z.double(), y)
    assert float(b["temperature"]) == pytest.approx(factor * float(a["temperature"]), rel=1e-7)


def test_temperature_on_a_long_set_starts_from_a_sample() -> None:
    z, y = sample(40_000, 3)
    params = fit_temperature(z, y)
    assert params["iterations"] <= 4
    assert abs(params["gradient"]) < 1e-8


def test_temperature_bounds_say_so() -> None:
    z, _ = sample(200, 4)
    separable = fit_temperature(z, z.argmax(1))
    assert separable["at_bound"]
    assert loss(z, z.argmax(1), 1 / float(separable["temperature"])).f == pytest.approx(1 / 202, rel=1e-6)
    opposite = fit_temperature(z, z.argmin(1))
    assert opposite["at_bound"]
    assert apply_temperature(opposite, z).exp() == pytest.approx(torch.full((200, 4), 0.25), abs=1e-3)
    assert fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 1, 0]))["temperature"] == 1
    tied = fit_temperature(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    assert tied["at_bound"]


# ---- the other calibrators


def test_platt_is_scikit_learns_sigmoid_for_two_classes() -> None:
    from sklearn.calibration import _SigmoidCalibration

    z, y = sample(500, 2)
    score = (z[:, 1] - z[:, 0]).double().numpy()
    theirs = _SigmoidCalibration().fit(score, y.numpy())
    p = apply_platt(fit_platt(z, y), z).exp()[:, 1].numpy()
    assert p == pytest.approx(theirs.predict(score), abs=1e-4)


def test_platt_classes_are_fitted_independently() -> None:
    z, y = sample(400, 4)
    params = fit_platt(z, y)
    for k in range(4):
        alone = fit_platt(
            z, torch.where(y == k, k, (k + 1) % 4)
        )  # which of the others an example is of does not matter
        assert float(alone["slope"][k]) == pytest.approx(float(params["slope"][k]), rel=1e-5)
        assert float(alone["intercept"][k]) == pytest.approx(float(params["intercept"][k]), abs=1e-5)


def test_log_odds_are_exact_at_both_ends() -> None:
    z = torch.tensor([[800.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    odds = _solvers.log_odds(z)
    assert odds[0].tolist() == pytest.approx([800 - math.log(2), -800, -800])
    p = z[1].softmax(0)
    torch.testing.assert_close(odds[1], torch.logit(p))
    torch.testing.assert_close(_solvers.log_odds(z + 5), odds)


@pytest.mark.parametrize("K", [2, 6])
def test_vector_scaling_reaches_the_maximum_likelihood(K: int) -> None:
    from scipy.optimize import minimize

    z, y = sample(1000, K)
    Z, Y = z.double().numpy(), y.numpy()

    def mean_loss(theta: np.ndarray) -> float:
        return F.cross_entropy(torch.tensor(theta[:K] * Z + theta[K:]), y).item()

    best = minimize(mean_loss, np.r_[np.ones(K), np.zeros(K)], method="BFGS", options={"gtol": 1e-6}).fun
    ours = nll(VECTOR.apply(VECTOR.fit(z, y, prior=Precision(1e-6, 1e-6)), z), y)
    assert ours - best < 1e-8
    assert nll(VECTOR.apply(VECTOR.fit(z, y), z), y) - best < 1e-4  # what the prior costs
    assert len(Y) == 1000


def test_matrix_scaling_without_its_prior_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    z, y = sample(1500, 4)
    theirs = LogisticRegression(C=1e8, tol=1e-10, max_iter=2000).fit(z.double().numpy(), y.numpy())
    ours = MATRIX.apply(MATRIX.fit(z, y, prior=Precision(1e-6, 1e-6, 1e-6)), z)
    assert ours.exp().numpy() == pytest.approx(theirs.predict_proba(z.double().numpy()), abs=1e-4)


def test_matrix_scaling_tends_to_vector_scaling() -> None:
    z, y = sample(500, 4)
    W = MATRIX.fit(z, y, prior=Precision(0.1, 0.1, 1e9))["weight"]
    assert (W - W.diag().diag()).abs().max() < 1e-6
    assert W.diag() == pytest.approx(VECTOR.fit(z, y)["weight"], abs=1e-5)


def test_isotonic_against_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    z, y = sample(400, 2)
    z = (4 * z).round() / 4  # ties
    score = _solvers.log_odds(z)[:, 1].numpy()
    new = _solvers.log_odds(sample(300, 2, seed=1)[0])
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, y.numpy())
    params = fit_isotonic(z, y)
    p = apply_isotonic(params, new / 2)[:, 1].exp().numpy()  # log odds of (-x/2, x/2) are (-x, x)
    share = 1 / 401
    assert params["uniform"] == share
    assert p == pytest.approx((1 - share) * theirs.predict(new[:, 1].numpy()) + share / 2, abs=1e-6)


def test_histogram_binning_against_its_definition() -> None:
    z, y = sample(300, 3)
    params = fit_histogram(z, y, bins=10)
    x = _solvers.log_odds(z)
    share = 1 / 301
    q = torch.empty_like(x)
    for k in range(3):
        for part in x[:, k].argsort().chunk(10):
            q[part, k] = (y[part] == k).double().mean()
    total = q.sum(1, keepdim=True)
    expected = (1 - share) * torch.where(total > 0, q / total, 1 / 3) + share / 3
    torch.testing.assert_close(apply_histogram(params, z).exp(), expected)


@pytest.mark.parametrize("name", ["isotonic", "histogram_binning"])
def test_binned_maps_never_give_an_infinite_loss(name: str) -> None:
    z, y = sample(100, 10)
    new, labels = sample(5000, 10, seed=3)
    logp = check(name, z, y, new)
    assert logp.amin() >= math.log(1 / 101 / 10) - 1e-9
    assert math.isfinite(nll(logp, labels))
