"""Label smoothing: cross-entropy against (1 - eps) onehot(y) + eps / K (Szegedy et al., 2016, arXiv 1512.00567).

When: as the common way to train less confident models; see what a temperature leaves of it.
"""

from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def label_smoothing(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already); eps = strength in [0, 1]."""
    logp = log_softmax(Z, -1)
    cross_entropy = -logp.gather(-1, y[..., None])[..., 0]
    return (1 - strength) * cross_entropy - strength * logp.mean(-1)


BASELINE = Objective(
    label_smoothing, strengths=(0.1,), reference="szegedy2016", title="Label smoothing", valid=(0.0, 1.0)
)
