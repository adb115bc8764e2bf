"""The stationary state of SGD: mathematics, and through the real loops on a model where it is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, vonmises

from calib_bench import models, registry
from calib_bench.core.splits import InputSpec, Request, Splits
from calib_bench.core.trial import Trial
from calib_bench.data.label_noise import noisy, training
from calib_bench.dynamics import stationary
from calib_bench.errors import SettingsError
from calib_bench.studies.sgd_temperature import gibbs
from calib_bench.studies.sgd_temperature.minimum import minimum
from calib_bench.train.fusion import check_schedule
from calib_bench.train.loss import Loss
from calib_bench.train.optimizer import factor
from calib_bench.train.single_loop import train_single
from calib_bench.train.stacked_loop import train_fused
from calib_bench.train.train import fuse_key

CPU = torch.device("cpu")


def digits(limit: int | None = None) -> Splits:
    return registry.task("digits").load(Request("digits", limit=limit, model="linear"))


def trial(**changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "task": "digits", "model": "linear", "beta": 1.0, "objective": "cross_entropy", "optimizer": "sgd", "lr": 0.1,
        "lr_unit": "lr", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "epochs": 3,
        "batch": 10, "seed": 0,
    }  # fmt: skip
    return Trial(**fields | changes)


def linear_regression(eta: float, batch: int, momentum: float, steps: int, seed: int) -> tuple[float, float]:
    """SGD with replacement on linear regression with noise: (stationary excess loss, E||g_b||^2 at the minimum)."""
    rng = np.random.default_rng(0)
    N, D = 200, 5
    x = rng.normal(size=(N, D)) * np.array([1.0, 0.9, 0.7, 0.5, 0.4])
    y = x @ rng.normal(size=D) + rng.normal(size=N)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    square = float((((x @ best - y) ** 2)[:, None] * x**2).sum(1).mean())
    chains = 400
    rng = np.random.default_rng(seed)
    w, v = np.tile(best, (chains, 1)), np.zeros((chains, D))
    total = count = 0.0
    hessian = x.T @ x / N
    for step in range(steps):
        rows = rng.integers(N, size=(chains, batch))
        error = np.einsum("cbd,cd->cb", x[rows], w) - y[rows]
        v = momentum * v + np.einsum("cb,cbd->cd", error, x[rows]) / batch
        w = w - eta * v
        if step >= steps // 2:
            d = w - best
            total += float(np.einsum("cd,de,ce->c", d, hessian, d).mean() / 2)
            count += 1
    return total / count, square


@pytest.mark.parametrize(("batch", "momentum"), [(1, 0.0), (4, 0.0), (16, 0.0), (4, 0.9)])
def test_the_excess_loss_is_the_heat_capacity_times_eta0(batch: int, momentum: float) -> None:
    temperature = 0.01 if batch < 16 else 0.004  # 0.01 x 16 is a large rate, by 8%
    eta = stationary.rate_at(temperature, batch, momentum)
    excess, square = linear_regression(eta, batch, momentum, 2400 if batch < 16 else 2000, batch)
    assert stationary.eta0(eta, batch, momentum) == temperature
    assert excess == pytest.approx(temperature * stationary.heat_capacity(square), rel=0.05)


@given(st.floats(0.01, 1.9), st.floats(0, 0.9))
def test_the_finite_rate_of_a_quadratic_is_that_of_its_covariance(step: float, momentum: float) -> None:
    """Against the stationary covariance of (theta, v) under theta' = theta - eta v', v' = mu v + h theta + noise."""
    h, batch = 1.0, 8
    eta = step * (1 + momentum)
    temperature = eta / ((1 - momentum) * batch)
    A = np.array([[1 - eta * h, -eta * momentum], [h, momentum]])
    noise = np.outer([-eta, 1.0], [-eta, 1.0]) / batch
    covariance = np.linalg.solve(np.eye(4) - np.kron(A, A), noise.ravel()).reshape(2, 2)
    expected = h * covariance[0, 0] / 2
    small = temperature / 4  # E||g_b||^2 = 1
    assert small * stationary.finite_rate(temperature, batch, momentum, h) == pytest.approx(expected, rel=1e-6)


def test_the_batch_that_breaks_the_law_is_where_the_factor_says() -> None:
    found = stationary.breaking_batch(0.02, 0.5, 3.0, 0.1)
    assert stationary.finite_rate(0.02, found, 0.5, 3.0) == pytest.approx(1.1)  # type: ignore[arg-type]
    end = stationary.breaking_batch(0.02, 0.5, 3.0, math.inf)
    assert stationary.finite_rate(0.02, end * 1.001, 0.5, 3.0) == math.inf  # type: ignore[arg-type]
    assert math.isfinite(stationary.finite_rate(0.02, end * 0.99, 0.5, 3.0))  # type: ignore[arg-type]


def ar1(phi: float, S: int, T: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.empty((S, T))
    x[:, 0] = rng.normal(size=S)
    for t in range(1, T):
        x[:, t] = phi * x[:, t - 1] + math.sqrt(1 - phi**2) * rng.normal(size=S)
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_autocorrelation_time_of_an_autoregression(phi: float) -> None:
    tau, variance = stationary.autocorrelation_time(ar1(phi, 20, 4000, 1))
    assert tau == pytest.approx(0.5 * (1 + phi) / (1 - phi), rel=0.08)
    assert variance == pytest.approx(1, rel=0.05)


def test_a_plateau_is_told_from_a_drift_and_its_error_is_right() -> None:
    found = [stationary.plateau(ar1(0.8, 4, 400, seed), margin=0.6) for seed in range(200)]
    z = np.array([one.mean / one.error for one in found])
    assert np.mean(np.abs(z) < 1.96) > 0.88  # four series: the larger of two estimates of the error
    assert np.mean([one.verdict == stationary.DRIFTS for one in found]) < 0.06
    assert np.mean([one.verdict == stationary.FLAT for one in found]) > 0.5
    ramp = np.linspace(0, 4, 400)
    assert stationary.plateau(ar1(0.8, 4, 400, 1) + ramp, margin=0.6).verdict == stationary.DRIFTS
    assert stationary.plateau(np.full((2, 9), np.nan), margin=1).verdict == stationary.DRIFTS
    with pytest.raises(ValueError, match="8 samples"):
        stationary.plateau(np.zeros((2, 7)), margin=1)


def test_the_small_rate_slope_allows_for_curvature() -> None:
    x = np.array([0.01, 0.02, 0.04])
    y = np.stack([(2 + s) * x + 5 * x**2 for s in (-0.1, 0.0, 0.1)], 1)
    found = stationary.small_rate_slope(x, y)
    assert found.mean == pytest.approx(2)
    assert found.low < 2 < found.high
    assert math.isnan(stationary.small_rate_slope(x[:2], y[:2, :1]).low)


def test_the_gibbs_density_of_known_potentials() -> None:
    x = np.linspace(-8, 8, 4001)
    density = gibbs.gibbs(lambda s: 0.5 * 3 * s**2, 0.4, 2.0, x)
    np.testing.assert_allclose(density, norm(scale=math.sqrt(0.4 * 2 / (2 * 3))).pdf(x), atol=1e-8)
    angles = np.linspace(-math.pi, math.pi, 4001)
    density = gibbs.gibbs(lambda s: -np.cos(s), 0.5, 2.0, angles)
    np.testing.assert_allclose(density, vonmises(2.0).pdf(angles), rtol=1e-6)


def test_samples_of_the_density_are_as_far_from_it_as_chance_says() -> None:
    x = np.linspace(-8, 8, 4001)
    density = gibbs.gibbs(lambda s: 0.5 * s**2, 1.0, 2.0, x)
    rng = np.random.default_rng(0)
    distances = [gibbs.compare(rng.normal(size=2000), x, density).distance for _ in range(50)]
    expected = gibbs.compare(rng.normal(size=2000), x, density).noise
    assert np.mean(distances) == pytest.approx(expected, rel=0.25)
    assert gibbs.compare(1.5 * rng.normal(size=2000), x, density).distance > 4 * expected


def test_the_scalar_model_has_constant_noise_and_the_loss_it_says() -> None:
    model = models.build("scalar", InputSpec("vector", (64,)), 10).double()
    y = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(0))
    q = float((y < 5).double().mean())
    for s in (-2.0, 0.0, 1.5):
        with torch.no_grad():
            model.head.weight.fill_(s)
        z = model(torch.zeros(200, 64))
        each = [
            torch.autograd.grad(F.cross_entropy(z[i], y[i]), model.head.weight, retain_graph=True)[0]
            for i in range(200)
        ]
        assert float(torch.stack(each).var(unbiased=False)) == pytest.approx(q * (1 - q), rel=1e-6)
        assert float(F.cross_entropy(z, y).detach()) == pytest.approx(math.log(5 * math.exp(s) + 5) - q * s, rel=1e-6)


@pytest.mark.slow
def test_sgd_on_the_scalar_model_is_gibbs_distributed() -> None:
    """The real stacked loop against exp(-2 L / (eta0 s2)), and moments of that by quadrature."""
    temperature, batch = 0.25, 1
    data = digits(limit=30)
    labels = data.train.labels
    q = float((labels < 5).double().mean())
    trials = [
        trial(
            model="scalar",
            lr=stationary.rate_at(temperature, batch),
            batch=1,
            epochs=120,
            limit=30,
            seed=s,
            sampling="independent",
        )
        for s in range(4)
    ]
    outcomes = train_fused(trials, data, device=CPU)
    norms = np.array([outcome.history["weight_norm"][20:] for outcome in outcomes])

    def loss(s: Any) -> Any:
        return np.log(5 * np.exp(s) + 5) - q * s

    weight = lambda s: math.exp(-2 * (loss(s) - loss(0.0)) / (temperature * q * (1 - q)))  # noqa: E731
    total = quad(weight, -4, 4)[0]
    expected = quad(lambda s: s * s * weight(s), -4, 4)[0] / total
    assert np.mean(norms**2) == pytest.approx(expected, rel=0.25)


def test_the_minimum_is_newtons_and_its_noise_that_of_a_dense_computation() -> None:
    data = training(digits(limit=80), trial(label_noise=0.3, limit=80))
    x, y = data.train.inputs(torch.arange(80), CPU), data.train.labels  # type: ignore[attr-defined]
    torch.manual_seed(0)
    model = models.build("linear", data.spec, 10)
    decay, beta = 0.05, 1.3
    found = minimum(model, x, y, beta, Loss({}), decay, 1e-7)
    X = torch.cat([x.flatten(1).double(), torch.ones(80, 1, dtype=torch.float64)], 1)

    def objective(w: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(beta * X @ w.view(10, 65).T, y) + decay / 2 * w.square().sum()

    w = torch.zeros(650, dtype=torch.float64)
    for _ in range(9):
        H = torch.func.hessian(objective)(w)
        w = w - torch.linalg.solve(H, torch.func.grad(objective)(w))
    p = (beta * X @ w.view(10, 65).T).softmax(1) - F.one_hot(y, 10)
    g = beta * torch.einsum("nk,nd->nkd", p, X).reshape(80, 650) + decay * w
    assert found.converged
    assert found.gradient < 1e-7
    assert found.objective == pytest.approx(float(objective(w)), rel=1e-9)
    assert found.mean_square == pytest.approx(float(g.square().sum(1).mean()), rel=1e-4)  # by the gradient left
    assert found.noise_curvature == pytest.approx(float((g @ H * g).sum() / g.square().sum()), rel=1e-4)


def test_label_noise_is_nested_and_never_the_label_itself() -> None:
    labels = torch.arange(10).repeat(30)
    few, many = noisy(labels, 0.1, 10, 0), noisy(labels, 0.4, 10, 0)
    assert int((few != labels).sum()) == 30
    assert int((many != labels).sum()) == 120
    changed = few != labels
    assert torch.equal(few[changed], many[changed])
    assert int(many.min()) >= 0
    assert int(many.max()) <= 9
    assert not torch.equal(noisy(labels, 0.4, 10, 1), many)
    assert int((noisy(labels, 1.0, 10, 0) == labels).sum()) == 0


def test_both_loops_train_on_the_noisy_labels_and_independent_batches() -> None:
    data, asked = digits(), trial(label_noise=0.5, sampling="independent", batch=20)
    (stacked,), alone = train_fused([asked], data, device=CPU), train_single(asked, data, device=CPU)
    plain = train_single(trial(batch=20), data, device=CPU)
    torch.testing.assert_close(stacked.logits["test"], alone.logits["test"], rtol=1e-4, atol=1e-5)
    assert alone.history["train_loss"][-1] > plain.history["train_loss"][-1]
    split = training(data, asked).train
    batches = list(split.train_batches(seed=0, epoch=0, batch=20, device=CPU))
    assert len(batches) == split.steps(20) == 15
    met = torch.cat([x for x, _ in batches]).flatten(1)
    assert len(torch.unique(met, dim=0)) < 280
    assert training(data, trial()) is data
    assert fuse_key(asked) != fuse_key(asked.model_copy(update={"label_noise": 0.4}))
    assert trial().key == trial(label_noise=0.0, sampling="shuffled").key


def test_independent_batches_need_data_in_memory() -> None:
    class Elsewhere:
        labels = torch.zeros(4, dtype=torch.int64)

    data = Splits(*[Elsewhere()] * 4, InputSpec("tokens"), 2, ("a", "b"), "", "", {})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="in memory"):
        training(data, trial(sampling="independent"))
    changed = training(data, trial(label_noise=0.5))
    assert changed.train.labels.tolist().count(1) == 2
    assert data.train.labels.sum() == 0


def test_a_schedule_in_parts() -> None:
    scales = [factor("parts_1_0.1_0.5", step, 9, 3, 0) for step in range(9)]
    assert scales == [1, 1, 1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5]
    assert [factor("parts_1_0.1", step, 6, 2, 1) for step in range(6)] == [0.5, 1, 1, 1, 0.1, 0.1]
    for name in ("parts_", "parts_1_x", "parts_2", "parts_1_-1"):
        with pytest.raises(SettingsError, match="equal parts"):
            check_schedule(name)
