"""Vector scaling: softmax(w * Z + b), one factor and one intercept per class (Guo et al., 2017, arXiv 1706.04599).

Maximum likelihood with a Gaussian prior of precision 0.1 on the departure of w and of b from temperature scaling
(w = 1/T, b = 0).

When: single classes are named too often or too rarely, each with tens of examples. Cost: 2 K numbers, Newton steps.
"""

from __future__ import annotations

from torch import Tensor

from calib_bench.baselines._affine import LOGITS, Affine, unseen
from calib_bench.baselines._linear import Precision

FEW = 10
"""Examples to a parameter, 2 K of these, below which noise in the fit often costs more than the fit repairs."""


def prior(K: int) -> Precision:
    """Precision 0.1 on every departure."""
    return Precision(diagonal=0.1, intercept=0.1)


def warn(Z_NK: Tensor, y_N: Tensor) -> str | None:
    """What to know where classes have no examples, or parameters few: None where neither is so."""
    N, K = Z_NK.shape
    few = None
    if N < FEW * 2 * K:
        few = (
            f"{N:,} calibration examples for {2 * K:,} parameters: with fewer than {FEW} each it is often worse than"
            " no calibration; temperature or structured vector scaling needs fewer"
        )
    return "; ".join(warning for warning in (unseen(Z_NK, y_N), few) if warning) or None


BASELINE = Affine(LOGITS, prior, full=False).calibrator(reference="guo2017", title="Vector scaling", warn=warn)
