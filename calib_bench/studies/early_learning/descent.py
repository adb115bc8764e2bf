"""Where gradient descent stops learning: the loss along the way at many rates, side by side.

A rate above 2 / lambda_max(H0) need not be lost: the loss may rise until the curvature has fallen enough, and fall then
(the catapult phase of Lewkowycz, Bahri, Dyer, Sohl-Dickstein, Gur-Ari, 2020, arXiv 2003.02218).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from calib_bench.core.fate import failed, label_entropy
from calib_bench.dynamics.gradient_flow import gradient
from calib_bench.models import unwrap
from calib_bench.train.loss import Loss
from calib_bench.train.stacked_model import Packed, StackedModel, logit_gradient, stacked

Fate = Literal["steady", "catapult", "lost"]
RISE = 1.05
"""A loss that has been above this many times its start has risen."""
LAST = 0.1
"""Share of the steps, the last ones, over which the end is averaged."""
FALLING = 1e-3
"""A loss still falls when its end is lower than its middle by more than this share."""
COARSE = tuple(4.0**i for i in range(-3, 5))
"""Rates to try first, in units of the critical one."""


def fate(losses: Sequence[float] | Tensor, constant: float) -> Fate:
    """What became of a run: "steady" when its loss never rose, "catapult" when it rose and came back, else "lost".

    A run whose end loss failed, see `calib_bench.core.fate.failed`, is lost: its units have died or are saturated. Only
    one that never rose and still falls is steady, however slow it is.

    Args:
        losses: before every step and after the last; infinite once not finite.
        constant: loss of the best constant prediction, the entropy of the labels, in nats.
    """
    loss_T = torch.as_tensor(losses, dtype=torch.float64)
    if not bool(loss_T.isfinite().all()):
        return "lost"
    window, middle = max(1, round(LAST * len(loss_T))), len(loss_T) // 2
    end = float(loss_T[-window:].mean())
    steady = float(loss_T.max()) <= RISE * float(loss_T[0])
    falls = end < (1 - FALLING) * float(loss_T[max(0, middle - window) : middle].mean())
    if failed(end, constant) and not (steady and falls):
        return "lost"
    return "steady" if steady else "catapult"


def first_lost(fates: Sequence[str]) -> int:
    """Index of the first lost run whose predecessor, at the next lower rate, is not lost; 0 where there is none.

    Rates too small to learn anything in the steps there are say nothing about where training begins to fail.
    """
    return next((i for i in range(1, len(fates)) if fates[i] == "lost" != fates[i - 1]), 0)


def frontier(model: nn.Module, x: Any, y_M: Tensor, beta: float, critical: float, steps: int) -> tuple[Tensor, Tensor]:
    """Losses at the rates of `COARSE`, and at three more between the first that is lost and the one below it.

    Args:
        model: as in `descend`, whose other arguments these are too.
        critical: the critical rate, 2 / lambda_max(H0).
        steps: T.

    Returns:
        (rates in units of the critical one [R], ascending; losses [R, T + 1]), float64.
    """
    tried, loss_RT = list(COARSE), descend(model, x, y_M, beta, [critical * rate for rate in COARSE], steps)
    constant = label_entropy(y_M, int(y_M.max()) + 1)
    edge = first_lost([fate(losses, constant) for losses in loss_RT])
    if edge:
        low, ratio = tried[edge - 1], tried[edge] / tried[edge - 1]
        between = [low * ratio ** (i / 4) for i in (1, 2, 3)]
        tried += between
        loss_RT = torch.cat([loss_RT, descend(model, x, y_M, beta, [critical * rate for rate in between], steps)])
    order = sorted(range(len(tried)), key=tried.__getitem__)
    return torch.tensor([tried[i] for i in order], dtype=torch.float64), loss_RT[order]


def descend(model: nn.Module, x: Any, y_M: Tensor, beta: float, rates: Sequence[float], steps: int) -> Tensor:
    """Mean cross-entropy of beta z before every step of full-batch gradient descent, and after the last.

    Args:
        model: at its initialization, left as it is.
        x: the M examples, as the model takes them.
        y_M: labels, int64.
        beta: inverse temperature.
        rates: R learning rates; networks that can be are trained side by side.
        steps: T.

    Returns:
        float64 [R, T + 1] on the CPU; infinite from the first loss on that is not finite.
    """
    model = unwrap(model)
    buffers = bool(list(model.buffers()))
    found_RT = None if buffers else _together(model, x, y_M, beta, rates, steps)
    if found_RT is None:
        found_RT = torch.stack([_alone(model, x, y_M, beta, rate, steps) for rate in rates])
    broken_RT = (~found_RT.isfinite()).int().cummax(1).values.bool()
    return torch.where(broken_RT, torch.inf, found_RT)


def _together(model: nn.Module, x: Any, y_M: Tensor, beta: float, rates: Sequence[float], steps: int) -> Tensor | None:
    """Losses [R, T + 1] of a stack, or None of a model that is not faster stacked."""
    weights, _ = stack_module_state([model] * len(rates))
    packed, grads = Packed(weights), Packed(weights)
    run = stacked(model, packed, grads)
    if isinstance(run, StackedModel):
        return None
    for name, p in weights.items():
        packed.by[name].copy_(p.detach())
    x_RM, y_RM = x.expand(len(rates), *x.shape), y_M.expand(len(rates), -1)
    beta_R11 = torch.full((len(rates), 1, 1), beta).to(packed.all)
    rate_R1 = torch.tensor(rates, dtype=torch.float64).to(packed.all)[:, None]
    losses = []
    for step in range(steps + 1):
        loss_RM, dz_RMK = logit_gradient(Loss({}), run.forward(x_RM), y_RM, beta_R11)
        losses.append(loss_RM.double().mean(1).cpu())
        if step < steps:
            run.backward(dz_RMK.contiguous())
            packed.all.sub_(rate_R1 * grads.all)
    return torch.stack(losses, 1)


def _alone(model: nn.Module, x: Any, y_M: Tensor, beta: float, rate: float, steps: int) -> Tensor:
    at = {name: p.detach().clone() for name, p in model.named_parameters()}
    fixed = {name: b.detach().clone() for name, b in model.named_buffers()}
    losses = []
    for _ in range(steps + 1):
        _, loss, by_name = gradient(model, at, fixed, x, y_M, beta)
        losses.append(loss)
        at = {name: value - rate * by_name[name] for name, value in at.items()}
    return torch.tensor(losses, dtype=torch.float64)
