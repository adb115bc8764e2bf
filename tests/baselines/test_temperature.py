"""Temperature scaling: its optimum, its bounds, and other packages' fits."""

from __future__ import annotations

import math

import pytest
import torch
from drawn import overconfident
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from calib_bench.baselines.temperature_scaling import apply_temperature, fit_temperature, loss


@pytest.mark.parametrize("K", [2, 10])
def test_is_the_optimum(K: int) -> None:
    from scipy.optimize import minimize_scalar

    z, y = overconfident(2000, K)
    params = fit_temperature(z, y)
    best = minimize_scalar(lambda u: loss(z, y, math.exp(u)).f, bracket=(-1, 0), tol=1e-12)
    assert math.log(1 / params["temperature"]) == pytest.approx(best.x, abs=1e-6)
    assert loss(z, y, 1 / float(params["temperature"])).f - best.fun < 1e-15
    assert abs(params["gradient"]) < 1e-8
    assert params["iterations"] <= 10
    assert not params["at_bound"]


def test_derivatives_are_exact() -> None:
    z, y = overconfident(50)
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    f = F.cross_entropy(s * z.double(), y)
    (d1,) = torch.autograd.grad(f, s, create_graph=True)
    (d2,) = torch.autograd.grad(d1, s)
    assert loss(z, y, 0.7) == pytest.approx((f.item(), d1.item(), d2.item()), rel=1e-12)


def test_against_netcal_and_scikit_learn() -> None:
    from netcal.scaling import TemperatureScaling
    from sklearn.calibration import _TemperatureScaling

    z, y = overconfident(2000, 10)
    T = float(fit_temperature(z, y)["temperature"])
    theirs = TemperatureScaling()
    theirs.fit(z.double().softmax(1).numpy(), y.numpy())
    assert 1 / float(theirs.temperature[0]) == pytest.approx(T, rel=1e-4)  # netcal's is the inverse
    sk = _TemperatureScaling().fit(z.double().numpy(), y.numpy())
    assert 1 / sk.beta_ == pytest.approx(T, rel=1e-3)


@given(st.floats(1e-4, 1e4), st.integers(0, 100))
def test_scales_with_the_logits(factor: float, seed: int) -> None:
    z, y = overconfident(100, 4, seed)
    a, b = fit_temperature(z.double(), y), fit_temperature(factor * z.double(), y)
    assert float(b["temperature"]) == pytest.approx(factor * float(a["temperature"]), rel=1e-7)


def test_on_a_long_set_starts_from_a_sample() -> None:
    z, y = overconfident(40_000, 3)
    params = fit_temperature(z, y)
    assert params["iterations"] <= 4
    assert abs(params["gradient"]) < 1e-8


def test_bounds_say_so() -> None:
    z, _ = overconfident(200, 4)
    separable = fit_temperature(z, z.argmax(1))
    assert separable["at_bound"]
    assert loss(z, z.argmax(1), 1 / float(separable["temperature"])).f == pytest.approx(1 / 202, rel=1e-6)
    opposite = fit_temperature(z, z.argmin(1))
    assert opposite["at_bound"]
    assert apply_temperature(opposite, z).exp() == pytest.approx(torch.full((200, 4), 0.25), abs=1e-3)
    assert fit_temperature(torch.zeros(5, 3), torch.tensor([0, 1, 2, 1, 0]))["temperature"] == 1
    tied = fit_temperature(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 0]))
    assert tied["at_bound"]


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 30), st.floats(-8, 4))
def test_never_changes_a_prediction(seed: int, K: int, N: int, exponent: float) -> None:
    z, y = overconfident(N, K, seed, scale=10**exponent)
    logp = apply_temperature(fit_temperature(z, y), z)
    assert torch.equal(logp.gather(1, z.argmax(1, keepdim=True)), logp.amax(1, keepdim=True))
