"""Less contrast: pixels move towards the image's mean grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

LEFT = (0.75, 0.5, 0.4, 0.3, 0.15)
"""Share of the contrast that is left, as in CIFAR-10-C (Hendrycks & Dietterich, 2019)."""


def apply(x_CHW: Tensor, severity: int) -> Tensor:
    """The image with a share of its contrast."""
    from torchvision.transforms.v2 import functional

    return functional.adjust_contrast(x_CHW, LEFT[severity - 1])


CORRUPTION = Corruption(apply, "image", "contrast of .75 to .15 of what it was")
