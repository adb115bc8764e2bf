"""The training loss: cross-entropy of beta z, and the terms that depart from it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from calib_bench.core.baseline import NO_OBJECTIVES, Objectives, with_strengths
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.system.random import seed_of
from calib_bench.train.fusion import OPTIMIZERS


def cross_entropy(Z: Tensor, y: Tensor) -> Tensor:
    """-log softmax(Z)_y in nats: Z [..., B, K], y [..., B] int64 -> [..., B]."""
    return -torch.log_softmax(Z, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


class Loss:
    """Per-example objective of the raw logits.

    No term: cross-entropy of Z = beta z. One term with a loss: that loss. Several: cross-entropy plus the sum over
    terms of (loss - cross-entropy), so that every term keeps the meaning it has alone.
    """

    def __init__(self, strengths: Mapping[str, Tensor], objectives: Objectives = NO_OBJECTIVES) -> None:
        """
        Args:
            strengths: by objective name, tensors that broadcast to the loss [..., B], such as scalars or [S, 1].
            objectives: those that have a strength, or more.

        Raises:
            SettingsError: a name is no objective.
        """
        terms = with_strengths(strengths, objectives)
        self.maps = [(term.logits, strength) for term, strength in terms if term.logits]
        self.terms = [(term.loss, strength) for term, strength in terms if term.loss]

    def __call__(self, z: Tensor, y: Tensor, beta: Tensor) -> Tensor:
        """z [..., B, K] raw logits, y [..., B] int64, beta broadcasts to z -> [..., B] nats, float32 or float64."""
        z = z if z.dtype == torch.float64 else z.float()
        for to_logits, strength in self.maps:
            z = to_logits(z, strength)
        Z = beta * z
        if len(self.terms) == 1:
            term, strength = self.terms[0]
            return term(Z, y, strength)
        loss = cross_entropy(Z, y)
        if self.terms:
            loss = loss + torch.stack([term(Z, y, strength) - loss for term, strength in self.terms]).sum(0)
        return loss


def rate_beta(trial: Trial, objectives: Objectives) -> float:
    """The inverse temperature at which the critical rate is measured: the largest of the run.

    There the curvature is largest, so that one relative rate suits the whole run.
    """
    return max(trial.beta, TrialSchedule(trial, 2, objectives).beta(0))


class TrialSchedule:
    """What changes from update to update in one trial: its beta, and which examples are mixed."""

    def __init__(self, trial: Trial, total: int, objectives: Objectives = NO_OBJECTIVES) -> None:
        """
        Args:
            trial: the trial.
            total: updates of the whole run.
            objectives: those that the trial names, or more.

        Raises:
            SettingsError: an objective is unknown, or two of them mix inputs.
        """
        self.trial, self.total = trial, total
        terms = with_strengths(trial.terms, objectives)
        self.factors = [(term.factor, strength) for term, strength in terms if term.factor]
        self.replaces_head = any(term.head for term, _ in terms)
        mixers = [(term.mix, strength) for term, strength in terms if term.mix]
        if len(mixers) > 1:
            raise SettingsError(f"objective {trial.objective!r} mixes inputs in two ways: give one of them")
        self.mixer = mixers[0] if mixers else None
        self.switch = max(0, min(total - 1, max(1, round(trial.switch_at * total)))) if trial.switch_from else 0
        """The update before which the switch is made; 0 is never."""

    def check(self, spec: InputSpec, world: int = 1) -> None:
        """Raises SettingsError when the inputs, head, optimizer or processes do not allow what the trial asks for."""
        if self.mixer and spec.kind == "tokens":
            raise SettingsError(f"objective {self.trial.objective!r} mixes inputs, and words cannot be mixed")
        if self.mixer and world > 1:
            raise SettingsError(
                f"objective {self.trial.objective!r} mixes examples of the whole batch, which {world} processes share: "
                "train it in one process"
            )
        if self.switch and (self.replaces_head or self.trial.optimizer not in OPTIMIZERS):
            raise SettingsError(
                f"a switch of beta needs a plain linear head and one of the optimizers {', '.join(OPTIMIZERS)}, not "
                f"objective {self.trial.objective!r} with optimizer {self.trial.optimizer!r}"
            )

    @property
    def steady(self) -> bool:
        """Whether the loss sees one beta in every update."""
        return not self.factors and not self.switch

    def beta(self, step: int) -> float:
        """The inverse temperature in the loss of an update."""
        value = self.base(step)
        for factor, strength in self.factors:
            value *= factor(step / self.total, strength)
        return value

    def base(self, step: int) -> float:
        """The inverse temperature whose softmax is the model's prediction before an update."""
        return self.trial.switch_from or 1.0 if step < self.switch else self.trial.beta

    def head_factor(self, step: int) -> float:
        """Factor on the head's weights just before an update; its momentum is divided by it. 1 but for the switch."""
        return (self.trial.switch_from or 1.0) / self.trial.beta if self.switch and step == self.switch else 1.0

    def mixture(self, epoch: int, step: int, batch: int) -> tuple[float, np.ndarray]:
        """Share of its own that an example keeps, and the partner of each, int64 [B]: a function of the seed."""
        assert self.mixer is not None, "asked only of a trial that mixes"
        draw, strength = self.mixer
        rng = np.random.default_rng(seed_of("mix", self.trial.seed, epoch, step))
        partner_B = rng.permutation(batch)
        return draw(rng, strength), partner_B
