"""`list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from calib_bench import models, registry
from calib_bench.core.baseline import Objective
from calib_bench.core.syntax import expand, split_word
from calib_bench.errors import SettingsError, nearest

Row = tuple[str, str]


def show(words: list[str]) -> int:
    """Print the kinds named, or all: tasks, models, baselines, studies."""
    kinds = [word for word in words if "=" not in word]
    for word in words:
        if "=" in word:
            key, value = split_word(word)
            if key != "plugins":
                raise SettingsError(f"list takes no key {key!r}: it takes {', '.join(KINDS)} and plugins=")
            registry.use_plugins(Path(folder) for folder in expand(key, value))
    for kind in kinds:
        if kind not in KINDS:
            raise SettingsError(f"list knows no {kind!r}: {nearest(kind, KINDS)}")
    for kind in kinds or KINDS:
        rows = KINDS[kind]()
        width = max(len(name) for name, _ in rows)
        print(f"{kind}:")
        for name, text in rows:
            print(f"  {name:{width}}  {text}")
    return 0


def _tasks() -> list[Row]:
    found = ((name, registry.task(name)) for name in registry.names("tasks"))
    return [(name, f"{task.title} [{task.models[0]}]") for name, task in found]


def _baselines() -> list[Row]:
    rows = []
    for name in registry.names("baselines"):
        value = registry.load("baselines", name)
        kind = "objective" if isinstance(value, Objective) else "calibrator"
        rows.append((name, f"{kind}: {value.title} ({value.reference})"))
    return rows


def _models() -> list[Row]:
    return list(models.EXAMPLES.items())


def _studies() -> list[Row]:
    return [(name, registry.study(name).question) for name in registry.names("studies")]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "tasks": _tasks,
    "models": _models,
    "baselines": _baselines,
    "studies": _studies,
}
