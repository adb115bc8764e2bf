"""Cosine head: z_k = s cos(h, w_k), no bias, with the strength s (Wang et al., 2017, NormFace, arXiv 1704.06369).

When: the norms of features and class weights should have no part in confidence.
"""

from torch import Tensor, nn
from torch.nn.functional import normalize

from calib_bench.core.baseline import Objective


class CosineHead(nn.Linear):
    """The angle between features and class weights, times a fixed scale: the logits' magnitude cannot grow."""

    def __init__(self, linear: nn.Linear, scale: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.scale = linear.weight, scale

    def forward(self, h: Tensor) -> Tensor:
        """h [..., D] -> logits [..., K] within +-s."""
        return self.scale * nn.functional.linear(normalize(h, dim=-1), normalize(self.weight, dim=-1))


BASELINE = Objective(
    head=CosineHead, strengths=(10.0,), reference="wang2017", title="Cosine head", valid=(1e-3, 1e4), neutral=None
)
