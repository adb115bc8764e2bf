"""z-loss: the squared logarithm of the softmax's normalizer is penalized (Chowdhery et al., 2023, arXiv 2204.02311).

It holds log sum_k exp Z_k near 0, which a constant added to all logits would change without changing a probability.

When: logits drift by a constant, as in low precision.
"""

from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def z_loss(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already).

    Cross-entropy plus the strength times (log sum_k exp Z_k)^2.
    """
    cross_entropy = -log_softmax(Z, -1).gather(-1, y[..., None])[..., 0]
    return cross_entropy + strength * Z.logsumexp(-1).square()


BASELINE = Objective(z_loss, strengths=(1e-4,), reference="chowdhery2023", title="z-loss", valid=(0.0, 1e3))
