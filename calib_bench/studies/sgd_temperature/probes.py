"""What trials measure of their model on the whole training split."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench import models
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.studies.sgd_temperature.minimum import minimum as descend
from calib_bench.train import initialize
from calib_bench.train.initialize import prepare
from calib_bench.train.loss import Loss

BATCH = 2048
TOLERANCE = 1e-7
"""The gradient norm at which a minimum counts as found."""


def whole(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, float]:
    """Columns `whole_loss`, the mean training loss over all training examples, in nats, and `whole_objective`, the same
    with weight_decay / 2 ||theta||^2: what SGD descends."""

    loss = Loss({name: _number(value, device) for name, value in trial.terms.items()})
    beta, total = _number(trial.beta, device), 0.0
    mode = model.training
    model.eval()
    with torch.no_grad():
        for x, index in splits.train.eval_batches(batch=BATCH, device=device):
            z = model(prepare(x, trial.precision)).double()
            total += float(loss(z, splits.train.labels[index].to(device), beta).sum())
        square = sum(float(p.double().square().sum()) for p in model.parameters()) if trial.weight_decay else 0.0
    model.train(mode)
    mean = total / len(splits.train)
    return {"whole_loss": mean, "whole_objective": mean + trial.weight_decay / 2 * square}


def minimum(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """Scalars of `calib_bench.studies.sgd_temperature.minimum.Minimum`, from the model's weights on, and `examples`,
    their number.

    Raises:
        SettingsError: the model or the data does not allow gradients of single examples.
    """

    if splits.spec.kind == "tokens" or not models.fusable(trial.model) or initialize.stochastic(model):
        raise SettingsError(
            f"the gradients of single examples at a minimum need inputs that are tensors and a model without batch "
            f"norm, dropout or recurrence, unlike {trial.model!r} on task {trial.task!r}: give model=linear or an mlp"
        )
    x = torch.cat([x for x, _ in splits.train.eval_batches(batch=BATCH, device=device)])
    loss = Loss({name: _number(value, device) for name, value in trial.terms.items()})
    labels = splits.train.labels.to(device)
    optimum = descend(model, x, labels, trial.beta, loss, trial.weight_decay, TOLERANCE)
    return {name: _number(float(value)) for name, value in asdict(optimum).items()} | {"examples": _number(len(labels))}


def logit(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, float]:
    """Column `logit`: the parameter of the model `scalar`."""
    return {"logit": float(next(model.parameters()).detach().flatten()[0])}


def first_half(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """`share`, of the training labels in the first half of the classes, and `classes`, their number."""
    share = (splits.train.labels < splits.classes // 2).double().mean()
    return {"share": share, "classes": _number(splits.classes)}


def _number(value: Any, device: torch.device | None = None) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=device)
