"""Where gradient descent stops learning: the loss along the way at many rates, side by side.

A rate above 2 / lambda_max(H0) need not diverge: the loss may rise until the curvature has fallen enough, and fall then
(the catapult phase of Lewkowycz, Bahri, Dyer, Sohl-Dickstein, Gur-Ari, 2020, arXiv 2003.02218).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from calib_bench.train.objective import Loss
from calib_bench.train.stacked import Packed, logit_gradient, stacked


def descend(model: nn.Module, x: Any, y_M: Tensor, beta: float, rates: Sequence[float], steps: int) -> Tensor:
    """Mean cross-entropy of beta z before every step of full-batch gradient descent, and after the last.

    Args:
        model: at its initialization, without buffers; left as it is.
        x: the M examples [M, ...].
        y_M: labels, int64.
        beta: inverse temperature.
        rates: R learning rates.
        steps: T.

    Returns:
        float64 [R, T + 1] on the CPU; infinite from the first loss on that is not finite.
    """
    weights, _ = stack_module_state([model] * len(rates))
    packed, grads = Packed(weights), Packed(weights)
    for name, p in weights.items():
        packed.by[name].copy_(p.detach())
    run = stacked(model, packed, grads)
    x_RM, y_RM = x.expand(len(rates), *x.shape), y_M.expand(len(rates), -1)
    like = packed.all
    beta_R11 = torch.full((len(rates), 1, 1), beta, dtype=like.dtype, device=like.device)
    rate_R1 = torch.tensor(rates, dtype=like.dtype, device=like.device)[:, None]
    losses = []
    for step in range(steps + 1):
        loss_RM, dz_RMK = logit_gradient(Loss({}), run.forward(x_RM), y_RM, beta_R11)
        losses.append(loss_RM.double().mean(1).cpu())
        if step < steps:
            run.backward(dz_RMK.contiguous())
            with torch.no_grad():
                like.sub_(rate_R1 * grads.all)
    found_RT = torch.stack(losses, 1)
    broken_RT = (~found_RT.isfinite()).cummax(1).values
    return torch.where(broken_RT, torch.inf, found_RT)
