"""What a plug-in declares, tried when it is loaded; a baseline on made-up logits: shapes, and whether classes are kept.

A loss that is averaged already, or of another shape, would train to something else without a word; a calibrator that
moves a predicted class, and says that it never does, would turn differences of accuracy into findings.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

from pydantic import ValidationError

from calib_bench.core.baseline import Calibrator, Objective
from calib_bench.core.model import Model
from calib_bench.core.task import Task
from calib_bench.core.trial import CROSS_ENTROPY, RateUnit, Trial
from calib_bench.errors import SettingsError, nearest

EXAMPLES, CLASSES = 60, 4
KINDS = ("vector", "image", "tokens")
"""Of inputs, see `core.splits.InputSpec`."""
RESERVED = ("raw", CROSS_ENTROPY)
"""Names of baselines that tables and settings give to predictions and training without one."""


def check(value: object, name: str, origin: str) -> None:
    """Try what a plug-in sets. What raises of its own accord is left for where it is used, which says on what.

    Args:
        value: a baseline, a task, a model or another.
        name: of the plug-in.
        origin: the file, for errors.

    Raises:
        SettingsError: a baseline returns another shape than its contract says, or does not keep a promise; a task or
            a model declares what cannot be.
    """
    checks: dict[type, Callable[..., None]] = {Objective: _objective, Calibrator: _calibrator, Task: _task}
    checks[Model] = partial(_names, name)
    for kind, test in checks.items():
        if isinstance(value, kind):
            test(value, origin)


def _objective(objective: Objective, origin: str) -> None:
    import torch

    _check_strengths(objective, origin)
    g = torch.Generator().manual_seed(0)
    for lead in ((), (2,)):
        Z = torch.randn(*lead, 5, CLASSES, generator=g)
        y = torch.randint(CLASSES, (*lead, 5), generator=g)
        strength = torch.full((*lead, 1) if lead else (), float(objective.strengths[0]))
        for name, hook, arguments, shape in (
            ("loss", objective.loss, (Z, y, strength), y.shape),
            ("logits", objective.logits, (Z, strength), Z.shape),
        ):
            if hook is None:
                continue
            try:
                value = hook(*arguments)
            except (Exception, SystemExit):
                return
            got = tuple(getattr(value, "shape", ())) if isinstance(value, torch.Tensor) else type(value).__name__
            if got != tuple(shape):
                raise SettingsError(
                    f"{origin}: {name} returns {got} for logits of shape {tuple(Z.shape)}, and must return a tensor of "
                    f"shape {tuple(shape)}" + (": one value an example, not their mean" if name == "loss" else "")
                )


def _check_strengths(objective: Objective, origin: str) -> None:
    """Raises SettingsError where an objective does nothing, or has no strengths within its bounds."""
    hooks = (objective.loss, objective.logits, objective.factor, objective.mix, objective.head)
    if not any(hooks):
        raise SettingsError(f"{origin} gives none of loss, logits, factor, mix, head: it would train as cross-entropy")
    low, high = objective.valid
    strengths = objective.strengths
    if not isinstance(strengths, tuple | list) or not strengths or not low <= min(strengths) <= max(strengths) <= high:
        raise SettingsError(
            f"{origin}: strengths={strengths!r} must be a tuple of numbers from {low:g} to {high:g}, such as (0.1,)"
        )


def _calibrator(calibrator: Calibrator, origin: str) -> None:
    import torch

    g = torch.Generator().manual_seed(0)
    Z = 2 * torch.randn(EXAMPLES, CLASSES, generator=g, dtype=torch.float64)
    y = torch.where(torch.rand(EXAMPLES, generator=g) < 0.5, 0, Z.argmax(-1))  # of a class far too often
    try:
        logp = calibrator.apply(calibrator.fit(Z, y), Z)
    except (Exception, SystemExit):
        return
    if not isinstance(logp, torch.Tensor) or logp.shape != Z.shape:
        got = tuple(logp.shape) if isinstance(logp, torch.Tensor) else type(logp).__name__
        raise SettingsError(f"{origin}: apply returns {got} for logits {tuple(Z.shape)}: it must return their shape")
    total = logp.logsumexp(-1)
    if bool(total.isnan().any()):  # a fit that failed, which is told where it is used
        return
    if not bool((total.abs() < 1e-6).all()):
        raise SettingsError(
            f"{origin}: apply must return log probabilities, and those of a row sum to {float(total.exp()[0]):.3g}"
        )
    moved = int((logp.argmax(-1) != Z.argmax(-1)).sum())
    if calibrator.keeps_argmax and moved:
        raise SettingsError(
            f"{origin} says keeps_argmax=True, and changes the predicted class of {moved} of {EXAMPLES} made-up "
            "examples: say keeps_argmax=False, or mend apply"
        )


def _names(family: str, model: Model, origin: str) -> None:
    """Raises SettingsError where a model's kinds are none, its parameters no regular expression, or its examples no
    names of it."""
    _check_types(model, origin)
    try:
        re.compile(model.stackable)
        others = [name for name in model.examples if not model.match(family, name)]
        needs_example = not (model.examples or model.match(family, family))
    except re.error as error:
        raise SettingsError(
            f"{origin}: parameters={model.parameters!r} or stackable={model.stackable!r} is no regular expression: "
            f"{error}"
        ) from None
    if others:
        raise SettingsError(
            f"{origin}: the example {others[0]!r} is not {family!r} with parameters {model.parameters!r}"
        )
    if needs_example:
        raise SettingsError(f"{origin} has parameters in its names: declare examples={{'{family}_...': 'a line'}}")


def _task(task: Task, origin: str) -> None:
    """Raises SettingsError where a task's defaults are not as they are declared: a tuple that lacks its comma, say."""
    recipe = task.recipe
    for name in ("models", "beta", "seeds", "objectives"):
        _check_tuple(name, getattr(task, name), origin)
    if recipe.lr_unit not in get_args(RateUnit):
        raise SettingsError(
            f"{origin}: recipe.lr_unit={recipe.lr_unit!r}: {nearest(recipe.lr_unit, get_args(RateUnit))}"
        )
    for changes in ({}, *task.recipes.values()):
        _check_recipe(task, {**vars(recipe), **changes}, origin)


def _check_recipe(task: Task, recipe: Mapping[str, Any], origin: str) -> None:
    """Raises SettingsError where no trial can be made of a recipe and the grid of its task."""
    _check_tuple("recipe.lr", recipe["lr"], origin)
    for beta, seed, lr in itertools.product(task.beta, task.seeds, recipe["lr"]):
        values = {**recipe, "beta": beta, "seed": seed, "lr": lr}
        try:
            Trial(task="", model="", objective=CROSS_ENTROPY, **values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "recipe"
            raise SettingsError(f"{origin}: {name}={first['input']!r}: {first['msg'].lower()}") from None


def _check_tuple(name: str, values: object, origin: str) -> None:
    if not isinstance(values, tuple | list | range):
        raise SettingsError(f"{origin}: {name}={values!r} must be a tuple, such as ({values!r},)")
    if not values:
        raise SettingsError(f"{origin}: {name} is empty")


def _check_types(model: Model, origin: str) -> None:
    if not model.kinds or not set(model.kinds) <= set(KINDS):
        raise SettingsError(
            f"{origin}: kinds={model.kinds!r} must be a tuple of {', '.join(KINDS)}, such as {KINDS[:1]}"
        )
    if not isinstance(model.examples, Mapping):
        raise SettingsError(
            f"{origin}: examples={model.examples!r} must be names, each with a line: {{'NAME': 'a line'}}"
        )
