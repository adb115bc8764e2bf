"""Faults found in published packages, each as a test that this project does not share it."""

from __future__ import annotations

import math

import pytest
import torch
from drawn import nll, overconfident
from torch import Tensor

from calib_bench import metrics
from calib_bench.baselines.confidence_penalty import BASELINE as PENALTY
from calib_bench.baselines.isotonic import apply_isotonic, fit_isotonic
from calib_bench.baselines.temperature_scaling import Logits, cumulants, fit_temperature, loss
from calib_bench.baselines.vector_scaling import BASELINE as VECTOR
from calib_bench.metrics.smooth import smooth_error

# ---- temperature scaling


def test_float32_logits_are_really_fitted() -> None:
    # An optimizer whose finite differences vanish in float32 returns T = 1.
    z, y = overconfident(5000, 10)
    T = float(fit_temperature(z, y)["temperature"])
    assert pytest.approx(1 / 0.6, rel=0.05) == T
    assert float(fit_temperature(z.double(), y)["temperature"]) == T


def test_the_fit_has_converged_where_fifty_small_steps_have_not() -> None:
    z, y = overconfident(10_000, 10)
    T = torch.ones(1, requires_grad=True)
    with torch.no_grad():
        T *= 1.5
    optimizer = torch.optim.LBFGS([T], lr=0.01, max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(z / T, y)
        value.backward()
        return value

    optimizer.step(closure)
    ours = float(fit_temperature(z, y)["temperature"])
    assert abs(ours - float(T.detach())) > 0.05
    assert loss(z, y, 1 / ours).f < loss(z, y, 1 / float(T.detach())).f - 1e-4
    assert abs(loss(z, y, 1 / ours).d1) < 1e-8


def test_temperature_is_bounded_where_no_optimum_exists() -> None:
    z, _ = overconfident(500, 5)
    for y, low, high in ((z.argmax(1), 1e-3, 1.0), (z.argmin(1), 1e3, 1e4)):
        params = fit_temperature(z, y)
        assert params["at_bound"]
        assert low < params["temperature"] < high


@pytest.mark.parametrize(("N", "K"), [(40_000, 10), (3000, 1000)])
def test_one_expansion_is_as_good_as_newton_to_the_end(N: int, K: int) -> None:
    z, y = overconfident(N, K)
    u = 0.0
    for _ in range(30):
        at = loss(z, y, math.exp(u))
        u -= at.d1 / (math.exp(u) * at.d2)
    params = fit_temperature(z, y)
    assert float(params["temperature"]) == pytest.approx(math.exp(-u), rel=1e-8)
    assert loss(z, y, 1 / float(params["temperature"])).f - loss(z, y, math.exp(u)).f < 1e-15
    assert abs(loss(z, y, 1 / float(params["temperature"])).d1) < 1e-8
    assert params["iterations"] <= 3


def test_series_of_the_loss_is_exact() -> None:
    z, y = overconfident(60, 7)
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    value = torch.nn.functional.cross_entropy(s * z.double(), y)
    expected, scale = [value], 1.0
    found = Logits(z, y).derivatives(0.7)
    for n, ours in enumerate(found):
        assert ours == pytest.approx(scale * float(expected[-1].detach()), rel=1e-9), n
        expected.append(torch.autograd.grad(expected[-1], s, create_graph=True)[0])
        scale *= 0.7


def test_cumulants_of_a_poisson_variable_are_its_mean() -> None:
    moments = [2.0, 6.0, 22.0, 94.0, 454.0]  # Touchard polynomials at 2
    assert [float(c) for c in cumulants([torch.tensor(m) for m in moments])] == pytest.approx([2.0] * 5)


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_streamed_and_kept_logits_give_one_fit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = overconfident(700, 90)
    T = float(fit_temperature(z, y)["temperature"])
    monkeypatch.setattr("calib_bench.baselines.temperature_scaling.KEPT", 0)
    monkeypatch.setattr("calib_bench.baselines.temperature_scaling.BLOCK", block)
    assert float(fit_temperature(z, y)["temperature"]) == pytest.approx(T, rel=1e-12)
    assert float(fit_temperature(z, y)["temperature"]) == float(fit_temperature(z, y)["temperature"])


# ---- metrics


def test_certain_predictions_have_no_bin_of_their_own() -> None:
    logp = torch.tensor([[0.0, -torch.inf]] * 90 + [[math.log(0.95), math.log(0.05)]] * 10, dtype=torch.float64)
    y = torch.tensor([0] * 80 + [1] * 10 + [0] * 10)
    assert float(metrics.ece(logp, y)) == pytest.approx(abs(0.9 * 1 + 0.1 * 0.95 - 0.9))


def test_two_labels_of_ten_and_absent_classes() -> None:
    z, y = overconfident(400, 10)
    y = y % 2
    found = metrics.measure(z, y)
    assert all(value.isfinite().all() for value in found.values())
    p = z.double().softmax(1)
    absent = p[:, 5]  # a class that never occurs errs by its whole mean probability
    alone = metrics.classwise_ece(z[:, :], torch.zeros_like(y))
    assert alone > absent.mean() / 10
    every = sum(
        float(metrics.ece_positive(torch.stack([(1 - p[:, k]).log(), p[:, k].log()], 1), (y == k).long()))
        for k in range(10)
    )
    assert float(found["classwise_ece"]) == pytest.approx(every / 10, rel=1e-9)
    assert float(metrics.classwise_ece_sum(z, y)) == pytest.approx(every, rel=1e-9)


def test_equal_mass_bins_of_tied_confidences() -> None:
    logp = torch.tensor([[0.7, 0.3]] * 64).double().log()
    y = torch.tensor([0] * 32 + [1] * 32)
    assert float(metrics.adaptive_ece(logp, y)) == pytest.approx(0.2)


@pytest.mark.parametrize("K", [3, 40])
def test_rows_of_very_different_certainty_are_binned_alike(K: int) -> None:
    # One certain row in a block of even ones: what is above the first bin must not depend on the block.
    g = torch.Generator().manual_seed(0)
    z = 0.1 * torch.randn(300, K, generator=g)
    z[7, 1] = 60.0
    y = torch.randint(K, (300,), generator=g)
    alone = torch.cat([torch.cat([z[:7], z[8:]]), z[7:8]])
    moved = torch.cat([torch.cat([y[:7], y[8:]]), y[7:8]])
    torch.testing.assert_close(metrics.classwise_ece(z, y), metrics.classwise_ece(alone, moved), rtol=1e-12, atol=0)


def test_a_tie_is_predicted_by_its_first_class() -> None:
    z = torch.tensor([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    assert metrics.correct_n(z, torch.tensor([1, 2, 0])).tolist() == [1.0, 0.0, 1.0]


def test_maximum_calibration_error_is_that_of_the_worst_bin() -> None:
    logp = torch.tensor([[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 2).double().log()
    y = torch.tensor([0] * 8 + [1, 1])
    assert float(metrics.mce(logp, y)) == pytest.approx(0.6)
    assert float(metrics.ece(logp, y)) == pytest.approx(0.8 * 0.1 + 0.2 * 0.6)


# ---- smooth calibration error


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.2])
@pytest.mark.parametrize("N", [300, 5000])
def test_smooth_ece_against_relplot(N: int, shift: float) -> None:
    from relplot.metrics import smECE, smECE_sigma

    g = torch.Generator().manual_seed(N)
    p = 0.3 + 0.7 * torch.rand(N, generator=g, dtype=torch.float64)
    hit = (torch.rand(N, generator=g, dtype=torch.float64) < p + shift).double()
    ours = float(smooth_error(p, hit))
    assert ours == pytest.approx(smECE(p.numpy(), hit.numpy()), abs=1e-3)  # its bandwidth is a multiple of 2^-10
    assert ours == pytest.approx(smECE_sigma(p.numpy(), hit.numpy(), ours), rel=5e-3)


def test_smooth_ece_is_a_fixed_point_of_its_definition() -> None:
    import numpy as np

    g = torch.Generator().manual_seed(2)
    p = torch.rand(200, generator=g, dtype=torch.float64)
    hit = (torch.rand(200, generator=g, dtype=torch.float64) < 0.5).double()
    sigma = float(smooth_error(p, hit))
    t, x, r = np.linspace(0, 1, 4001)[:, None], p.numpy(), (hit - p).numpy()
    images = [x + 2 * m for m in range(-3, 4)] + [2 * m - x for m in range(-3, 4)]
    kernel = sum(np.exp(-0.5 * ((t - image) / sigma) ** 2) for image in images) / (sigma * math.sqrt(2 * math.pi))
    error = np.abs((kernel * r).mean(1))
    assert sigma == pytest.approx(float(((error[1:] + error[:-1]) / 2).mean()), rel=1e-4)


def test_smooth_ece_at_the_ends() -> None:
    ones = torch.ones(9, dtype=torch.float64)
    assert float(smooth_error(ones, ones)) < 1e-6
    assert float(smooth_error(ones, 0 * ones)) == pytest.approx(1.0)
    assert float(smooth_error(0 * ones, ones)) == pytest.approx(1.0)
    stack = torch.stack([ones, 0.5 * ones])
    assert smooth_error(stack, torch.stack([0 * ones, ones])).shape == (2,)
    assert float(smooth_error(stack, torch.stack([0 * ones, ones]))[1]) == pytest.approx(0.5, abs=1e-6)


# ---- other calibrators and objectives


def test_confidence_penalty_weighs_the_whole_entropy_once() -> None:
    # Averaged over K classes it would be K times too small, and with the wrong sign it would reward confidence.
    even, y = torch.zeros(3, 50, dtype=torch.float64), torch.tensor([0, 1, 2])
    penalized = PENALTY.loss(even, y, torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(penalized, torch.full_like(penalized, 0.9 * math.log(50)))


def test_isotonic_regression_never_calls_a_class_impossible() -> None:
    z, y = overconfident(300, 4)
    new, labels = overconfident(3000, 4, seed=1)
    assert math.isfinite(nll(apply_isotonic(fit_isotonic(z, y), new), labels))


def test_vector_scaling_of_probabilities_is_another_model() -> None:
    # Logits that mean something beyond their softmax: a row's shift is lost in probabilities.
    z, y = overconfident(2000, 5)
    z = z + 3 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(9))
    of_logits, of_p = VECTOR.fit(z, y), VECTOR.fit(z.double().log_softmax(1), y)
    assert (of_logits["weight"] - of_p["weight"]).abs().max() > 1e-3
    assert nll(VECTOR.apply(of_logits, z), y) != pytest.approx(nll(VECTOR.apply(of_p, z.double().log_softmax(1)), y))
