"""How every run begins: the same weights for a seed, the precision, and the inputs in the model's format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench import models
from calib_bench.data.splits import Splits, seed_of
from calib_bench.trial import Trial

Progress = Callable[[int], None]


def silent(steps: int) -> None:
    """Progress that nobody watches."""


def initial_model(trial: Trial, splits: Splits, device: torch.device) -> nn.Module:
    """The model at its initialization: weights are a function of the seed alone, and the head's are times head_init.

    They are drawn on the CPU in float32, so that every arm, device and precision starts from the same ones.
    """
    torch.set_flush_denormal(True)  # vanishing gradients otherwise slow a CPU down several-fold
    torch.manual_seed(seed_of("init", trial.seed))
    model = models.build(trial.model, splits.spec, splits.classes, trial.pretrained)
    model = model.to(device, torch.float64 if trial.precision == "fp64" else torch.float32)
    if trial.head_init != 1:
        models.rescale_head(model, trial.head_init)
    if splits.spec.kind == "image":
        model = model.to(memory_format=torch.channels_last)
    return model


def prepare(x: Any, precision: str) -> Any:
    """A batch as the model takes it: float64 for fp64, images in channels-last; tokens as they are."""
    if not isinstance(x, Tensor):
        return x
    if precision == "fp64" and x.is_floating_point():
        x = x.double()
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def autocast(trial: Trial, device: torch.device) -> torch.autocast:
    """bfloat16 where the trial's precision says so; parameters, loss and logits stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=trial.precision == "bf16")


def stochastic(model: nn.Module) -> bool:
    """Whether the forward pass in training draws random numbers: dropout or stochastic depth at a rate above 0."""
    for module in model.modules():
        names = ("dropout",) if isinstance(module, nn.RNNBase) else ("drop_prob", "drop_rate")
        names = ("p",) if isinstance(module, nn.modules.dropout._DropoutNd) else names
        rates = (getattr(module, name, None) for name in names)
        if any(isinstance(rate, float | int) and rate > 0 for rate in rates):
            return True
    return False
