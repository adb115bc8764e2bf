"""`sweep`: a W&B sweep whose program is this command line. Agents on any machines share a grid, each point a run.

A point trains its part of the grid into the store that `out=` names; agents that share that folder train nothing twice,
and the whole command, given last, finds everything done and compares all points with each other.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from calib_bench import registry
from calib_bench.commands.command import SETTINGS, Command
from calib_bench.core.settings import RATES, Settings, UserSettings
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.system.files import write_bytes

SHARED = ("beta", "objective", "model", "seed")
"""Keys that are shared out even where the task's default gives their values; any other when several are given."""


def _call(arguments: Namespace) -> int:
    """Write `<out>/<task>-<study>-sweep.yaml` and say how to use it.

    Raises:
        SettingsError: as for `run`, or there is nothing to share out.
    """
    import yaml

    settings = arguments.settings
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


COMMAND = Command(
    "sweep",
    """\
Writes a W&B sweep over the keys of run, and says how to use it. Agents on any machines share the grid, each point a run
of its own; the whole command, given last, compares all points.""",
    (),
    (
        "sweep task=imdb beta=0.1,1",
        "sweep task=cifar10 seed=0..4 out=/shared/runs",
        "sweep study=width_depth model=mlp_64,mlp_128",
    ),
    _call,
    keys=SETTINGS,
)


def configuration(settings: UserSettings) -> dict[str, Any]:
    """The sweep as W&B takes it: a grid over the keys that the study can be shared out by.

    A key is one when the trials that the study plans for each of its values alone are all that it plans for them
    together. Rates never are, since they are tuned together, nor seeds whose mean tunes them, nor a search's beta.

    Raises:
        SettingsError: no key has several values, or the study needs them together.
    """
    from calib_bench.planning.defaults import resolve
    from calib_bench.tracking import names

    resolved = resolve(settings)
    parameters: dict[str, dict[str, Any]] = {}
    for key, values in _candidates(settings, resolved).items():
        if _shares(settings, resolved, key, values):
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


def _candidates(settings: UserSettings, resolved: Settings) -> dict[str, tuple[Any, ...]]:
    """Keys of a trial that have several values, other than rates, in the order of the settings."""
    values = {}
    for key in UserSettings.model_fields:
        if key in Trial.model_fields and key not in RATES:
            values[key] = _values(key, settings, resolved)
    return {key: several for key, several in values.items() if len(several) > 1}


def _values(key: str, settings: UserSettings, resolved: Settings) -> tuple[Any, ...]:
    """The values of a key as typed; of a key of `SHARED` that was not typed, those that the task's default gives."""
    typed = getattr(settings, key)
    if isinstance(typed, tuple):
        return typed
    if typed is not None or key not in SHARED:
        return ()
    if key in ("model", "seed"):
        return tuple(getattr(resolved, key))
    first = next(iter(resolved.spaces.values()))
    return tuple(first.get(key, ()))


def _shares(settings: UserSettings, resolved: Settings, key: str, values: tuple[Any, ...]) -> bool:
    """Whether what the study plans for each value alone covers what it plans for all of them."""
    if key == "seed" and any(len(space["lr"]) > 1 for space in resolved.spaces.values()):
        return False
    planned = _planned(settings)
    try:
        parts = [_planned(settings.model_copy(update={key: (value,)})) for value in values]
    except SettingsError:
        return False
    return planned <= set().union(*parts)


def _planned(settings: UserSettings) -> set[str]:
    """Keys of the trials that the study begins with."""
    from calib_bench.planning.defaults import resolve

    resolved = resolve(settings)
    return {trial.key for trial in registry.study(resolved.study).plan(resolved, lambda trial: None)}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
