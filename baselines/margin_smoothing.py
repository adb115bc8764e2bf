"""Margin-based label smoothing: gaps of logits beyond a margin are penalized (Liu et al., 2022, arXiv 2111.15430).

Label smoothing pulls every gap between the largest logit and another one to 0; this pulls only those above MARGIN.

When: label smoothing is wanted for large gaps between logits alone.
"""

from torch import Tensor
from torch.nn.functional import log_softmax, relu

from calib_bench.core.baseline import Objective

MARGIN = 10.0
"""Largest gap of logits that costs nothing: the one that the paper's code has as its default, with strength 0.1."""


def margin_smoothing(Z: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    """Per-example loss [..., N] in nats of logits Z [..., N, K] (times beta already).

    Cross-entropy plus the strength times the mean over classes k of max(0, max_j Z_j - Z_k - MARGIN).
    """
    cross_entropy = -log_softmax(Z, -1).gather(-1, y[..., None])[..., 0]
    gaps = Z.amax(-1, keepdim=True) - Z
    return cross_entropy + strength * relu(gaps - MARGIN).mean(-1)


BASELINE = Objective(
    margin_smoothing, strengths=(0.1,), reference="liu2022mbls", title="Margin-based label smoothing", valid=(0.0, 1e3)
)
