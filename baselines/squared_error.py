"""Squared error on the logits in place of cross-entropy (Hui & Belkin, 2021, arXiv 2006.07322).

When: a loss without a softmax is the comparison.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def squared_error(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N]: the strength in [0, 1] is the share of the squared error, the rest cross-entropy.

    ||Z - onehot(y)||^2 is summed over the K classes of logits Z [..., N, K], times beta already.
    """
    Z_y = Z.gather(-1, y[..., None])[..., 0]
    cross_entropy = -log_softmax(Z, -1).gather(-1, y[..., None])[..., 0]
    squares = Z.square().sum(-1) - 2 * Z_y + 1
    return torch.where(strength > 0, (1 - strength) * cross_entropy + strength * squares, cross_entropy)


BASELINE = Objective(
    squared_error, strengths=(1.0,), reference="hui2021", title="Squared error on logits", valid=(0.0, 1.0)
)
