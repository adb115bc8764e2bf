"""What the study of early learning measures of a model at its initialization, on one batch of training examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.dynamics.curvature import Curvature, lambda_max
from calib_bench.dynamics.gradient_flow import Path, early_time, follow, speed
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.errors import UserError
from calib_bench.studies.early_learning.descent import frontier, label_entropy
from calib_bench.train.initialize import prepare, stochastic

RESOLVED = 200
"""Steps that a path takes, at least, to the early-learning time."""
LONGEST = 0.2
"""Longest step of a path, in units of the critical rate."""
STEPS = 1500
"""Most steps of a model's own path."""
COMMON_STEPS = 800
"""Most steps of a path whose initial logits are those of other inverse temperatures too."""
COMMON = 1.0
"""The inverse temperature whose initial logits they are."""
PER_LOGIT = 0.3
"""Where the initial logits are zero, a path takes `RESOLVED` steps to this root mean square."""
FRONTIER_STEPS = 200
TOLERANCE = 1e-4
PRODUCTS = 500
"""Relative residual of lambda_max, and most Hessian-vector products spent on it."""
LEARNED = 1e-3
"""A path is over when its loss is below this."""


@dataclass(frozen=True)
class _Start:
    """A model at its initialization, and the examples."""

    trial: Trial
    model: nn.Module
    x: Any
    y: Tensor

    @cached_property
    def tangent(self) -> Tangent:
        return Tangent(self.model, self.x)

    def curvature(self, shift: Tensor | None = None) -> Curvature:
        """Of the loss at the start.

        Raises:
            UserError: it is not a positive finite number.
        """
        top = lambda_max(self.model, self.x, self.y, self.trial.beta, 1.0, PRODUCTS, TOLERANCE, shift=shift)
        if not (math.isfinite(top.value) and top.value > 0):
            raise UserError(
                f"the largest curvature of the loss of {self.trial.model} at beta={self.trial.beta:g} is "
                f"{top.value:g}, so no rate is critical: choose another model"
            )
        return top

    def longest(self, top: Curvature) -> float:
        """The longest step in tau."""
        return LONGEST * 2 * self.trial.beta**2 / top.value


def _start(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> _Start:
    if stochastic(model):
        raise UserError(
            f"{trial.model} draws random numbers as it trains (dropout or stochastic depth), so it has no one path: "
            "choose a model without"
        )
    batch = min(trial.batch, len(splits.train))
    x, y = next(iter(splits.train.train_batches(seed=0, epoch=0, batch=batch, device=device)))
    return _Start(trial, model, prepare(x, trial.precision), y)


def paths(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """Columns of `paths.Path` [T], and numbers: norm = ||Z0||_F, tau_z, and what `curvature` gives.

    The path goes on until the model has moved by ||Z0|| and left its tangent by .3 of the way, or has learned.

    Raises:
        UserError: the model draws random numbers, its initial logits are zero, or its curvature is not positive.
    """
    start = _start(trial, model, splits, device)
    Z0 = trial.beta * start.tangent.z
    if not bool(Z0.any()):
        raise UserError(f"the initial logits of {trial.model} are zero, so there is no time to overcome them")
    top, norm = start.curvature(), float(Z0.norm())
    tau_z = early_time(start.tangent, start.y, Z0)

    def over(path: Path) -> bool:
        done = path.moved[-1] > 1.05 * norm and path.departure() > 0.3
        return done or path.loss[-1] < LEARNED

    longest = start.longest(top)
    first = min(tau_z / RESOLVED, longest)
    path = follow(model, start.x, start.y, trial.beta, start.tangent, first, longest, STEPS, over)
    return {**path.tensors(), **_numbers(norm=norm, tau_z=tau_z), **_known(top)}


def common(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """Columns of `paths.Path` [T], of a path that starts at the logits of beta = `COMMON`.

    A constant is added to every logit, so that Z0 and the kernel are the same at every beta. Logits that are zero at
    every beta, those of two copies in opposition, stay so. The path ends when model and tangent have parted.

    Raises:
        UserError: as in `paths`, but for the initial logits.
    """
    start = _start(trial, model, splits, device)
    shift = (COMMON - trial.beta) * start.tangent.z
    Z0 = COMMON * start.tangent.z
    top, norm = start.curvature(shift), float(Z0.norm())
    longest = start.longest(top)
    distance = norm or PER_LOGIT * math.sqrt(Z0.numel())
    first = min(distance / float(speed(start.tangent, start.y, Z0).norm()) / RESOLVED, longest)

    def over(path: Path) -> bool:
        return path.departure() > 1 or path.loss[-1] < 10 * LEARNED

    path = follow(model, start.x, start.y, trial.beta, start.tangent, first, longest, COMMON_STEPS, over, shift)
    return {**path.tensors(), **_numbers(norm=norm), **_known(top)}


def curvature(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """Numbers: lambda_max of the loss, its relative residual, products used, whether it converged; norm = ||Z0||_F.

    Raises:
        UserError: as in `common`.
    """
    start = _start(trial, model, splits, device)
    return {**_numbers(norm=float(trial.beta * start.tangent.z.norm())), **_known(start.curvature())}


def stability(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """relative [R]: rates in units of the critical one; losses [R, T + 1] of full-batch gradient descent at each.

    And what `curvature` gives, and entropy, the loss of the best constant prediction.

    Raises:
        UserError: as in `common`.
    """
    start = _start(trial, model, splits, device)
    top = start.curvature()
    relative, losses = frontier(model, start.x, start.y, trial.beta, 2 / top.value, FRONTIER_STEPS)
    entropy = label_entropy(start.y, splits.classes)
    return {"relative": relative, "losses": losses, **_numbers(entropy=entropy), **_known(top)}


def _known(top: Curvature) -> dict[str, Tensor]:
    return _numbers(
        lambda_max=top.value, residual=top.residual, products=float(top.iterations), converged=float(top.converged)
    )


def _numbers(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
