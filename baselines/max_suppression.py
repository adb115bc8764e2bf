"""MaxSup: the largest logit is suppressed, right or wrong (Zhou et al., 2025, arXiv 2502.15798).

Label smoothing adds strength * (Z_y - mean_k Z_k) to cross-entropy, and so leaves wrong answers confident; here the
largest logit stands in place of the label's.

When: label smoothing is wanted that does not leave wrong answers confident.
"""

from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def max_suppression(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already).

    Cross-entropy plus the strength times max_k Z_k - mean_k Z_k.
    """
    cross_entropy = -log_softmax(Z, -1).gather(-1, y[..., None])[..., 0]
    return cross_entropy + strength * (Z.amax(-1) - Z.mean(-1))


BASELINE = Objective(max_suppression, strengths=(0.1,), reference="zhou2025maxsup", title="MaxSup", valid=(0.0, 1e3))
