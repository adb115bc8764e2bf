"""Logits whose labels are drawn, and the loss of what calibrators make of them."""

from __future__ import annotations

import torch
from torch import Tensor


def overconfident(N: int = 250, K: int = 5, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits [N, K], float32; labels [N] from softmax(0.6 z)."""
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(N, K, generator=g)
    return z, torch.multinomial(torch.softmax(0.6 * z, 1), 1, generator=g)[:, 0]


def nll(logp: Tensor, y: Tensor) -> float:
    return float(-logp.gather(1, y[:, None]).mean())
