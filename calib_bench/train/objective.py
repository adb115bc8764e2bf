"""The training loss: cross-entropy of beta z, and the terms that depart from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from calib_bench.baseline import Objective
from calib_bench.errors import SettingsError, nearest


def cross_entropy(Z: Tensor, y: Tensor) -> Tensor:
    """-log softmax(Z)_y in nats: Z [..., B, K], y [..., B] int64 -> [..., B]."""
    return -torch.log_softmax(Z, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


class Loss:
    """Per-example objective of Z = beta z.

    No term: cross-entropy. One term: its own loss. Several: cross-entropy plus the sum over terms of (loss -
    cross-entropy), so that every term keeps the meaning it has alone.
    """

    def __init__(self, strengths: Mapping[str, Tensor], objectives: Mapping[str, Objective] | None = None) -> None:
        """
        Args:
            strengths: by objective name, tensors that broadcast to the loss [..., B], such as scalars or [S, 1].
            objectives: known objectives by name; None takes every installed one.

        Raises:
            SettingsError: a name is no objective.
        """
        if objectives is None and strengths:
            from calib_bench import discover

            objectives = discover.objectives()
        for name in strengths:
            if name not in (objectives or {}):
                raise SettingsError(f"unknown objective {name!r}: {nearest(name, objectives or {})}")
        self.terms = [((objectives or {})[name].loss, strengths[name]) for name in sorted(strengths)]

    def __call__(self, z: Tensor, y: Tensor, beta: Tensor) -> Tensor:
        """z [..., B, K] raw logits, y [..., B] int64, beta broadcasts to z -> [..., B] nats, float32 or float64."""
        Z = beta * (z if z.dtype == torch.float64 else z.float())
        if len(self.terms) == 1:
            term, strength = self.terms[0]
            return term(Z, y, strength)
        loss = cross_entropy(Z, y)
        if self.terms:
            loss = loss + torch.stack([term(Z, y, strength) - loss for term, strength in self.terms]).sum(0)
        return loss
