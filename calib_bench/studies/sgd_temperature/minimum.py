"""A minimum of the whole training objective, and what SGD's noise is there: the constants of its stationary state."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from calib_bench.train.loss import Loss

ITERATIONS = 4000
"""Most L-BFGS iterations."""
CHUNK = 64
"""Examples whose gradients are held at once."""


@dataclass(frozen=True)
class Minimum:
    """Where L-BFGS ended, in float64.

    Attributes:
        objective: mean training loss (nats) plus decay / 2 ||theta||^2.
        loss: without the decay.
        gradient: norm of the objective's gradient.
        mean_square: E||g_b||^2 over examples, g_b the gradient of one example's loss plus the decay's.
        noise_curvature: sum_ij C_ij H_ij / tr C with C = E[g_b g_b^T]: the curvature that the noise feels.
        norm: ||theta||.
        accuracy: share of the (noisy) training labels that the model predicts.
        converged: whether the gradient is below the tolerance.
    """

    objective: float
    loss: float
    gradient: float
    mean_square: float
    noise_curvature: float
    norm: float
    accuracy: float
    converged: bool


def minimum(model: nn.Module, x: Tensor, y: Tensor, beta: float, loss: Loss, decay: float, tol: float) -> Minimum:
    """Minimizes mean loss(beta, z) + decay / 2 ||theta||^2 from the model's weights, by L-BFGS in float64.

    The noise is measured at its end by one gradient and one Hessian-vector product an example, in chunks. The model is
    left as it was.

    Args:
        model: without batch norm or dropout, of operations that torch.func.vmap can batch.
        x: all training inputs [N, ...].
        y: their labels [N], int64.
        beta: inverse temperature.
        loss: the objective, strengths in float64.
        decay: weight decay of every parameter.
        tol: the gradient norm at which the minimum counts as found.
    """
    model = copy.deepcopy(model).double().train()
    x = x.double() if x.is_floating_point() else x
    inverse = torch.tensor(beta, dtype=torch.float64, device=y.device)
    parameters = list(model.parameters())

    def objective() -> Tensor:
        penalty = sum((p.square().sum() for p in parameters), start=torch.zeros((), dtype=torch.float64))
        return loss(model(x), y, inverse).mean() + decay / 2 * penalty

    _descend(parameters, objective, tol)
    value = objective()
    norm = math.sqrt(sum(float(p.detach().square().sum()) for p in parameters))
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])
    mean_square, curvature = _noise(model, x, y, inverse, loss, decay)
    with torch.no_grad():
        accuracy = float((model(x).argmax(-1) == y).double().mean())
    end = float(value.detach())
    size = float(gradient.norm())
    return Minimum(end, end - decay / 2 * norm**2, size, mean_square, curvature, norm, accuracy, size <= tol)


def _descend(parameters: list[nn.Parameter], objective: Any, tol: float) -> None:
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )
    optimizer.param_groups[0]["tolerance_grad"] = tol / math.sqrt(sum(p.numel() for p in parameters))  # of the largest

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        for p in parameters:  # convolutions may give theirs in another memory order, which LBFGS cannot flatten
            p.grad = None if p.grad is None else p.grad.contiguous()
        return value

    optimizer.step(closure)


def _noise(model: nn.Module, x: Tensor, y: Tensor, beta: Tensor, loss: Loss, decay: float) -> tuple[float, float]:
    """E||g_b||^2, and E[g_b^T H g_b] over it."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def one(params: dict[str, Tensor], x_1: Tensor, y_1: Tensor) -> Tensor:
        penalty = sum((p.square().sum() for p in params.values()), start=torch.zeros((), dtype=torch.float64))
        return loss(functional_call(model, params, (x_1[None],)), y_1[None], beta)[0] + decay / 2 * penalty

    def objective(params: dict[str, Tensor]) -> Tensor:
        penalty = sum((p.square().sum() for p in params.values()), start=torch.zeros((), dtype=torch.float64))
        return loss(functional_call(model, params, (x,)), y, beta).mean() + decay / 2 * penalty

    def curved(v: dict[str, Tensor]) -> Tensor:
        product = jvp(grad(objective), (weights,), (v,))[1]
        return sum(((v[name] * product[name]).sum() for name in v), start=torch.zeros((), dtype=torch.float64))

    square, curvature = 0.0, 0.0
    for start in range(0, len(y), CHUNK):
        of = slice(start, start + CHUNK)
        each = vmap(grad(one), in_dims=(None, 0, 0))(weights, x[of], y[of])
        square += sum(float(g.square().sum()) for g in each.values())
        curvature += float(vmap(curved)(each).sum())
    return square / len(y), curvature / square if square else math.nan
