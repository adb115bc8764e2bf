"""Settings as typed -> settings complete: the task's defaults put in, every name checked against what there is."""

from __future__ import annotations

from typing import Any

from calib_bench import registry
from calib_bench.core.baseline import Objective
from calib_bench.core.settings import RATES, Settings
from calib_bench.core.task import Task
from calib_bench.core.trial import ADAM_EPS, CROSS_ENTROPY, format_objective, split_terms
from calib_bench.errors import SettingsError, nearest

RECIPE = ("optimizer", "momentum", "weight_decay", "schedule", "warmup", "epochs", "batch", "clip")
"""Grid keys whose default comes from the task's recipe, which a model may change."""


def resolve(settings: Settings) -> Settings:
    """Complete settings; resolving them again changes nothing.

    Raises:
        SettingsError: a task, study, model, objective, calibrator, optimizer or schedule is unknown, or two settings
            contradict each other.
    """
    from calib_bench import models
    from calib_bench.train.fusion import check_optimizer, check_schedule

    registry.use_plugins(settings.plugins)
    task = registry.task(settings.task)
    settings = settings.model_copy(update=_own(settings, task))
    chosen = tuple(dict.fromkeys(models.canonical(model) for model in settings.model or task.models[:1]))
    for model in chosen:
        models.check_exists(model)
        if settings.pretrained and not model.startswith("timm/"):
            raise SettingsError(f"there are no pretrained weights for {model}: give model=timm/NAME")
    seeds, tune_seeds = _seeds(settings, task)
    pretrained = settings.pretrained
    objective = settings.objective or (task.objectives[:1] if pretrained else task.objectives)
    beta = settings.beta or ((settings.reference,) if pretrained else task.beta)
    if settings.reference not in beta:
        beta = tuple(sorted((*beta, settings.reference)))
    filled = settings.model_copy(
        update={
            "model": chosen,
            "beta": beta,
            "objective": tuple(dict.fromkeys(o for text in objective for o in spell_out(text, registry.objectives()))),
            "seed": seeds,
            "tune_seeds": tune_seeds,
            "interventions": _interventions(settings, task),
            "calibrator": tuple(registry.calibrators(settings.calibrator)),
        }
    )
    spaces = {model: _space(filled, task, model) for model in chosen}
    for space in spaces.values():
        for optimizer in space["optimizer"]:
            check_optimizer(optimizer)
            if optimizer != "sgd" and space["lr_unit"] == ("lr_rel",):
                raise SettingsError(
                    f"rates in lr_rel are relative to the critical rate of gradient descent and have no meaning for "
                    f"{optimizer}: give lr=, for example lr=1e-4,1e-3,1e-2"
                )
            _check_eps(filled, optimizer)
        for schedule in space["schedule"]:
            check_schedule(schedule)
    return filled.model_copy(update={"spaces": spaces})


def _check_eps(settings: Settings, optimizer: str) -> None:
    """Raises SettingsError for an eps that the optimizer would not use."""
    if optimizer in ("adam", "adamw"):
        return
    for key in ("eps", "eps_scale"):
        if getattr(settings, key) != Settings.model_fields[key].default:
            raise SettingsError(f"{key} is a setting of adam and adamw, and {optimizer} has none: leave {key}= out")


def _own(settings: Settings, task: Task) -> dict[str, Any]:
    """The study's own defaults of what was not given; the rate is given in any of its units."""
    rated = any(getattr(settings, unit) for unit in RATES)
    own = registry.study(settings.study).defaults
    unset = {key: v for key, v in own.items() if getattr(settings, key) is None and not (rated and key in RATES)}
    return {key: value(task) if callable(value) else value for key, value in unset.items()}


def _seeds(settings: Settings, task: Task) -> tuple[tuple[int, ...], int]:
    seeds = settings.seed or (task.seeds[:1] if settings.pretrained else task.seeds)
    tune_seeds = settings.tune_seeds or min(task.tune_seeds or len(seeds), len(seeds))
    if tune_seeds > len(seeds):
        raise SettingsError(f"tune_seeds={tune_seeds} is more than the {len(seeds)} seeds there are: give at most that")
    return seeds, tune_seeds


def _interventions(settings: Settings, task: Task) -> str:
    return ("yes" if task.interventions else "no") if settings.interventions == "auto" else settings.interventions


def spell_out(text: str, objectives: dict[str, Objective]) -> list[str]:
    """Canonical objectives that a command-line objective stands for: a name alone stands for each default strength.

    >>> spell_out("cross_entropy", {})
    ['cross_entropy']

    Raises:
        SettingsError: a name is unknown or repeated, or a strength is no number or out of its bounds.
    """
    if text == CROSS_ENTROPY:
        return [CROSS_ENTROPY]
    combinations: list[dict[str, float]] = [{}]
    for term in split_terms(text):
        name, colon, strength = term.strip().partition(":")
        if name == CROSS_ENTROPY:
            raise SettingsError(
                f"objective={text}: cross_entropy stands alone and has no strength; other terms add to it"
            )
        if name not in objectives:
            raise SettingsError(f"no objective is called {name!r}: {nearest(name, [CROSS_ENTROPY, *objectives])}")
        if any(name in c for c in combinations):
            raise SettingsError(f"objective={text} names {name} twice: give each term once")
        values = (_strength(name, strength, objectives[name]),) if colon else objectives[name].strengths
        combinations = [{**c, name: value} for c in combinations for value in values]
    for hook, does in (("head", "replace the head"), ("mix", "mix inputs")):
        clash = [name for name in combinations[0] if getattr(objectives[name], hook)]
        if len(clash) > 1:
            raise SettingsError(f"objective={text}: {clash[0]} and {clash[1]} both {does}: give one of them")
    return [format_objective(c) for c in combinations]


def _strength(name: str, text: str, objective: Objective) -> float:
    low, high = objective.valid
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or value == float("inf"):
        raise SettingsError(f"{name}:{text} is not valid: the strength is a number from {low:g} to {high:g}")
    return value


def _space(settings: Settings, task: Task, model: str) -> dict[str, tuple[Any, ...]]:
    """The grid of one model: every trial field that may vary but the seed, the rate's unit included."""
    from calib_bench.models import canonical

    if settings.spaces and model in settings.spaces:
        return settings.spaces[model]
    own = {canonical(name): recipe for name, recipe in task.recipes.items()}
    recipe = {**vars(task.recipe), **own.get(model, {})}
    space: dict[str, tuple[Any, ...]] = {"beta": settings.beta or (), "objective": settings.objective or ()}
    for key in RECIPE:
        space[key] = getattr(settings, key) or (recipe[key],)
    if settings.pretrained and settings.epochs is None:
        space["epochs"] = (0,)
    shortest = min(space["epochs"])
    if settings.warmup is None:
        space["warmup"] = (recipe["warmup"] * min(1.0, shortest / recipe["epochs"]),)
    elif max(settings.warmup) > shortest:
        raise SettingsError(
            f"warmup={max(settings.warmup):g} epochs is longer than a run of {shortest} epochs: give at most that, or "
            f"more epochs"
        )
    unit = next((unit for unit in RATES if getattr(settings, unit)), None)
    space["lr_unit"] = (unit or recipe["lr_unit"],)
    space["lr"] = tuple(sorted(getattr(settings, unit) if unit else recipe["lr"]))
    if space["epochs"] == (0,):
        space["lr"], space["lr_unit"] = (1.0,), ("lr",)
    for key in ("head_lr", "head_init", "head_decay"):
        space[key] = getattr(settings, key)
    space["correlation"] = settings.correlation or (None,)
    if settings.correlation and 0 in space["epochs"] and settings.pretrained:
        raise SettingsError("correlation draws a new head, which epochs=0 would not train: give epochs=")
    space["label_noise"] = settings.label_noise or (0.0,)
    space["norm_batch"] = settings.norm_batch or (None,)
    space["eps"] = settings.eps or (ADAM_EPS,)
    space["eps_scale"] = (settings.eps_scale,)
    space["sampling"] = settings.sampling or ("shuffled",)
    if settings.pretrained and (weights := _weights(model)):
        space["weights"] = (weights,)
    return space


def _weights(model: str) -> str | None:
    """Which published weights a model would start from now, so that trials from others have other keys."""
    from calib_bench.models.timm import weights_at_hand

    return weights_at_hand(model.removeprefix("timm/"))
