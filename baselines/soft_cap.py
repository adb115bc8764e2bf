"""Logit soft cap: z = c tanh(a / c), a the head's output, the strength c (Gemma Team, 2024, arXiv 2408.00118).

When: logits must stay within a bound, whatever the weights.
"""

from torch import Tensor, nn

from calib_bench.core.baseline import Objective


class CappedHead(nn.Linear):
    """A linear head whose logits cannot leave +-cap: they are capped in training and in predictions alike."""

    def __init__(self, linear: nn.Linear, cap: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias, self.cap = linear.weight, linear.bias, cap

    def forward(self, h: Tensor) -> Tensor:
        """h [..., D] -> logits [..., K] within +-cap, before beta."""
        return self.cap * (super().forward(h) / self.cap).tanh()


BASELINE = Objective(
    head=CappedHead, strengths=(30.0,), reference="gemma2024", title="Logit soft cap", valid=(1e-3, 1e4), neutral=None
)
