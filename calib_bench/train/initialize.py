"""How every run begins: the same weights for a seed, the precision, and the inputs in the model's format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench import models
from calib_bench.core.baseline import NO_OBJECTIVES, Objectives, with_strengths
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial, of_file, scored_as_published
from calib_bench.errors import SettingsError
from calib_bench.system.random import seed_of

Progress = Callable[[int], None]


def silent(steps: int) -> None:
    """Progress that nobody watches."""


def initial_model(
    trial: Trial, splits: Splits, device: torch.device, objectives: Objectives = NO_OBJECTIVES
) -> nn.Module:
    """The model at its initialization: weights are a function of the seed alone, times init_scale, the head's times
    head_init too.

    They are drawn on the CPU in float32, so that every arm, device and precision starts from the same ones.
    """
    torch.set_flush_denormal(True)  # vanishing gradients otherwise slow a CPU down several-fold
    torch.manual_seed(seed_of("init", trial.seed))
    model = models.build(trial.model, splits.spec, splits.classes, trial.pretrained, trial.weights)
    if scored_as_published(trial) and not of_file(trial.weights):  # the data was matched to a file's head
        _check_pretrained_head(trial, model, splits.classes)
    model = model.to(device, torch.float64 if trial.precision == "fp64" else torch.float32)
    if trial.correlation is not None:
        model = models.paired(model, trial.correlation)
    if trial.head_init != 1:
        models.rescale_head(model, trial.head_init)
    _replace_head(trial, model, objectives)
    if trial.init_scale != 1:
        models.rescale(model, trial.init_scale)
    if trial.precision == "bf16":
        _exact_head(models.head(model))
    if splits.spec.kind == "image":
        model = model.to(memory_format=torch.channels_last)
    if not trial.body_lr:
        _rest_body(model)
    return model


def _check_pretrained_head(trial: Trial, model: nn.Module, classes: int) -> None:
    """Raises SettingsError when the head is new, because the weights' own has other classes: nothing to calibrate."""
    head_classes = getattr(model, "pretrained_cfg", {}).get("num_classes")
    if head_classes != classes:
        raise SettingsError(
            f"the weights of {trial.model} have {head_classes} classes and the data {classes}, "
            f"so the head would be random: give data of all {head_classes} classes, or epochs= to train a new head"
        )


def _replace_head(trial: Trial, model: nn.Module, objectives: Objectives) -> None:
    """Raises SettingsError when two objectives replace the head."""
    makers = [(term.head, strength) for term, strength in with_strengths(trial.terms, objectives) if term.head]
    if len(makers) > 1:
        raise SettingsError(f"objective {trial.objective!r} replaces the head in two ways: give one of them")
    for make, strength in makers:
        models.replace_head(model, make(models.head(model), strength))


def _rest_body(model: nn.Module) -> None:
    """Leave only the head to train, and the model in evaluation mode for good: a linear head has no modes.

    Raises:
        SettingsError: pretrained weights lack layers below the head's last, which would stay random.
    """
    body = {name for name, _ in model.named_parameters()} - models.head_names(model)
    if drawn := body & getattr(model, "drawn", set()):
        raise SettingsError(
            f"body_lr=0 trains the last layer alone, and the weights lack layers below it ({min(drawn)}), which would "
            "stay random: give a small body_lr=, such as 0.1"
        )
    model.requires_grad_(False)
    models.head(model).requires_grad_(True)
    model.eval()
    model.train = lambda mode=True: model  # type: ignore[method-assign]


def _exact_head(head: nn.Linear) -> None:
    """Let the head work in float32 under autocast: bfloat16 logits would tie, and carry two digits of the log loss."""
    plain = head.forward

    def forward(h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return plain(h.float())

    head.forward = forward  # type: ignore[method-assign, assignment]


def prepare(x: Any, precision: str) -> Any:
    """A batch as the model takes it: float64 for fp64, images in channels-last; tokens as they are."""
    if not isinstance(x, Tensor):
        return x
    if precision == "fp64" and x.is_floating_point():
        x = x.double()
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def autocast(trial: Trial, device: torch.device) -> torch.autocast:
    """bfloat16 where the trial's precision says so; parameters, head, logits and loss stay float32."""
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
