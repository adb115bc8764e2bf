"""A small residual network that learns CIFAR-10 in a few epochs (Page, How to train your ResNet, 2018).

Four 3x3 convolutions, each twice as wide as the one before, with batch norm and ReLU; two residual pairs between them;
and a linear head on the largest value of each channel. That series has `resnet9_64`, with a head scaled by 1/8.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec


def _layer(inputs: int, outputs: int, halve: bool = False) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU, and 2x2 max-pool where asked to `halve` the sides."""
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)) if halve else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two layers of one width, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_layer(width, width), _layer(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResNet9(nn.Module):
    """Widths are W, 2W, 4W and 8W; sides are halved three times. Convolutions and head have torch's initialization."""

    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _layer(channels, width),
            _layer(width, 2 * width, halve=True),
            Residual(2 * width),
            _layer(2 * width, 4 * width, halve=True),
            _layer(4 * width, 8 * width, halve=True),
            Residual(8 * width),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        return self.head(F.adaptive_max_pool2d(self.body(x), 1).flatten(1))


def build(spec: InputSpec, classes: int, width: str) -> ResNet9:
    """With a width such as "16"."""
    return ResNet9(int(width), spec.shape[0], classes)


MODEL = Model(
    build,
    kinds=("image",),
    parameters=r"_([1-9]\d{0,4})",
    examples={
        "resnet9_16": "small residual net that learns CIFAR-10 in a few epochs, batch norm; widths 16, 32, 64, 128",
    },
)
