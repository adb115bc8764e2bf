"""File names -> tasks, baselines, studies. The only module that imports plug-ins."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader
from pathlib import Path
from types import ModuleType
from typing import Any

from calib_bench.core import plugin_checks
from calib_bench.core.baseline import Calibrator, Objective
from calib_bench.core.settings import StudyOptions
from calib_bench.core.study import Probe, Study
from calib_bench.core.task import Task
from calib_bench.errors import SettingsError, nearest

_CONSTANTS: dict[str, tuple[str, Any]] = {
    "tasks": ("TASK", Task),
    "baselines": ("BASELINE", (Objective, Calibrator)),
    "studies": ("STUDY", Study),
}
_STUDY_FILE = "study.py"
"""The file of a study's folder that sets STUDY."""
_plugins: dict[str, dict[str, Any]] = {kind: {} for kind in _CONSTANTS}


@functools.cache
def _own(kind: str) -> tuple[str, ...]:
    package = importlib.import_module(f"calib_bench.{kind}")
    return tuple(sorted({_name(path) for folder in package.__path__ for path in _plugin_files(Path(folder))}))


def _plugin_files(folder: Path) -> list[Path]:
    """Of a folder the files that set a constant: `NAME.py`, or `NAME/study.py` of a study in a folder of its own."""
    files = [*folder.glob("*.py"), *folder.glob(f"*/{_STUDY_FILE}")]
    return sorted(path for path in files if not _name(path).startswith("_"))


def _name(path: Path) -> str:
    return path.parent.name if path.name == _STUDY_FILE else path.stem


def names(kind: str) -> list[str]:
    """Names of a kind ("tasks", "baselines", "studies"), own and plugged in, without importing the own ones."""
    return sorted({*_own(kind), *_plugins[kind]})


def load(kind: str, name: str) -> Any:
    """The constant of one plug-in file.

    Raises:
        SettingsError: there is no such file, or its constant is missing or of another type.
    """
    if name in _plugins[kind]:
        return _plugins[kind][name]
    if name not in _own(kind):
        raise SettingsError(
            f"no {kind[:-1] if kind != 'studies' else 'study'} is called {name!r}: {nearest(name, names(kind))}"
        )
    module = importlib.import_module(f"calib_bench.{kind}.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.{Path(_STUDY_FILE).stem}")
    return _constant(module, kind, name)


def _constant(module: Any, kind: str, origin: str) -> Any:
    constant, types = _CONSTANTS[kind]
    value = getattr(module, constant, None)
    if not isinstance(value, types):
        expected = " or ".join(t.__name__ for t in (types if isinstance(types, tuple) else (types,)))
        raise SettingsError(f"{origin} must set {constant} to a {expected}, and it is {type(value).__name__}")
    return value


def task(name: str) -> Task:
    """The task of that name."""
    return load("tasks", name)


def study(name: str) -> Study:
    """The study of that name."""
    return load("studies", name)


def study_options() -> dict[str, type[StudyOptions]]:
    """The options of every study that has any, by its name; imports no study of this package, which takes seconds."""
    options: dict[str, type[StudyOptions]] = {}
    studies = importlib.import_module("calib_bench.studies")
    for path in sorted(Path(studies.__path__[0]).glob("*/options.py")):
        name = path.parent.name
        options[name] = importlib.import_module(f"calib_bench.studies.{name}.options").Options
    plugged_in = {name: study.options for name, study in _plugins["studies"].items()}
    return options | {name: model for name, model in plugged_in.items() if model.model_fields}


def probe(name: str) -> Probe:
    """The probe of a trial, "STUDY/NAME".

    Raises:
        SettingsError: there is no such study, or it has no such probe.
    """
    owner, _, own = name.partition("/")
    known = study(owner).probes
    if own not in known:
        raise SettingsError(f"study {owner!r} has no probe {own!r}: {nearest(own, known)}")
    return known[own]


def _baselines(kind: type) -> dict[str, Any]:
    found = {name: load("baselines", name) for name in names("baselines")}
    return {name: value for name, value in found.items() if isinstance(value, kind)}


def objectives() -> dict[str, Objective]:
    """Every training objective by name."""
    return _baselines(Objective)


def calibrators(chosen: Sequence[str] | None = None) -> dict[str, Calibrator]:
    """The post-hoc calibrators of the names given, or all.

    Raises:
        SettingsError: a name is not a calibrator's.
    """
    known = _baselines(Calibrator)
    for name in chosen or ():
        if name not in known:
            hint = (
                f"{name!r} is an objective: give it as objective={name}"
                if name in names("baselines")
                else nearest(name, known)
            )
            raise SettingsError(f"no calibrator is called {name!r}: {hint}")
    return {name: known[name] for name in (known if chosen is None else chosen)}


def use_plugins(folders: Iterable[Path]) -> None:
    """Import every plug-in file of the folders; a file's constant says what it is.

    Raises:
        SettingsError: a folder is missing, a file cannot be imported, holds no constant, or takes a name already used.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"plugins={folder} is not a folder")
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_"):
                _plug(path.resolve())


def use_stored(folder: Path, named: Iterable[Path], given: Iterable[Path]) -> None:
    """Import the plug-ins that a run folder names, if the user gave them too: they are code.

    Raises:
        SettingsError: the user did not.
    """
    named, trusted = list(named), {path.resolve() for path in given}
    if foreign := [path for path in named if path.resolve() not in trusted]:
        raise SettingsError(
            f"{folder} was made with plug-ins from {', '.join(map(str, foreign))}, which is code: if you trust it, "
            f"give plugins={','.join(map(str, named))} too"
        )
    use_plugins(named)


def _plug(path: Path) -> None:
    module_name = f"calib_bench_plugins.{path.stem}"
    if getattr(sys.modules.get(module_name), "__file__", None) == str(path):
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module  # dataclasses and others look their module up while it is made
    try:
        _register(path, module, spec.loader)
    except BaseException:
        del sys.modules[module_name]
        if before is not None:
            sys.modules[module_name] = before
        raise


def _register(path: Path, module: ModuleType, loader: Loader) -> None:
    """Run a plug-in file and enter what it sets.

    Raises:
        SettingsError: as of `use_plugins`; or what it sets does not do what it declares.
    """
    try:
        loader.exec_module(module)
    except Exception as error:
        raise SettingsError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    kinds = [kind for kind, (constant, _) in _CONSTANTS.items() if hasattr(module, constant)]
    if not kinds:
        raise SettingsError(f"{path} sets none of TASK, BASELINE, STUDY: a plug-in file sets one of them")
    for kind in kinds:
        if path.stem in names(kind):
            raise SettingsError(f"{path}: the name {path.stem!r} is taken by another of the {kind}: rename the file")
        value = _constant(module, kind, str(path))
        if isinstance(value, (Objective, Calibrator)):
            plugin_checks.check(value, str(path))
        _plugins[kind][path.stem] = value
