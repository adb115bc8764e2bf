"""The Euler degree of a network: how its logits grow when all its weights are scaled together."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from calib_bench.dynamics.curvature import twice_differentiable
from calib_bench.models import unwrap

STEP = 1e-4
"""Relative step of the central difference in float64: its error is of order STEP^2, its rounding 1e-16 / STEP."""


@dataclass(frozen=True)
class DegreeOverSeeds:
    """The Euler degree of one architecture at several initializations.

    Attributes:
        values: one degree per seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def euler_degree(model: nn.Module, x: Any) -> float:
    """Euler degree L = ||<theta, dz/dtheta>|| / ||z|| of a model's logits z on a batch, at the weights theta it has.

    Where z(s theta) = s^L z(theta), Euler's theorem makes the numerator L z for every input: L is the depth of a net of
    linear and ReLU layers without biases. Elsewhere it is the degree at these weights, whole or not: about 2 where a
    normalization layer with gains stands before the head, since all that lies under it can be scaled without effect.

    The derivative is one forward-mode product; where an operation of the model has none, it is a central difference in
    float64. The model runs in training mode, so that batch norm uses the batch's statistics.
    Its weights, buffers and modes, and torch's random streams, are left as they were.

    Args:
        model: returns logits z [N, K]; parameters that are not trained do not belong to theta.
        x: a batch as the model takes it, of N examples: a tensor, or for tokens a pair of them.

    Returns:
        The degree; not finite where all logits are zero.
    """
    model = unwrap(model)
    with twice_differentiable(model), torch.no_grad():
        try:
            z_NK, along_NK = _by_forward_mode(model, x)
        except RuntimeError:  # an operation without a forward-mode derivative
            z_NK, along_NK = _by_central_difference(model, x)
    return float(along_NK.double().norm() / z_NK.double().norm())


def euler_degree_over_seeds(
    build: Callable[[int], nn.Module], x: Any, seeds: Iterable[int] = range(3)
) -> DegreeOverSeeds:
    """Euler degree at the initialization of each seed; see `euler_degree`.

    Args:
        build: seed -> a model at its initialization.
        x: a batch as the models take it.
        seeds: of the initializations, at least one.
    """
    return DegreeOverSeeds(tuple(euler_degree(build(seed), x) for seed in seeds))


def _by_forward_mode(model: nn.Module, x: Any) -> tuple[Tensor, Tensor]:
    """Logits and their derivative in the direction of the weights, both [N, K]."""
    theta = _trained(model)

    def logits(at: dict[str, Tensor]) -> Tensor:
        return _logits(model, at, x)

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))  # torch's, of its own parts that it will drop
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # its fused LSTM has no forward mode
        z_NK, along_NK = jvp(logits, (theta,), (theta,))[:2]
    return z_NK, along_NK


def _by_central_difference(model: nn.Module, x: Any) -> tuple[Tensor, Tensor]:
    """The same from evaluations at weights that are larger and smaller by STEP, in float64."""
    theta = {name: p.double() for name, p in _trained(model).items()}
    x = _as_double(x)
    above_NK = _logits(model, {name: p * (1 + STEP) for name, p in theta.items()}, x)
    below_NK = _logits(model, {name: p * (1 - STEP) for name, p in theta.items()}, x)
    return _logits(model, theta, x), (above_NK - below_NK) / (2 * STEP)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _logits(model: nn.Module, theta: dict[str, Tensor], x: Any) -> Tensor:
    """Logits at other weights, in their precision: batch norm writes into copies, dropout draws the same each time."""
    like = next(iter(theta.values()))
    state = [*model.named_parameters(), *model.named_buffers()]
    fixed = {name: value.detach().clone() for name, value in state if name not in theta}
    if like.dtype == torch.float64:
        fixed = {name: _as_double(value) for name, value in fixed.items()}
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        return functional_call(model, {**fixed, **theta}, (x,))


def _as_double(x: Any) -> Any:
    """Floating-point tensors in float64, of a batch all parts; tokens and lengths stay whole numbers."""
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    return tuple(_as_double(part) for part in x)
