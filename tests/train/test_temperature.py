"""The temperature of a history row, against the calibrator's and against a search."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from calib_bench import registry
from calib_bench.train.history import along
from calib_bench.train.temperature import best_temperature

NONE = torch.full((), torch.nan, dtype=torch.float64)


def logits(scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits [250, 10] that know something of the labels [250], and are wrong about some."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (250,), generator=generator)
    z = 2 * torch.randn(250, 10, generator=generator, dtype=torch.float64)
    z[torch.arange(250), y] += 2.5
    return scale * z, y


@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 30.0, 1e4])
def test_finds_the_minimum_wherever_it_is(scale: float) -> None:
    Z, y = logits(scale)
    kappa, loss = best_temperature(Z, y, NONE)
    search = minimize_scalar(
        lambda u: F.cross_entropy(Z * math.exp(u), y).item(), (-math.log(scale) - 1, -math.log(scale) + 1), tol=1e-8
    )
    assert loss == pytest.approx(search.fun, abs=1e-10)
    assert math.log(kappa) == pytest.approx(-search.x, abs=1e-5)
    fit = registry.calibrators(["temperature_scaling"])["temperature_scaling"].fit(Z, y)
    assert kappa.item() == pytest.approx(fit["temperature"].item(), rel=1e-7)


def test_a_model_does_not_depend_on_those_beside_it_nor_on_its_start() -> None:
    sets = [logits(scale, seed) for seed, scale in enumerate((1.0, 1e-3, 40.0))]
    sets.append((torch.full((250, 10), torch.nan, dtype=torch.float64), sets[0][1]))
    Z, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    kappas, losses = best_temperature(Z, y, NONE.expand(4))
    for i in range(3):
        kappa, loss = best_temperature(Z[i], y[i], NONE)
        assert torch.equal(kappa, kappas[i])
        assert torch.equal(loss, losses[i])
        warm, _ = best_temperature(Z[i], y[i], 3 * kappa)
        assert warm.item() == pytest.approx(kappa.item(), rel=1e-7)
    assert kappas[3].isnan()
    assert losses[3].isnan()


def test_no_temperature_where_none_is_best() -> None:
    Z, y = logits(1.0)
    for without, limit in (
        (100.0 * F.one_hot(y, 10).double(), 0.0),  # all right
        (-Z, math.log(10)),
        (torch.zeros_like(Z), math.log(10)),
    ):
        kappa, loss = best_temperature(without, y, NONE)
        assert kappa.isnan()
        assert loss.item() == pytest.approx(limit, abs=1e-12)


def test_the_share_of_a_change_along_the_logits() -> None:
    Z, _ = logits(1.0)
    shift = torch.randn(250, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert along(Z, 1.3 * Z + shift).item() == pytest.approx(1)
    centred = Z - Z.mean(1, keepdim=True)
    other = torch.randn(250, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    other -= other.mean(1, keepdim=True)
    across = other - (other * centred).sum() / centred.square().sum() * centred
    assert along(Z, Z + across).item() == pytest.approx(0, abs=1e-12)
    mixed = 0.1 * centred / centred.norm() + 0.3 * across / across.norm()
    assert along(Z, Z + mixed).item() == pytest.approx(0.1)  # .1^2 of .1^2 + .3^2
    assert along(Z, Z).isnan()
