"""Confidence penalty: cross-entropy - lam H(p), H the entropy in nats (Pereyra et al., 2017, arXiv 1701.06548).

When: as label smoothing, with a pull that depends on the model's own entropy and not on the label.
"""

from torch import Tensor
from torch.nn.functional import log_softmax

from calib_bench.core.baseline import Objective


def confidence_penalty(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already); lam = strength >= 0.

    H = -sum_k p_k log p_k is summed over the classes, so an even prediction earns lam log K.
    """
    logp = log_softmax(Z, -1)
    cross_entropy = -logp.gather(-1, y[..., None])[..., 0]
    return cross_entropy + strength * (logp.exp() * logp).sum(-1)


BASELINE = Objective(confidence_penalty, strengths=(0.1,), reference="pereyra2017", title="Confidence penalty")
