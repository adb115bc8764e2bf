"""One recurrent layer over word embeddings: GRU (Cho et al., 2014, arXiv 1406.1078) or LSTM (Hochreiter, 1997).

Sequences are right-padded and never packed: the state at the last real token does not depend on what comes after it,
and an unpacked pass is many times faster on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Embedding of width H, one layer of width H, linear head on the state after the last real token."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM], vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = cell(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """(tokens [B, L], lengths [B], at least 1) -> logits [B, K]."""
        tokens_BL, lengths_B = x
        state_BLH = self.layer(self.embedding(tokens_BL))[0]
        last_BH = state_BLH[torch.arange(len(lengths_B), device=state_BLH.device), lengths_B - 1]
        return self.head(last_BH)
