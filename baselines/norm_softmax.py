"""NormSoftmax: logits of unit variance over the classes, times the strength s (Jiang et al., 2023, COINS).

When: the scale of the logits should be fixed, the same for each example.
"""

from torch import Tensor, nn

from calib_bench.core.baseline import Objective
from calib_bench.errors import SettingsError

FLOOR = 1e-7
"""Added to the standard deviation: logits that are all equal stay finite."""


class UnitVarianceHead(nn.Linear):
    """A linear head whose logits have variance scale^2 over the classes, in training and in predictions alike."""

    def __init__(self, linear: nn.Linear, scale: float) -> None:
        if linear.out_features < 3:
            raise SettingsError(
                "norm_softmax needs three classes or more: of two logits with unit variance the gap is the same for "
                "every input, and nothing can be learned"
            )
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale

    def forward(self, h: Tensor) -> Tensor:
        """h [..., D] -> logits [..., K], before beta."""
        z = super().forward(h)
        return self.scale * z / (z.std(-1, correction=0, keepdim=True) + FLOOR)


BASELINE = Objective(
    head=UnitVarianceHead, strengths=(1.0,), reference="jiang2023", title="NormSoftmax", valid=(1e-3, 1e4), neutral=None
)
