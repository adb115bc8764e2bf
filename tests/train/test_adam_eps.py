"""Adam's eps: a setting, part of a key where it is not the usual one, in proportion to gradients where asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from calib_bench import models
from calib_bench.analysis.table_notes import rate_unit
from calib_bench.core.settings import parse
from calib_bench.core.splits import InputSpec
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import templates
from calib_bench.train.learning_rate import Rate
from calib_bench.train.optimizer import make_optimizer
from tests.train.test_stacked_loop import assert_close, fuse
from tests.train.test_train import run, trial


def network(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.build(name, InputSpec("vector", (6,)), 3).double()


def test_eps_enters_the_key_only_where_it_is_not_the_usual() -> None:
    usual = trial(optimizer="adam")
    assert trial(optimizer="adam", eps=1e-8, eps_scale="none").key == usual.key
    assert "eps" not in usual.canonical()
    keys = {usual.key, trial(optimizer="adam", eps=1e-6).key, trial(optimizer="adam", eps_scale="beta").key}
    assert len(keys) == 3


def test_settings_give_eps_to_adam_alone() -> None:
    settings = resolve(parse(["task=digits", "optimizer=adam", "lr=0.01", "eps=1e-8,1e-4", "eps_scale=beta"]))
    assert {(one.eps, one.eps_scale) for one in templates(settings)} == {(1e-8, "beta"), (1e-4, "beta")}
    assert resolve(settings) == settings
    for word in ("eps=1e-4", "eps_scale=beta"):
        with pytest.raises(SettingsError, match="setting of adam and adamw, and sgd has none"):
            resolve(parse(["task=digits", "optimizer=sgd", word]))
    with pytest.raises(SettingsError, match="eps=0"):
        parse(["eps=0"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_stack_and_the_single_loop_agree_on_eps(optimizer: str) -> None:
    shared: dict[str, Any] = {"optimizer": optimizer, "precision": "fp64", "lr": 0.01, "epochs": 4}
    trials = [
        trial(eps=1e-8, **shared),
        trial(eps=0.1, **shared),
        trial(eps=0.1, eps_scale="beta", beta=0.01, **shared),
        trial(eps=0.1, eps_scale="beta", beta=2.0, lr_unit="lr_eff", **shared),
    ]
    got = fuse(trials)
    for one, outcome in zip(trials, got, strict=True):
        assert_close(outcome, run(one))
    assert not torch.allclose(got[0].logits["test"], got[1].logits["test"], rtol=1e-3)
    assert "euler_degree" not in got[1].metadata
    assert got[2].metadata["euler_degree"] == pytest.approx(2, rel=0.2)  # one hidden layer, its biases small


def test_the_usual_eps_trains_to_the_same_bits_in_any_stack() -> None:
    ones = [trial(optimizer="adam", lr=0.01, seed=seed) for seed in (0, 1)]
    beside = fuse([*ones, trial(optimizer="adam", lr=0.01, eps=1e-3)])
    for alone, together in zip(fuse(ones), beside, strict=False):
        assert torch.equal(alone.logits["test"], together.logits["test"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_scaled_eps_makes_training_at_beta_training_at_one(optimizer: str) -> None:
    """With weights times beta^(-1/L), rate times beta^(-1/L), eps times beta^(1/L): the same beta z at every step."""
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    degree, beta, eta = 3, 0.05, 0.01

    def logits(beta: float, eps: float) -> torch.Tensor:
        model = network("mlp_7_5_nobias")
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(beta ** (-1 / degree))
        one = trial(optimizer=optimizer, momentum=0.0, weight_decay=0.0, beta=beta, eps=eps)
        made = make_optimizer(one, model, eta * beta ** (-1 / degree))
        for _ in range(8):
            made.zero_grad()
            F.cross_entropy(beta * model(x), y).backward()
            made.step()
        return beta * model(x).detach()

    one = trial(optimizer=optimizer, beta=beta, eps=0.01, eps_scale="beta")
    scaled = Rate(1.0, degree=degree).applied(one).eps
    assert scaled == pytest.approx(0.01 * beta ** (1 / 3))
    torch.testing.assert_close(logits(beta, scaled), logits(1.0, 0.01), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits(beta, 0.01), logits(1.0, 0.01), rtol=1e-2)


def test_tables_of_relative_rates_say_what_momentum_does_to_the_critical_one() -> None:
    plain = resolve(parse(["task=digits", "lr_rel=0.5"]))
    assert "plain gradient descent" in rate_unit(plain)
    assert "heavy ball" not in rate_unit(plain)
    heavy = resolve(parse(["task=digits", "lr_rel=0.5", "momentum=0,0.9"]))
    assert "1 + momentum that of the heavy ball (1.9 here)" in rate_unit(heavy)
    assert rate_unit(resolve(parse(["task=digits", "lr=0.5"]))) == ""


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_the_heavy_ball_on_a_quadratic_diverges_above_its_critical_rate(mu: float) -> None:
    curvature = 3.0
    for share, settles in ((0.98, True), (1.02, False)):
        p = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([p], lr=share * 2 * (1 + mu) / curvature, momentum=mu)
        for _ in range(600):
            optimizer.zero_grad()
            (curvature * p**2 / 2).sum().backward()
            optimizer.step()
        assert (abs(float(p.detach())) < 1) is settles
        assert settles or not math.isclose(float(p.detach()), 0, abs_tol=1)
