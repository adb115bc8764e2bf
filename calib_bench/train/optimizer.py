"""Optimizers and learning-rate schedules of the single loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from calib_bench import models
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError, counted
from calib_bench.train.fusion import check_optimizer, check_schedule, part_factors

ADAM_BETA1, ADAM_BETA2 = 0.9, 0.999


def adam_beta1(momentum: float) -> float:
    """Adam's first decay rate: the trial's momentum, or the usual 0.9 when that is 0."""
    return momentum or ADAM_BETA1


def factor(schedule: str, step: int, total_steps: int, steps_per_epoch: int, warmup_epochs: float) -> float:
    """Factor on the learning rate at a step, in [0, 1].

    With W warm-up steps (whole, rounded) the factor is (step + 1) / W while step < W, and then, with
    t = (step - W) / (total_steps - W) in [0, 1):

    - constant: 1
    - cosine: (1 + cos(pi t)) / 2
    - linear: 1 - t
    - parts_A_B_...: A, B, ..., each over an equal part of the run (Smith et al., arXiv 1711.00489, on the rate as a
      temperature that is lowered and raised)
    - step: 1, then 0.1 from t = 1/2 and 0.01 from t = 3/4
    - timm/NAME: timm's own, stepped once an update, decaying to 0; step and multistep decay by 0.1 every third of
      the epochs, and at 1/2 and 3/4 of them.

    Args:
        schedule: name, see `fusion.SCHEDULES`.
        step: from 0; the update that is about to be made.
        total_steps: updates of the whole run.
        steps_per_epoch: updates of one epoch.
        warmup_epochs: epochs of linear warm-up.

    Raises:
        SettingsError: the schedule is unknown, or the warm-up is longer than the run.
    """
    return _schedule(schedule, total_steps, steps_per_epoch, warmup_epochs)(step)


@lru_cache(maxsize=64)
def _schedule(schedule: str, total: int, per_epoch: int, warmup_epochs: float) -> Callable[[int], float]:
    check_schedule(schedule)
    warmup = round(warmup_epochs * per_epoch)
    if warmup > total:
        raise SettingsError(
            f"warmup={warmup_epochs:g} epochs is longer than the run of {counted(total // per_epoch, 'epoch')}; "
            "choose a warm-up no longer than epochs"
        )
    if schedule.startswith("timm/"):
        return _timm_schedule(schedule[5:], total, per_epoch, warmup)
    if schedule.startswith("parts_"):
        return _part_schedule(part_factors(schedule), total, warmup)
    decay = {
        "constant": lambda t: 1.0,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
        "linear": lambda t: 1 - t,
        "step": lambda t: 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01,
    }[schedule]

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay(min(1.0, (step - warmup) / max(1, total - warmup)))

    return at


def _part_schedule(factors: tuple[float, ...], total: int, warmup: int) -> Callable[[int], float]:
    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup * factors[0]
        part = (step - warmup) * len(factors) // max(1, total - warmup)
        return factors[min(part, len(factors) - 1)]

    return at


def _timm_schedule(name: str, total: int, per_epoch: int, warmup: int) -> Callable[[int], float]:
    """A timm schedule as a function of the step: run on an optimizer of rate 1 that never updates anything."""
    from timm.scheduler import create_scheduler_v2

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    epochs = total / per_epoch
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=name,
        num_epochs=total // per_epoch,
        decay_epochs=max(1, round(epochs / 3)),
        decay_milestones=[math.ceil(epochs / 2), math.ceil(epochs * 3 / 4)],
        decay_rate=1.0 if name == "poly" else 0.1,  # of a polynomial this is the power
        min_lr=0.0,
        warmup_lr=0.0,
        warmup_epochs=warmup / per_epoch,  # type: ignore[arg-type]
        warmup_prefix=False,
        step_on_epochs=False,
        updates_per_epoch=per_epoch,
    )

    def at(step: int) -> float:
        scheduler.step_update(step + 1 if step < warmup else step)
        return float(optimizer.param_groups[0]["lr"])

    return at


def make_optimizer(trial: Trial, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """The trial's optimizer over two groups, body and head, whose "initial" rates are `rate` times body_lr and head_lr.

    Weight decay applies to every parameter: added to the gradient for SGD and Adam, decoupled for AdamW. The head's
    is divided by head_lr (Agarwala et al., arXiv 2010.07344: training at beta is training the head at beta^2 the rate).
    A body at rest is no part of it.

    Raises:
        SettingsError: the optimizer is unknown, or refuses its settings.
    """
    check_optimizer(trial.optimizer)
    groups = _groups(trial, model, rate)
    if trial.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=trial.momentum)
    if trial.optimizer in ("adam", "adamw"):
        make = torch.optim.Adam if trial.optimizer == "adam" else torch.optim.AdamW
        betas = (adam_beta1(trial.momentum), ADAM_BETA2)
        return make(groups, lr=rate, betas=betas, eps=trial.eps, weight_decay=0.0)
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(
            groups, opt=trial.optimizer[5:], lr=rate, weight_decay=trial.weight_decay, momentum=trial.momentum
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise SettingsError(f"optimizer {trial.optimizer!r} refuses its settings: {error}") from error


def _groups(trial: Trial, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Groups of parameters with their rates and decays: all in one, or body and head where these differ."""
    if trial.head_lr == trial.head_decay == trial.body_lr == 1:
        return [_group(list(model.parameters()), rate, trial.weight_decay)]
    names = models.head_names(model)
    body = [parameter for name, parameter in model.named_parameters() if name not in names and trial.body_lr]
    head = [parameter for name, parameter in model.named_parameters() if name in names]
    head_decay = trial.weight_decay * trial.head_decay / trial.head_lr
    groups = [_group(body, rate * trial.body_lr, trial.weight_decay), _group(head, rate * trial.head_lr, head_decay)]
    return [group for group in groups if group["params"]]


def _group(parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "initial": rate, "lr": rate, "weight_decay": decay}


@torch.no_grad()
def switch_head(optimizer: torch.optim.Optimizer, head: nn.Linear, change: float) -> None:
    """Multiply the head's weights by `change` and its gradients' memory in the optimizer as its next gradients will be.

    Where beta is divided by `change` at the same time, beta z stays, and gradients by the head are divided by it
    (Agarwala et al., arXiv 2010.07344).
    """
    powers = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2}
    for parameter in head.parameters():
        parameter.mul_(change)
        for name, power in powers.items():
            buffer = optimizer.state.get(parameter, {}).get(name)
            if buffer is not None:
                buffer.div_(change**power)


def set_rate(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's rate to `scale` times its initial one; a rate on a device is set there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(group["initial"] * scale)
        else:
            group["lr"] = group["initial"] * scale
