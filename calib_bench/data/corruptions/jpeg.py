"""JPEG compression of low quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

QUALITY = (25, 18, 15, 10, 7)
"""As in ImageNet-C (Hendrycks & Dietterich, 2019)."""


def apply(x_CHW: Tensor, severity: int) -> Tensor:
    """The image after a JPEG file of that quality; it must have one channel or three."""
    from torchvision.transforms.v2 import functional

    return functional.jpeg(x_CHW, QUALITY[severity - 1])


CORRUPTION = Corruption(apply, "image", "JPEG of quality 25 to 7")
