"""A metric over batches, in the form of torchmetrics: update, compute, reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Streaming:
    """One of this package's metrics, given its examples batch by batch; any metric, since it keeps the logits.

    Args:
        metric: a function of (logits [N, K], labels [N]), such as `calib_bench.metrics.ece`.
        options: named arguments of it.

    >>> from calib_bench.metrics import ece
    >>> over_batches = Streaming(ece, bins=10)
    >>> for labels in (torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0])):
    ...     over_batches.update(torch.zeros(len(labels), 2), labels)
    >>> round(float(over_batches.compute()), 4)
    0.1667
    """

    def __init__(self, metric: Callable[..., Any], **options: Any) -> None:
        self.metric, self.options = metric, options
        self.batches: list[tuple[Tensor, Tensor]] = []

    def update(self, logits: Any, labels: Any) -> None:
        """Add logits [B, K] and labels [B], tensors or arrays; they are kept on the CPU, without gradients."""
        self.batches.append((torch.as_tensor(logits).detach().cpu(), torch.as_tensor(labels).detach().cpu()))

    def compute(self) -> Any:
        """The metric of all examples so far.

        Raises:
            ValueError: there are none.
        """
        if not self.batches:
            raise ValueError("no examples yet: call update(logits, labels) first")
        logits, labels = (torch.cat(tensors) for tensors in zip(*self.batches, strict=True))
        return self.metric(logits, labels, **self.options)

    def reset(self) -> None:
        """Forget all examples."""
        self.batches.clear()
