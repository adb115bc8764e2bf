"""Wide residual networks (Zagoruyko & Komodakis, 2016, arXiv 1605.07146), with batch norm or without normalization.

Without normalization the initialization is Fixup (Zhang, Dauphin, Ma, 2019, arXiv 1901.09321): the first convolution
of a branch is He-normal times L^(-1/2) for L blocks, the last is zero, and scalar biases and a scalar multiplier take
the place of the affine part of normalization. One departure: Fixup starts the head at zero; here it keeps torch's own
initialization, because the magnitude of the initial logits is itself under study.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class Block(nn.Module):
    """Pre-activation basic block: norm, ReLU, 3x3, norm, ReLU, 3x3, plus a shortcut (1x1 where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.shortcut = _conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        through = x if self.shortcut is None else self.shortcut(h)
        return through + self.conv2(F.relu(self.norm2(self.conv1(h))))


class Bias(nn.Module):
    """Adds one learned scalar, initially 0."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class FixupBlock(nn.Module):
    """The same block with a scalar bias before each convolution and activation and a scalar multiplier a branch."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bias1a, self.bias1b, self.conv1 = Bias(), Bias(), _conv(inputs, outputs, 3, stride)
        self.bias2a, self.bias2b, self.conv2 = Bias(), Bias(), _conv(outputs, outputs, 3)
        self.scale = nn.Parameter(torch.ones(()))
        self.shortcut = _conv(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.bias1b(F.relu(self.bias1a(x)))
        through = x if self.shortcut is None else self.shortcut(h)
        return through + self.scale * self.conv2(self.bias2b(F.relu(self.bias2a(self.conv1(h)))))


class WideResNet(nn.Module):
    """Stem of 16 channels, 3 groups of (depth - 4) / 6 blocks of 16, 32 and 64 times `width` channels, mean, head."""

    def __init__(self, depth: int, width: int, channels: int, classes: int, norm: bool = True) -> None:
        super().__init__()
        block: type[nn.Module] = Block if norm else FixupBlock
        self.stem = _conv(channels, 16, 3)
        self.blocks = nn.Sequential()
        inputs = 16
        for outputs, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            for index in range((depth - 4) // 6):
                self.blocks.append(block(inputs, outputs, stride if index == 0 else 1))
                inputs = outputs
        self.norm = nn.BatchNorm2d(inputs) if norm else Bias()
        self.head = nn.Linear(inputs, classes)
        self._initialize(norm)

    def _initialize(self, norm: bool) -> None:
        """He-normal: by fan-out with batch norm, as published; by fan-in without, to keep the activations' scale."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out" if norm else "fan_in", nonlinearity="relu")
        with torch.no_grad():
            for block in self.blocks:
                if isinstance(block, FixupBlock):
                    block.conv1.weight.mul_(len(self.blocks) ** -0.5)
                    block.conv2.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> logits [B, K]."""
        h = F.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(h.mean((2, 3)))


def build(spec: InputSpec, classes: int, depth: str, width: str, nonorm: str | None = None) -> WideResNet:
    """With a depth of 6n + 4 and a width."""
    return WideResNet(int(depth), int(width), spec.shape[0], classes, norm=nonorm is None)


MODEL = Model(
    build,
    kinds=("image",),
    parameters=r"_([1-9]\d{0,4})_([1-9]\d{0,4})(_nonorm)?",
    stackable=r".*_nonorm",
    examples={
        "wrn_16_4": "Wide ResNet of depth 16 and width 4, batch norm; depth is 6n + 4",
        "wrn_28_10": "Wide ResNet of depth 28 and width 10, batch norm",
        "wrn_16_4_nonorm": "Wide ResNet without normalization, Fixup initialization",
    },
)
