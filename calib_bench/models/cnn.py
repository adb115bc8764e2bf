"""Plain convolutional network: no normalization, no shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec

GRID = 4
"""The head sees a grid of about this many cells a side, so that position is kept and its size does not explode."""


class CNN(nn.Module):
    """Blocks of 3x3 convolution, ReLU and 2x2 max-pool (while a side exceeds 1), then a linear head on what is left.

    What is left is averaged down to about `GRID` cells a side and flattened. Convolutions are He-normal with zero
    biases; the head has torch's own initialization.
    """

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.body = nn.Sequential()
        for features in widths:
            layer = nn.Conv2d(channels, features, 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            pool = (min(2, height), min(2, width))
            # The larger of two is the same before or after a ReLU, gradients too, and there are fewer after the pool.
            self.body.extend((layer, nn.MaxPool2d(pool) if max(pool) > 1 else nn.Identity(), nn.ReLU()))
            channels, height, width = features, height // pool[0], width // pool[1]
        self.pool = (max(1, height // GRID), max(1, width // GRID))
        cells = (height // self.pool[0]) * (width // self.pool[1])
        self.head = nn.Linear(channels * cells, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        h = self.body(x)
        if max(self.pool) > 1:
            h = F.avg_pool2d(h, self.pool)
        return self.head(h.flatten(1))


def build(spec: InputSpec, classes: int, widths: str) -> CNN:
    """With widths such as "_16_32"."""
    return CNN(spec.shape, tuple(int(w) for w in widths.split("_")[1:]), classes)


MODEL = Model(
    build,
    kinds=("image",),
    parameters=r"((?:_[1-9]\d{0,4})+)",
    stackable=r".*",
    examples={"cnn_16_32": "plain CNN, one 3x3 convolution, ReLU and 2x2 max-pool per width"},
)
