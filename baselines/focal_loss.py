"""Focal loss: (1 - p_y)^gamma times cross-entropy (Lin et al., 2017, arXiv 1708.02002; Mukhoti et al., 2020).

When: many examples are easy and should count less; it makes models less confident.
"""

from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def focal_loss(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already); gamma = strength >= 0."""
    logp_y = log_softmax(Z, -1).gather(-1, y[..., None])[..., 0]
    missed = -logp_y.clamp(max=-1e-12).expm1()  # 1 - p_y to full precision, and never 0, where a root has no slope
    return -(missed**strength) * logp_y


BASELINE = Objective(focal_loss, strengths=(1.0, 3.0), reference="lin2017", title="Focal loss", valid=(0.0, 20.0))
