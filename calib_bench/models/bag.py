"""Linear classifier on the mean of word embeddings (fastText: Joulin et al., 2016, arXiv 1607.01759, words only)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec


class Bag(nn.Module):
    """Mean of the embeddings of the real tokens, then a linear head: blind to order."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """(tokens [B, L], lengths [B], at least 1) -> logits [B, K]."""
        tokens_BL, lengths_B = x
        real_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < lengths_B[:, None]
        embedded_BLH = self.embedding(tokens_BL)
        weight_BL = real_BL.to(embedded_BLH.dtype) / lengths_B[:, None]
        return self.head((embedded_BLH * weight_BL[..., None]).sum(1))


def build(spec: InputSpec, classes: int, width: str) -> Bag:
    """With a width such as "64"."""
    return Bag(spec.vocabulary, int(width), classes)


MODEL = Model(
    build,
    kinds=("tokens",),
    parameters=r"_([1-9]\d{0,4})",
    stackable=r".*",
    examples={"bag_64": "mean of word embeddings of width 64"},
)
