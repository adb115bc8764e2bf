"""`list`: what there is to choose from."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial

from calib_bench import models, registry
from calib_bench.commands.command import Command, Option, folders

Row = tuple[str, str]


def _tasks() -> list[Row]:
    tasks = {name: registry.task(name) for name in registry.names("tasks")}
    return [(name, task.title if task.look else f"{task.title} [{task.models[0]}]") for name, task in tasks.items()]


def _models() -> list[Row]:
    return list(models.examples().items())


def _baselines(*kinds: str) -> list[Row]:
    rows = []
    for name in registry.names("baselines"):
        baseline = registry.entry("baselines", name)
        kind = "objective" if baseline.is_objective else "calibrator"
        if kind in kinds:
            rows.append((name, f"{kind}: {baseline.title} ({', '.join(baseline.references)})"))
    return rows


def _studies() -> list[Row]:
    return [(name, registry.entry("studies", name).title) for name in registry.names("studies")]


def _corruptions() -> list[Row]:
    corruptions = {name: registry.load("corruptions", name) for name in registry.names("corruptions")}
    return [(name, f"{corruption.kind}: {corruption.title}") for name, corruption in corruptions.items()]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "tasks": _tasks,
    "models": _models,
    "baselines": partial(_baselines, "calibrator", "objective"),
    "studies": _studies,
    "corruptions": _corruptions,
    "calibrators": partial(_baselines, "calibrator"),
    "objectives": partial(_baselines, "objective"),
}
EVERYTHING = ("tasks", "models", "baselines", "studies", "corruptions")
"""The kinds that hold the others."""


def _call(arguments: Namespace) -> int:
    """Print the kinds named, or all of them, with a line for each entry."""
    registry.use_plugins(arguments.plugins)
    for kind in arguments.kind or EVERYTHING:
        rows = KINDS[kind]()
        width = max(len(name) for name, _ in rows)
        print(f"{kind}:")
        for name, text in rows:
            print(f"  {name:{width}}  {text}")
    return 0


COMMAND = Command(
    "list",
    "Lists tasks, models, baselines, studies and corruptions, each with a line that says what it is.",
    (
        Option("KIND", "what to list; everything when not given", choices=tuple(KINDS), default=(), count="*"),
        Option("--plugins", "folders with plug-ins to list too", folders, (), metavar="FOLDERS"),
    ),
    ("list", "list tasks models", "list calibrators plugins=mine"),
    _call,
)
