"""Gaussian noise, the same deviation for every pixel and channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

SIGMA = (0.04, 0.08, 0.12, 0.18, 0.26)
"""Of pixels in [0, 1]: from the mildest of CIFAR-10-C to the fourth of ImageNet-C (Hendrycks & Dietterich, 2019)."""


def apply(x_CHW: Tensor, severity: int) -> Tensor:
    """The image with noise added, cut off at black and white."""
    from torchvision.transforms.v2 import functional

    return functional.gaussian_noise(x_CHW, sigma=SIGMA[severity - 1])


CORRUPTION = Corruption(apply, "image", "Gaussian noise of deviation .04 to .26")
