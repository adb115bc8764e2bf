"""The learning rate that a trial names in one of three units."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.baseline import NO_OBJECTIVES, Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.dynamics.curvature import lambda_max
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.errors import SettingsError
from calib_bench.train.fusion import heads
from calib_bench.train.initialize import prepare
from calib_bench.train.loss import rate_beta

PROBE = 64
"""Most training examples on which the curvature at initialization is measured."""

PROBE_VALUES = 2**20
"""Large inputs have fewer, so that they hold about this many values: the second-order graph of a large image is large.
At least 16, since batch norm needs some."""

TOLERANCE = 1e-2
"""Relative accuracy of lambda_max: it sets a unit of rates, whose grids are far coarser."""

_curvatures: dict[Hashable, tuple[float, bool]] = {}
"""What was measured in this process; trials that differ in rate or objective start from the same point."""


@dataclass(frozen=True)
class Rate:
    """A resolved rate: `value` is the body's; lambda_max is that of H0, where it was needed."""

    value: float
    lambda_max: float | None = None
    converged: bool | None = None
    degree: float | None = None
    """Of the net's homogeneity in its weights, where eps follows it."""

    def metadata(self) -> dict[str, Any]:
        """What is stored of the rate with the trial."""
        columns = {"lr": self.value, "lambda_max": self.lambda_max, "lambda_max_converged": self.converged}
        return columns if self.degree is None else {**columns, "homogeneity": self.degree}

    def eps(self, trial: Trial) -> float:
        """Adam's eps for the trial: its own, times beta^(1 / L) where it follows beta."""
        return trial.eps if self.degree is None else trial.eps * trial.beta ** (1 / self.degree)


def probe(splits: Splits, device: torch.device) -> tuple[Any, Tensor]:
    """The same first batch of training examples for every trial: at most `PROBE`, with the split's augmentation."""
    values = math.prod(splits.spec.shape)
    batch = min(PROBE, max(16, PROBE_VALUES // values), len(splits.train))
    return next(iter(splits.train.train_batches(seed=0, epoch=0, batch=batch, device=device)))


def resolve(
    trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives = NO_OBJECTIVES
) -> Rate:
    """The trial's learning rate, see `_rate`, and what scales its eps.

    Raises:
        SettingsError: as `_rate`; or the net's homogeneity is to be measured, and has no positive degree.
    """
    rate = _rate(trial, model, splits, device, objectives)
    if trial.eps_scale == "none":
        return rate
    x, _ = probe(splits, device)
    degree = homogeneity(model, prepare(x, trial.precision))
    if not (math.isfinite(degree) and degree > 0):
        raise SettingsError(
            f"eps_scale=beta needs the degree to which model {trial.model!r} is homogeneous in its weights, which is "
            f"{degree:g} at initialization; leave eps_scale= out, or give eps="
        )
    return replace(rate, degree=degree)


def homogeneity(model: nn.Module, x: Any) -> float:
    """Degree L of a net's homogeneity in its weights: ||<theta, dz/dtheta>|| / ||z|| on a batch of inputs.

    Where z(s theta) = s^L z(theta), Euler's theorem makes the numerator L z for every input: L is the depth of a net of
    linear and ReLU layers without biases. For others it is the degree at these weights, whole or not.

    Args:
        model: at its initialization; left as it is.
        x: the inputs, as the model takes them.
    """

    tangent = Tangent(model, x)
    along = tangent.push(tangent.at).double().norm()
    return float(along / tangent.z.double().norm())


def _rate(trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives) -> Rate:
    """The trial's learning rate.

    lr is the rate itself; lr_eff = beta^2 rate; lr_rel = rate * lambda_max(H0) / 2, where H0 is the Hessian of the
    cross-entropy of beta z at initialization (beta of the first update; of a switched trial, the larger of its two),
    head factors included: 1 is the critical rate of plain gradient descent, 1 + momentum that of the heavy ball.

    Args:
        trial: the trial.
        model: at its initialization, on `device`; left as it is.
        splits: whose training split gives the probe.
        device: where to compute.
        objectives: those that the trial names, or more.

    Raises:
        SettingsError: lr_rel with another optimizer than sgd, or at a point without positive curvature.
    """
    if trial.lr_unit == "lr":
        return Rate(trial.lr)
    if trial.lr_unit == "lr_eff":
        return Rate(trial.lr / trial.beta**2)
    if trial.optimizer != "sgd":
        raise SettingsError(
            f"lr_rel is a fraction of gradient descent's critical rate and means nothing for {trial.optimizer!r}; "
            "give lr (or lr_eff), or choose optimizer=sgd"
        )
    value, converged = curvature(trial, model, splits, device, objectives)
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(
            f"lr_rel needs a positive curvature at initialization, but lambda_max of model {trial.model!r} at "
            f"beta={rate_beta(trial, objectives):g} is {value:g}; give lr instead"
        )
    return Rate(2 * trial.lr / value, value, converged)


def curvature(
    trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives = NO_OBJECTIVES
) -> tuple[float, bool]:
    """lambda_max(H0) of a trial whatever its rate's unit, and whether it converged; arguments as of `resolve`."""
    start = (
        trial.task,
        splits.digest,
        trial.split,
        trial.limit,
        trial.model,
        trial.pretrained,
        trial.weights,
        trial.precision,
    )
    beta = rate_beta(trial, objectives)
    begins = (trial.seed, beta, trial.head_lr, trial.head_init, trial.correlation, heads(trial, objectives))
    point = (*start, *begins, trial.label_noise, trial.sampling, str(device))
    if point not in _curvatures:
        _curvatures[point] = _measure(trial, beta, model, splits, device)
    return _curvatures[point]


def _measure(trial: Trial, beta: float, model: nn.Module, splits: Splits, device: torch.device) -> tuple[float, bool]:

    x, y = probe(splits, device)
    top = lambda_max(model, prepare(x, trial.precision), y, beta, head_lr=trial.head_lr, tol=TOLERANCE, seed=trial.seed)
    return float(top.value), bool(top.converged)
