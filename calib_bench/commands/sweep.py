"""A W&B sweep whose program is this command line: agents on any machines share a grid, each point a run of its own.

A point trains its part of the grid into the store that `out=` names; agents that share that folder train nothing twice,
and the whole command, given last, finds everything done and compares all points with each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from calib_bench import registry
from calib_bench.core.settings import RATES, Settings, UserSettings, parse
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.system.files import write_bytes
from calib_bench.tracking import names

SHARED = ("beta", "objective", "model", "seed")
"""Keys that are shared out even where the task's default gives their values; any other when several are given."""


def sweep(words: list[str]) -> int:
    """`sweep [key=value ...]`: as for `run`; writes `<out>/<task>-<study>-sweep.yaml` and says how to use it.

    Raises:
        SettingsError: as for `run`, or there is nothing to share out.
    """
    import yaml

    settings = parse(words)
    content = configuration(settings)
    path = settings.out / f"{settings.name}-sweep.yaml"
    write_bytes(path, yaml.safe_dump(content, sort_keys=False, width=1000).encode())
    points = 1
    for parameter in content["parameters"].values():
        points *= len(parameter["values"])
    print(f"{points:,} points over {', '.join(content['parameters'])}: {path}\n")
    print(f"  wandb sweep {path}\n  wandb agent SWEEP_ID          on every machine, in a folder where out= is shared")
    print(f"  {settings.command()}          when they are done: the report over all points")
    return 0


def configuration(settings: UserSettings) -> dict[str, Any]:
    """The sweep as W&B takes it: a grid over the keys that the study can be shared out by.

    A key is one when the trials that the study plans for each of its values alone are all that it plans for them
    together. Rates never are, since they are tuned together, nor seeds whose mean tunes them, nor a search's beta.

    Raises:
        SettingsError: no key has several values, or the study needs them together.
    """
    registry.use_plugins(settings.plugins)
    whole = resolve(settings)
    parameters: dict[str, dict[str, Any]] = {}
    for key, values in _candidates(settings, whole).items():
        if _shares(settings, whole, key, values):
            parameters[key] = {"values": [_plain(value) for value in values]}
    if not parameters:
        raise SettingsError(
            f"study={settings.study} has nothing to share out here: give several values of beta, seed, objective or "
            f"model"
        )
    rest = settings.model_copy(update=dict.fromkeys(parameters))
    fixed = [word for word in rest.words() if word.partition("=")[0] not in parameters]
    content: dict[str, Any] = {
        "name": f"{settings.study} of {settings.task}",
        "description": registry.study(settings.study).question,
        "project": names.project(),
        "program": "calib_bench",
        "method": "grid",
        "command": ["${env}", "python", "-m", "calib_bench", "run", *fixed, "${args_no_hyphens}"],
        "parameters": parameters,
    }
    if entity := os.environ.get("WANDB_ENTITY"):
        content["entity"] = entity
    return content


def _candidates(settings: UserSettings, whole: Settings) -> dict[str, tuple[Any, ...]]:
    """Keys that a trial has, with several values, in the order of the settings."""
    found: dict[str, tuple[Any, ...]] = {}
    for key in UserSettings.model_fields:
        given = getattr(settings, key)
        if key in RATES or key not in Trial.model_fields:
            continue
        if isinstance(given, tuple):
            found[key] = given
        elif given is None and key in SHARED:
            spaces = list(whole.spaces.values())
            own = whole.model if key == "model" else whole.seed if key == "seed" else spaces[0].get(key, ())
            found[key] = tuple(own)
    return {key: values for key, values in found.items() if len(values) > 1}


def _shares(settings: UserSettings, whole: Settings, key: str, values: tuple[Any, ...]) -> bool:
    """Whether the parts cover the whole."""
    if key == "seed" and any(len(space["lr"]) > 1 for space in whole.spaces.values()):
        return False
    planned = _planned(settings)
    try:
        parts = [_planned(settings.model_copy(update={key: (value,)})) for value in values]
    except SettingsError:
        return False
    return planned <= set().union(*parts)


def _planned(settings: UserSettings) -> set[str]:
    """Keys of the trials that the study begins with."""
    resolved = resolve(settings)
    return {trial.key for trial in registry.study(resolved.study).plan(resolved, lambda trial: None)}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
