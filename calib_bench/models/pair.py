"""Correlated initialization: two copies of a body under one head, for initial logits of any magnitude at a given scale
of gradients (Agarwala, Pennington, Dauphin, Schoenholz, 2023, arXiv 2010.07344).
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.errors import UserError


class PairHead(nn.Linear):
    """W1 h1 + W2 h2 + b, the weight [K, 2D] being W1 beside W2."""

    def forward(self, h: Tensor) -> Tensor:
        """h1 beside h2, [B, 2D] -> logits [B, K]."""
        h1_BD, h2_BD = h.chunk(2, -1)
        W1_KD, W2_KD = self.weight.chunk(2, 1)
        # The same sum, but exactly zero where h1 = h2 and W1 = -W2, however a product is rounded.
        z_BK = F.linear((h1_BD + h2_BD) / 2, W1_KD + W2_KD, self.bias)
        return z_BK + F.linear(h1_BD - h2_BD, (W1_KD - W2_KD) / 2)


class Pair(nn.Module):
    """z = W1 h(x; theta1) + W2 h(x; theta2) + b.

    The copies start equal and train independently. Entries of W1 and W2 are jointly Gaussian with correlation c and the
    root mean square of the model's own head, so that each copy's gradients have the scale that they have in the model
    alone, while ||z|| at initialization is proportional to sqrt(1 + c): it is exactly so for given draws, since W1 +
    W2 = sqrt(2 (1 + c)) P and W1 - W2 = sqrt(2 (1 - c)) Q with the same independent P and Q for every c. The one bias
    is the model's own times sqrt(2 (1 + c)). At c = -1 the logits are exactly zero; under an objective's own head,
    which sees h1 beside h2, they are so to rounding.
    """

    def __init__(self, model: nn.Module, head: nn.Linear, correlation: float) -> None:
        """
        Args:
            model: the body of a model at its initialization, on any device; it becomes the first copy.
            head: the model's head.
            correlation: c in [-1, 1].

        Raises:
            UserError: the head starts at zero, and so has no scale.
        """
        super().__init__()
        scale = head.weight.detach().square().mean().sqrt().item()
        if not scale > 0:
            raise UserError(
                f"the head of {type(model).__name__} starts at zero, so its logits are zero at every correlation of "
                "two copies; choose another model, or leave correlation out"
            )
        self.head = PairHead(
            2 * head.in_features, head.out_features, head.bias is not None, head.weight.device, head.weight.dtype
        )
        _draw(self.head, head, scale, correlation)
        self.first, self.second = model, copy.deepcopy(model)

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """As the model: x -> logits [B, K]."""
        return self.head(torch.cat((self.first(x), self.second(x)), -1))


@torch.no_grad()
def _draw(new: nn.Linear, head: nn.Linear, scale: float, correlation: float) -> None:
    """P and Q come from torch's global seed, on the CPU in float32, like every initial weight."""
    P_KD, Q_KD = (torch.randn(head.weight.shape).to(head.weight) for _ in range(2))
    common_KD = scale * math.sqrt((1 + correlation) / 2) * P_KD
    apart_KD = scale * math.sqrt((1 - correlation) / 2) * Q_KD
    new.weight.copy_(torch.cat((common_KD + apart_KD, common_KD - apart_KD), 1))
    if head.bias is not None:
        new.bias.copy_(math.sqrt(2 * (1 + correlation)) * head.bias)
