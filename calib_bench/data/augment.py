"""Augmentations of whole batches, on the device that holds them.

Each is a pair: `draw` makes the random numbers of a whole global batch on the CPU, so that every device and every
number of processes sees the same ones, and the call applies them where the images are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Augment(Protocol):
    """A random map of images."""

    def draw(self, count: int, generator: Generator) -> Tensor:
        """int64 [count, ...] on the CPU: the random numbers of `count` examples."""
        ...

    def __call__(self, x_BCHW: Tensor, drawn: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape and type; `drawn` has B rows and lies beside x."""
        ...


@dataclass(frozen=True)
class crop:
    """Pad by `padding` black pixels on every side and cut out the original size at a uniformly random offset."""

    padding: int

    def draw(self, count: int, generator: Generator) -> Tensor:
        import torch

        return torch.randint(2 * self.padding + 1, (count, 2), generator=generator)

    def __call__(self, x_BCHW: Tensor, drawn: Tensor) -> Tensor:
        import torch

        height, width = x_BCHW.shape[-2:]
        padded = torch.nn.functional.pad(x_BCHW, [self.padding] * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(len(drawn), device=drawn.device), :, drawn[:, 0], drawn[:, 1]]


@dataclass(frozen=True)
class flip:
    """Mirror left and right with probability one half."""

    def draw(self, count: int, generator: Generator) -> Tensor:
        import torch

        return torch.randint(2, (count,), generator=generator)

    def __call__(self, x_BCHW: Tensor, drawn: Tensor) -> Tensor:
        import torch

        return torch.where(drawn.bool()[:, None, None, None], x_BCHW.flip(-1), x_BCHW)
