"""The two kinds of baseline: an objective changes training, a calibrator changes logits after it.

A baseline is one file in `baselines/` with one constant `BASELINE`; its file name is its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Params = dict[str, "Tensor"]
"""What a calibrator learned."""


@dataclass(frozen=True)
class Objective:
    """A training loss with a strength; strength 0 must be cross-entropy exactly.

    Attributes:
        loss: (Z [..., N, K] logits already times beta, y [..., N] int64, strength, a tensor that broadcasts to
            [..., N]) -> per-example loss [..., N] in nats. Must work under leading batch axes (fused training).
        strengths: the strengths tried when the command line gives none.
        reference: BibTeX key in references.bib.
        title: what tables call it.
        valid: (low, high) closed bounds of the strength.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    strengths: tuple[float, ...]
    reference: str
    title: str
    valid: tuple[float, float] = (0.0, float("inf"))


@dataclass(frozen=True)
class Calibrator:
    """A post-hoc map from logits to log probabilities, fitted on the calibration split.

    Its logits are Z = beta z, those whose softmax is the model's own prediction.

    Attributes:
        fit: (Z [N, K] floating, y [N] int64) -> parameters, a dict of tensors (so that any fit can be stored).
        apply: (parameters, Z [N, K]) -> log probabilities [N, K], float64, rows normalized.
        keeps_argmax: whether the predicted class can never change.
        reference: BibTeX key in references.bib.
        title: what tables call it.
    """

    fit: Callable[[Tensor, Tensor], Params]
    apply: Callable[[Params, Tensor], Tensor]
    keeps_argmax: bool
    reference: str
    title: str


Baseline = Objective | Calibrator
