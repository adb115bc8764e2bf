"""A learned inverse temperature: z = exp(strength a) (W h + b), with a trained from 0 beside the weights.

The scale of the logits is a degree of freedom that a network otherwise spreads over its head (Agarwala et al., 2023,
arXiv 2010.07344); here it has a parameter of its own, whose rate grows with the strength squared. With weight
decay, W shrinks and exp(a) makes up for it: `head_decay=0` takes the decay off the head, a included.

When: the question is which beta training itself would choose.
"""

import torch
from torch import Tensor, nn

from calib_bench.core.baseline import Objective


class LearnedScale(nn.Linear):
    """A linear layer times exp(strength a)."""

    def __init__(self, linear: nn.Linear, strength: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias, self.strength = linear.weight, linear.bias, strength
        self.log_scale = nn.Parameter(torch.zeros((), dtype=linear.weight.dtype, device=linear.weight.device))

    def forward(self, h: Tensor) -> Tensor:
        """h [..., D] -> logits [..., K]."""
        return super().forward(h) * (self.strength * self.log_scale).exp()


BASELINE = Objective(
    head=LearnedScale, strengths=(1.0,), reference="agarwala2023temperature", title="Learned beta", valid=(0.0, 100.0)
)
