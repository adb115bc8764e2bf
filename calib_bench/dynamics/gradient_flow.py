"""Early learning at an inverse temperature: how long the initial logits last, and how long the tangent model does.

Under gradient flow on the mean cross-entropy of Z = beta z over M examples, dZ/dt = (eta beta^2 / M) Theta (Y - p). In
the time tau = beta^2 eta t beta enters only through Z0 = beta z0 as long as the kernel Theta stays what it is, and the
kernel's own change comes with a factor 1 / beta (Agarwala, Pennington, Dauphin, Schoenholz, 2023, arXiv 2010.07344).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from calib_bench.dynamics.curvature import twice_differentiable
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.models import unwrap

STEADY = 300
"""Steps of equal length at the start of a path; from then on each is longer than the one before."""
GROWTH = 1.01


def early_time(tangent: Tangent, y_M: Tensor, Z0_MK: Tensor) -> float:
    """tau_z = ||Z0||_F / ||(1/M) Theta (Y - softmax(Z0))||_F, the time in tau that it takes to move by ||Z0||.

    Args:
        tangent: of the model's raw logits, on the M examples.
        y_M: labels, int64.
        Z0_MK: initial rescaled logits.
    """
    return float(Z0_MK.norm() / speed(tangent, y_M, Z0_MK).norm())


def speed(tangent: Tangent, y_M: Tensor, Z_MK: Tensor) -> Tensor:
    """dZ/dtau of the tangent model, [M, K]."""
    residual_MK = F.one_hot(y_M, Z_MK.shape[1]).to(Z_MK) - Z_MK.softmax(-1)
    return tangent.kernel(residual_MK) / len(y_M)


@dataclass
class Path:
    """A model's path and that of its tangent model, by the same steps of gradient descent; a value before every step.

    Attributes:
        tau: time, beta^2 times the sum of the rates so far.
        moved: ||Z - Z0||_F.
        moved_linear: the same of the tangent model, ||Z_lin - Z0||_F.
        apart: ||Z - Z_lin||_F.
        loss: mean cross-entropy in nats.
        loss_linear: that of the tangent model.
    """

    tau: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    moved_linear: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    loss_linear: list[float] = field(default_factory=list)

    def departure(self) -> float:
        """How far the model has left its tangent, as a share of the way: ||Z - Z_lin|| / ||Z_lin - Z0||."""
        return self.apart[-1] / self.moved_linear[-1] if self.moved_linear[-1] else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Columns as float64 [T]."""
        return {one.name: torch.tensor(getattr(self, one.name), dtype=torch.float64) for one in fields(self)}


def follow(
    model: nn.Module,
    x: Any,
    y_M: Tensor,
    beta: float,
    tangent: Tangent,
    first: float,
    longest: float,
    most: int,
    over: Callable[[Path], bool] = lambda path: False,
    shift: Tensor | float = 0.0,
) -> Path:
    """Full-batch gradient descent of a model beside its tangent model, which learns with the kernel of its start.

    The first `STEADY` steps take `first` of tau each, every later one `GROWTH` times the one before, up to `longest`.

    Args:
        model: at its initialization; left as it is.
        x: the M examples as the model takes them.
        y_M: labels, int64.
        beta: inverse temperature; Z = beta z + shift.
        tangent: of the model on x.
        first: first step in tau; the rate is that over beta^2.
        longest: longest step.
        most: steps at most.
        over: whether to stop, asked of the path after every value.
        shift: a constant [M, K] that is added to the logits beta z.

    Returns:
        The path; it ends before a value that is not finite.
    """
    model = unwrap(model)
    at = {name: value.clone() for name, value in tangent.at.items()}
    Z0_MK = beta * tangent.z + shift
    lin_MK, tau, path = Z0_MK, 0.0, Path()
    for step in range(most + 1):
        Z_MK, loss, by_name = gradient(model, at, tangent.fixed, x, y_M, beta, shift)
        if not math.isfinite(loss):
            break
        path.tau.append(tau)
        path.loss.append(loss)
        path.loss_linear.append(float(F.cross_entropy(lin_MK, y_M)))
        for name, change in (("moved", Z_MK - Z0_MK), ("moved_linear", lin_MK - Z0_MK), ("apart", Z_MK - lin_MK)):
            getattr(path, name).append(float(change.norm()))
        if step == most or over(path):
            break
        length = min(first * GROWTH ** max(0, step - STEADY), longest)
        at = {name: value - length / beta**2 * by_name[name] for name, value in at.items()}
        lin_MK = lin_MK + length * speed(tangent, y_M, lin_MK)
        tau += length
    return path


def gradient(
    model: nn.Module,
    at: dict[str, Tensor],
    fixed: dict[str, Tensor],
    x: Any,
    y_M: Tensor,
    beta: float,
    shift: Tensor | float = 0.0,
) -> tuple[Tensor, float, dict[str, Tensor]]:
    """Z [M, K], the mean loss, and its gradient by parameter."""
    leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
    buffers = {name: value.clone() for name, value in fixed.items()}
    with twice_differentiable(model):
        Z_MK = beta * torch.func.functional_call(model, leaves | buffers, (x,)) + shift
        loss = F.cross_entropy(Z_MK, y_M)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return Z_MK.detach(), float(loss.detach()), dict(zip(leaves, gradients, strict=True))


def crossing(tau: ArrayLike, values: ArrayLike, level: float) -> float:
    """The first time at which values [T] reach a level, linear between the steps; NaN when they never do."""
    t, v = np.asarray(tau, np.float64), np.asarray(values, np.float64)
    reached = np.flatnonzero(v >= level)
    if not len(reached):
        return math.nan
    i = int(reached[0])
    if i == 0:
        return float(t[0])
    return float(t[i - 1] + (level - v[i - 1]) / (v[i] - v[i - 1]) * (t[i] - t[i - 1]))
