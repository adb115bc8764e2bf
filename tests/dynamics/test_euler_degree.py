"""The Euler degree: exact where networks are homogeneous, as measured by scaling weights where they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.dynamics.euler_degree import DegreeOverSeeds, euler_degree, euler_degree_over_seeds

VECTOR = InputSpec("vector", (64,))
IMAGE = InputSpec("image", (3, 16, 16))
TOKENS = InputSpec("tokens", vocabulary=1000)


def network(name: str, spec: InputSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(name, spec, 10).to(dtype)


def batch(spec: InputSpec, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1)
    if spec.kind == "tokens":
        lengths = torch.randint(5, 31, (32,), generator=generator)
        return torch.randint(spec.vocabulary, (32, 30), generator=generator), lengths
    return torch.randn(32, *spec.shape, generator=generator).to(dtype)


def by_scaling(model: nn.Module, x: Any, step: float = 1e-5) -> float:
    """The degree from three models whose weights were really multiplied, without torch.func."""
    model.train()

    def logits(factor: float) -> torch.Tensor:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
            z = model(x)
        model.load_state_dict(state)
        return z

    along = (logits(1 + step) - logits(1 - step)) / (2 * step)
    return float(along.norm() / logits(1.0).norm())


@pytest.mark.parametrize(
    ("name", "depth"), [("linear_nobias", 1), ("mlp_32_nobias", 2), ("mlp_32_32_nobias", 3), ("mlp_8_8_8_8_nobias", 5)]
)
def test_the_degree_of_a_net_without_biases_is_its_depth(name: str, depth: int) -> None:
    model = network(name, VECTOR, dtype=torch.float64)
    assert euler_degree(model, batch(VECTOR, torch.float64)) == pytest.approx(depth, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "spec", "low", "high"),
    [
        ("mlp_64_64", VECTOR, 2.5, 3.3),
        ("mlp_64_64_layernorm", VECTOR, 1.8, 2.2),
        ("cnn_16_32_32", IMAGE, 3.8, 4.2),
        ("wrn_16_1", IMAGE, 1.7, 2.2),
        ("wrn_16_1_nonorm", IMAGE, 3.2, 4.2),
        ("gru_64", TOKENS, 1.6, 2.7),
        ("lstm_64", TOKENS, 1.6, 2.7),
        ("bag_64", TOKENS, 1.3, 2.0),
    ],
)
def test_degrees_of_architectures(name: str, spec: InputSpec, low: float, high: float) -> None:
    degree = euler_degree_over_seeds(lambda seed: network(name, spec, seed), batch(spec))
    assert low < degree.mean < high
    assert 0 < degree.spread < 0.4


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("mlp_64_64", VECTOR),
        ("cnn_4_8", IMAGE),
        ("wrn_10_1", IMAGE),
        ("gru_8", TOKENS),
        ("lstm_8", TOKENS),
        ("timm/test_vit", InputSpec("image", (3, 32, 32))),
    ],
)
def test_it_is_what_scaling_the_weights_shows_and_leaves_the_model_alone(name: str, spec: InputSpec) -> None:
    model, x = network(name, spec, dtype=torch.float64).eval(), batch(spec, torch.float64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    degree = euler_degree(model, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert degree == pytest.approx(by_scaling(model, x), rel=1e-4)  # a few ReLUs switch within a step


class _Cube(torch.autograd.Function):
    """An operation without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x**3

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise AssertionError("no derivative of this is asked for")


class Cubed(nn.Module):
    """Logits that are homogeneous of degree 4, with batch norm's buffers where they do not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, affine=False)
        self.body, self.head = nn.Linear(64, 7, bias=False), nn.Linear(7, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(_Cube.apply(self.body(self.norm(x))))


def test_where_an_operation_has_no_forward_mode_a_central_difference_serves() -> None:
    model = Cubed()
    assert euler_degree(model, batch(VECTOR)) == pytest.approx(4, rel=1e-6)
    assert torch.equal(model.norm.running_mean, torch.zeros(64))
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_weights_that_are_not_trained_do_not_count() -> None:
    model = network("mlp_32_32_nobias", VECTOR)
    model.body.requires_grad_(False)
    assert euler_degree(model, batch(VECTOR)) == pytest.approx(1, rel=1e-6)


def test_dropout_draws_the_same_each_time() -> None:
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.Dropout(0.5), nn.Linear(32, 10, bias=False))
    assert euler_degree(model, batch(VECTOR)) == euler_degree(model, batch(VECTOR)) == pytest.approx(2, rel=1e-5)


def test_seeds_give_a_mean_and_a_spread() -> None:
    degree = euler_degree_over_seeds(lambda seed: network("mlp_16_16", VECTOR, seed), batch(VECTOR), seeds=range(4))
    one = euler_degree(network("mlp_16_16", VECTOR, 2), batch(VECTOR))
    assert degree.values[2] == one
    assert len(degree.values) == 4
    assert degree.mean == pytest.approx(sum(degree.values) / 4)
    assert DegreeOverSeeds((1.0, 3.0)).spread == pytest.approx(2**0.5)
    assert DegreeOverSeeds((2.5,)).spread == 0
