"""Names of optimizers and schedules, and which trials may be stacked. Imports no torch, for the planner."""

from __future__ import annotations

from collections.abc import Hashable

from calib_bench import models
from calib_bench.core.baseline import NO_OBJECTIVES, Objectives, objective
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = (
    "constant", "cosine", "step", "linear", "timm/cosine", "timm/tanh", "timm/step", "timm/multistep", "timm/poly",
)  # fmt: skip
"""Learning-rate schedules, with those of timm that need no metric; parts_A_B... are more."""
SMALL = ("mlp", "linear", "scalar")
"""Families of models that train faster as a stack on a CPU too."""
CONVOLUTIONAL = ("cnn", "wrn")
"""Families of models that train faster as a stack on other devices only."""


def check_optimizer(name: str) -> None:
    """Raises SettingsError unless `name` is an optimizer; a timm name is looked up, which imports torch."""
    if name.startswith("timm/"):
        from timm.optim import list_optimizers

        timm_names = list_optimizers()
        if name[5:] in timm_names:
            return
        raise SettingsError(f"unknown optimizer {name!r}: {nearest(name, [f'timm/{choice}' for choice in timm_names])}")
    if name not in OPTIMIZERS:
        raise SettingsError(f"unknown optimizer {name!r}: {nearest(name, OPTIMIZERS)} (timm/NAME takes one of timm's)")


def check_schedule(name: str) -> None:
    """Raises SettingsError unless `name` is a schedule."""
    if name.startswith("parts_"):
        part_factors(name)
    elif name not in SCHEDULES:
        raise SettingsError(f"unknown schedule {name!r}: {nearest(name, SCHEDULES)}")


def part_factors(name: str) -> tuple[float, ...]:
    """Factors on the rate over equal parts of a run.

    >>> part_factors("parts_1_0.1_1")
    (1.0, 0.1, 1.0)

    Raises:
        SettingsError: they are not numbers in [0, 1].
    """
    try:
        factors = tuple(float(text) for text in name.split("_")[1:])
    except ValueError:
        factors = ()
    if not factors or not all(0 <= factor <= 1 for factor in factors):
        raise SettingsError(
            f"schedule {name!r} is not of the form parts_1_0.1_1: factors from 0 to 1 on the rate, one for each of "
            "equal parts of the run"
        )
    return factors


def heads(trial: Trial, objectives: Objectives) -> tuple[tuple[str, float], ...]:
    """The terms of the trial's objective that replace the model's head, which is then another architecture."""
    return tuple((name, strength) for name, strength in trial.terms.items() if objective(name, objectives).head)


def _is_worth_stacking(model: str, device: str) -> bool:
    """Whether copies of a model can be stacked, and train faster so on a type of device."""
    family = models.canonical(model).split("_")[0]
    return models.fusable(model) and (family in SMALL or (family in CONVOLUTIONAL and device != "cpu"))


def fuse_key(trial: Trial, objectives: Objectives = NO_OBJECTIVES, device: str = "cpu") -> Hashable:
    """Trials with equal keys may be trained as one stack; None for a trial that must train alone.

    Members share everything, their probe too, but beta, its switch, rate and its unit, objective (but for one that
    replaces the head), seed, momentum (zero or not is shared), weight decay, the rates of head and body, head decay and
    initialization, scale of all initial weights, correlation (given or not is shared). A body at rest trains alone.
    Convolutions are stacked only off the CPU, where that is faster.

    Args:
        trial: the trial.
        objectives: those that the trial names, or more.
        device: type of the device that will train it, "cpu", "cuda" or "mps".
    """
    if not _is_worth_stacking(trial.model, device):
        return None
    if trial.probe and not trial.epochs:
        return None  # nothing is trained: what is measured is best spread over workers
    if trial.precision == "bf16" or trial.pretrained or not trial.body_lr or trial.optimizer not in OPTIMIZERS:
        return None
    shared = ("task", "split", "limit", "model", "optimizer", "schedule", "warmup", "epochs", "batch", "precision")
    derived = (trial.shift, trial.clip, trial.momentum > 0, heads(trial, objectives), trial.copies, trial.probe)
    return (*(getattr(trial, name) for name in shared), *derived, trial.label_noise, trial.sampling, trial.keep)
