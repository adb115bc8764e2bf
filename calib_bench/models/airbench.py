"""A small convolutional network that learns CIFAR-10 in a few epochs on a CPU, after that of airbench (Jordan, 2024,
arXiv 2404.00498).

A 2x2 convolution, then blocks of 3x3 convolutions with batch norm and ReLU, the first of each with 2x2 max-pool; a
linear head on the largest value of each channel. Of airbench it leaves out the whitening of patches, which reads the
data before training, the second convolution of the first block, and the head's scale; ReLU stands for GELU.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec

STEM = 12
"""Channels of the 2x2 convolution: a basis of the 12 numbers in a patch of three colours."""


def _layer(inputs: int, outputs: int, halve: bool = False) -> nn.Sequential:
    """3x3 convolution, 2x2 max-pool where asked to `halve` the sides, batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    pool = [nn.MaxPool2d(2, ceil_mode=True)] if halve else []
    return nn.Sequential(convolution, *pool, nn.BatchNorm2d(outputs), nn.ReLU())


class Airbench(nn.Module):
    """One block per width; the first has one convolution, the others have two. All have torch's initialization."""

    def __init__(self, widths: list[int], channels: int, classes: int) -> None:
        super().__init__()
        blocks = [_layer(STEM, widths[0], halve=True)]
        for inputs, width in pairwise(widths):
            blocks += [_layer(inputs, width, halve=True), _layer(width, width)]
        self.body = nn.Sequential(nn.Conv2d(channels, STEM, 2), nn.ReLU(), *blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        return self.head(F.adaptive_max_pool2d(self.body(x), 1).flatten(1))


def build(spec: InputSpec, classes: int, widths: str) -> Airbench:
    """With widths such as "16_64_192"."""
    return Airbench([int(width) for width in widths.split("_")], spec.shape[0], classes)


MODEL = Model(
    build,
    kinds=("image",),
    parameters=r"_([1-9]\d{0,4}(?:_[1-9]\d{0,4})*)",
    examples={"airbench_16_64_192": "small convolutional net with batch norm that learns CIFAR-10 in a few epochs"},
)
