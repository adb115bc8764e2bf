"""LogitNorm: train on logits of length 1 / tau (Wei et al., 2022, arXiv 2205.09310).

The loss is the cross-entropy of beta z / (tau ||z||). The strength is 1 / tau, so that beta times the strength is the
only temperature the loss knows. Predictions take the logits as they are.

When: growth of the logits' norm is held to be the cause of overconfidence.
"""

from torch import Tensor

from calib_bench.core.baseline import Objective

FLOOR = 1e-7
"""Added to the norm, as in the paper's experiments: logits of zero stay zero."""


def logit_norm(z: Tensor, strength: Tensor) -> Tensor:
    """z [..., N, K] -> strength z / (||z|| + FLOOR), norms over the last axis."""
    return strength[..., None] * z / (z.norm(dim=-1, keepdim=True) + FLOOR)


BASELINE = Objective(
    logits=logit_norm, strengths=(10.0, 25.0), reference="wei2022", title="LogitNorm", valid=(1e-3, 1e4), neutral=None
)
