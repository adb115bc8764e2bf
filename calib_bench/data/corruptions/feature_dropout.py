"""Features that are missing from a vector, zero in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

SHARE = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Chance of each feature to be missing."""


def apply(x_D: Tensor, severity: int) -> Tensor:
    """The vector with zeros for the features that were drawn."""
    import torch

    return x_D * (torch.rand(x_D.shape) >= SHARE[severity - 1])


CORRUPTION = Corruption(apply, "vector", "each feature is zero with probability .05 to .5")
