"""The learning rate that a trial names in one of four units, and what else of its recipe follows beta."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.baseline import NO_OBJECTIVES, Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.dynamics.curvature import lambda_max
from calib_bench.dynamics.euler_degree import DegreeOverSeeds, euler_degree_over_seeds
from calib_bench.dynamics.scaling_law import Numbers, carry, powers
from calib_bench.errors import SettingsError
from calib_bench.train.fusion import heads
from calib_bench.train.initialize import initial_model, prepare
from calib_bench.train.loss import rate_beta

PROBE = 64
"""Most training examples on which the curvature at initialization is measured."""

PROBE_VALUES = 2**20
"""Large inputs have fewer, so that they hold about this many values: the second-order graph of a large image is large.
At least 16, since batch norm needs some."""

TOLERANCE = 1e-2
"""Relative accuracy of lambda_max: it sets a unit of rates, whose grids are far coarser."""

DEGREE_SEEDS = range(3)
"""Initializations over which the Euler degree is averaged: the same for every seed, so that all have one rate."""

DIGITS = 3
"""Decimals to which the degree is rounded: `degree=` with the number that is shown gives the same rates."""

_curvatures: dict[Hashable, tuple[float, bool]] = {}
"""What was measured in this process; trials that differ in rate or objective start from the same point."""

_degrees: dict[Hashable, DegreeOverSeeds] = {}
"""Euler degrees that were measured in this process."""


@dataclass(frozen=True)
class Rate:
    """A resolved rate, before the factors of body and head; lambda_max is that of H0, where it was needed."""

    value: float
    lambda_max: float | None = None
    converged: bool | None = None
    degree: float | None = None
    """Of the net's logits in its weights, where something follows beta by it."""
    spread: float | None = None
    """Standard deviation of the degree over initializations, where it was measured."""

    def metadata(self) -> dict[str, Any]:
        """What is stored of the rate with the trial."""
        columns = {"lr": self.value, "lambda_max": self.lambda_max, "lambda_max_converged": self.converged}
        if self.degree is None:
            return columns
        return {**columns, "euler_degree": self.degree, "euler_degree_spread": self.spread}

    def applied(self, trial: Trial, objectives: Objectives = NO_OBJECTIVES) -> Trial:
        """The trial with weight decay, eps and clip as they are used in training at its beta."""
        if self.degree is None:
            return trial
        plain = Numbers(trial.lr, trial.weight_decay, trial.eps, trial.clip)
        carried = carry(plain, trial.optimizer, trial.beta, self.degree)
        used: dict[str, Any] = {}
        if trial.eps_scale == "beta":
            used["eps"] = carried.eps
        if trial.clip_scale == "beta":
            used["clip"] = carried.clip
        if trial.decay_scale == "beta":
            beta = _beta_with_head(trial, objectives)
            used["weight_decay"] = carry(plain, trial.optimizer, beta, self.degree).weight_decay
        return trial.model_copy(update=used)


def probe(splits: Splits, device: torch.device) -> tuple[Any, Tensor]:
    """The same first batch of training examples for every trial: at most `PROBE`, with the split's augmentation."""
    values = math.prod(splits.spec.shape)
    batch = min(PROBE, max(16, PROBE_VALUES // values), len(splits.train))
    return next(iter(splits.train.train_batches(seed=0, epoch=0, batch=batch, device=device)))


def resolve(
    trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives = NO_OBJECTIVES
) -> Rate:
    """The trial's learning rate, with the degree by which other numbers of its recipe follow beta.

    lr is the rate itself; lr_eff = beta^2 rate; lr_rel = rate * lambda_max(H0) / 2, where H0 is the Hessian of the
    cross-entropy of beta z at initialization (beta the largest of the run; of a switched trial, of its two),
    head factors included: 1 is the critical rate of plain gradient descent, 1 + momentum that of the heavy ball.
    lr_hom = rate * beta^(2 / L), of adam and adamw rate * beta^(1 / L), L the degree, at the same beta, head factors
    included.

    Args:
        trial: the trial.
        model: at its initialization, on `device`; left as it is.
        splits: whose training split gives the probe.
        device: where to compute.
        objectives: those that the trial names, or more.

    Raises:
        SettingsError: lr_rel with another optimizer than sgd, or at a point without positive curvature; the degree is
            needed, and the net has none that is positive and finite.
    """
    degree, spread = _degree(trial, splits, device) if trial.needs_degree else (None, None)
    if trial.lr_unit == "lr":
        return Rate(trial.lr, degree=degree, spread=spread)
    if trial.lr_unit == "lr_eff":
        return Rate(trial.lr / trial.beta**2, degree=degree, spread=spread)
    if trial.lr_unit == "lr_hom":
        assert degree is not None  # as trial.needs_degree says
        carried = carry(Numbers(trial.lr), trial.optimizer, _beta_with_head(trial, objectives), degree)
        return Rate(carried.lr, degree=degree, spread=spread)
    value, converged = _positive_curvature(trial, model, splits, device, objectives)
    return Rate(2 * trial.lr / value, value, converged, degree, spread)


def _beta_with_head(trial: Trial, objectives: Objectives) -> float:
    """The largest beta of the run, times what trains the body alike where the head's rate has no factor of its own.

    SGD at beta is SGD at 1 with the head's rate times beta^2, Adam with that times beta (Agarwala et al., arXiv
    2010.07344): so a rate in lr_hom means the same on both sides of this identity, as one in lr_rel does.
    """
    return rate_beta(trial, objectives) * trial.head_lr ** (-1 / powers(trial.optimizer).rate)


def _degree(trial: Trial, splits: Splits, device: torch.device) -> tuple[float, float | None]:
    """The degree given with the trial, else the measured one, and the spread of that."""
    if trial.degree is not None:
        return trial.degree, None
    measured = euler_degree_of(trial, splits, device)
    degree = round(measured.mean, DIGITS) if math.isfinite(measured.mean) else measured.mean
    if not (math.isfinite(degree) and degree > 0):
        raise SettingsError(
            f"lr_hom, carry=all and eps_scale=beta need the degree to which model {trial.model!r} is homogeneous in "
            f"its weights, which is {degree:g} at initialization; give degree=, or rates in another unit"
        )
    return degree, measured.spread


def euler_degree_of(trial: Trial, splits: Splits, device: torch.device) -> DegreeOverSeeds:
    """Euler degree of the net that a trial trains, over the initializations of `DEGREE_SEEDS`, on the probe.

    It depends on no seed, rate, beta, objective, correlation or factor on the head of the trial, and is measured once
    in a process.
    """
    net = (*_net(trial, splits, device), trial.body_lr == 0)
    if net not in _degrees:
        _degrees[net] = _measured_degree(trial, splits, device)
    return _degrees[net]


def _net(trial: Trial, splits: Splits, device: torch.device) -> tuple[Hashable, ...]:
    """What tells an untrained net with the data that it is measured on from others."""
    data = (trial.task, splits.digest, trial.split, trial.limit, trial.sampling)
    return (*data, trial.model, trial.pretrained, trial.weights, trial.precision, str(device))


def _measured_degree(trial: Trial, splits: Splits, device: torch.device) -> DegreeOverSeeds:
    # The head's factor multiplies the logits and changes no degree; the law is that of ordinary weights. An objective
    # may replace the head, a cosine head by one of degree 0: its rates are those of the ordinary head. Two copies of a
    # body have the degree of one, and at correlation -1 no logits to measure it by.
    ordinary = {"head_init": 1.0, "init_scale": 1.0, "objective": CROSS_ENTROPY, "correlation": None}
    plain = trial.model_copy(update=ordinary)
    x, _ = probe(splits, device)

    def build(seed: int) -> nn.Module:
        return initial_model(plain.model_copy(update={"seed": seed}), splits, device)

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return euler_degree_over_seeds(build, prepare(x, trial.precision), DEGREE_SEEDS)


def _positive_curvature(
    trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives
) -> tuple[float, bool]:
    """lambda_max(H0) that a rate can be relative to, and whether it converged."""
    if trial.optimizer != "sgd":
        raise SettingsError(
            f"lr_rel is a fraction of gradient descent's critical rate and means nothing for {trial.optimizer!r}; "
            "give lr (or lr_eff, lr_hom), or choose optimizer=sgd"
        )
    value, converged = curvature(trial, model, splits, device, objectives)
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(
            f"lr_rel needs a positive curvature at initialization, but lambda_max of model {trial.model!r} at "
            f"beta={rate_beta(trial, objectives):g} is {value:g}; give lr instead"
        )
    return value, converged


def curvature(
    trial: Trial, model: nn.Module, splits: Splits, device: torch.device, objectives: Objectives = NO_OBJECTIVES
) -> tuple[float, bool]:
    """lambda_max(H0) of a trial whatever its rate's unit, and whether it converged; arguments as of `resolve`."""
    beta = rate_beta(trial, objectives)
    scales = (trial.head_lr, trial.body_lr, trial.head_init, trial.init_scale)
    begins = (trial.seed, beta, *scales, trial.correlation, heads(trial, objectives))
    point = (*_net(trial, splits, device), *begins, trial.label_noise)
    if point not in _curvatures:
        _curvatures[point] = _measure(trial, beta, model, splits, device)
    return _curvatures[point]


def _measure(trial: Trial, beta: float, model: nn.Module, splits: Splits, device: torch.device) -> tuple[float, bool]:
    x, y = probe(splits, device)
    body = trial.body_lr or 1.0  # at rest it has no part in the Hessian
    head_lr = trial.head_lr / body
    top = lambda_max(model, prepare(x, trial.precision), y, beta, head_lr=head_lr, tol=TOLERANCE, seed=trial.seed)
    return body * float(top.value), bool(top.converged)
