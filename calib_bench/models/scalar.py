"""A model of one parameter s: logits s for the first half of the classes and 0 for the others, whatever the input.

The gradient of its cross-entropy is p(s) - [y in the first half]: its noise over examples has the variance q (1 - q) at
every s, q the share of such labels, so that SGD on it is a diffusion in one dimension with constant noise, and the
stationary density a Gibbs distribution (Mandt, Hoffman, Blei, 2017, arXiv 1704.04289, in general only near a minimum).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec


class Scalar(nn.Module):
    """The head's weight [1, 1] is s, from torch's own initialization."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.head = nn.Linear(1, 1, bias=False)

    def forward(self, x: Any) -> Tensor:
        """x [B, *shape], or (tokens, lengths) -> logits [B, K]."""
        batch = len(x[0] if isinstance(x, tuple) else x)
        weight = self.head.weight
        s_B1 = self.head(torch.ones(batch, 1, dtype=weight.dtype, device=weight.device))
        first = self.classes // 2
        return torch.cat([s_B1.expand(batch, first), torch.zeros_like(s_B1).expand(batch, self.classes - first)], 1)


def build(spec: InputSpec, classes: int) -> Scalar:
    """Takes any inputs."""
    return Scalar(classes)


MODEL = Model(
    build,
    kinds=("vector", "image", "tokens"),
    stackable=r".*",
    title="one parameter, the logit of the first half of the classes: an exactly solvable model of SGD's noise",
)
