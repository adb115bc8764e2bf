"""Fewer pixels: the image is made smaller, and as large as before with blocks for pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calib_bench.core.corruption import Corruption

if TYPE_CHECKING:
    from torch import Tensor

SIDE = (0.75, 0.6, 0.5, 0.4, 0.3)
"""Share of each side that is left in between."""


def apply(x_CHW: Tensor, severity: int) -> Tensor:
    """The image in blocks, each the mean of what it covers."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    height, width = x_CHW.shape[-2:]
    left = SIDE[severity - 1]
    small = [max(1, round(left * height)), max(1, round(left * width))]
    shrunk = functional.resize(x_CHW, small, InterpolationMode.BILINEAR, antialias=True)
    return functional.resize(shrunk, [height, width], InterpolationMode.NEAREST_EXACT)


CORRUPTION = Corruption(apply, "image", "sides of .75 to .3 as many pixels")
