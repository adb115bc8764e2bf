"""Gaussian blur; its width grows as the root of the image's side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

SIGMA = (0.1, 0.15, 0.2, 0.25, 0.35)
"""Times the root of the side in pixels: .6 to 2 pixels at 32 x 32, 1.5 to 5.2 at 224 x 224."""


def apply(x_CHW: Tensor, severity: int) -> Tensor:
    """The image convolved with a Gaussian, which is cut off at three deviations or at the image's own width."""
    from torchvision.transforms.v2 import functional

    side = min(x_CHW.shape[-2:])
    sigma = SIGMA[severity - 1] * math.sqrt(side)
    radius = min(math.ceil(3 * sigma), side - 1)
    return functional.gaussian_blur(x_CHW, [2 * radius + 1] * 2, [sigma] * 2)


CORRUPTION = Corruption(apply, "image", "Gaussian blur of .1 to .35 times the root of the side")
