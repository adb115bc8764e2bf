"""Tasks, baselines, studies, corruptions and models by name, those of the package and of plug-ins.

No other module imports plug-ins. The name of a model's file may be the beginning of many names, see `core.model`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from calib_bench.core import plugin_checks
from calib_bench.core.baseline import Calibrator, Objective
from calib_bench.core.corruption import Corruption
from calib_bench.core.model import Model
from calib_bench.core.settings import StudyOptions
from calib_bench.core.study import Probe, Study
from calib_bench.core.task import Content, Task
from calib_bench.errors import SettingsError, nearest

log = logging.getLogger(__name__)
_CONSTANTS: dict[str, tuple[str, tuple[type, ...]]] = {
    "tasks": ("TASK", (Task,)),
    "baselines": ("BASELINE", (Objective, Calibrator)),
    "studies": ("STUDY", (Study,)),
    "corruptions": ("CORRUPTION", (Corruption,)),
    "models": ("MODEL", (Model,)),
}
_SINGULAR = {
    "tasks": "task",
    "baselines": "baseline",
    "studies": "study",
    "corruptions": "corruption",
    "models": "model",
}
_PACKAGES = {"corruptions": "data.corruptions"}
"""Where those are, if not in the package that is called as the kind."""
_STUDY_FILE = "study.py"
"""The file of a study's folder that sets STUDY."""
_HUB = "hub"
"""The task of data sets by their name on the Hub: hub/OWNER/NAME."""
_adapted: dict[str, Task] = {}
"""Tasks of the user's own data by name, once it is known what that holds."""
_plugins: dict[str, dict[str, Any]] = {kind: {} for kind in _CONSTANTS}


@functools.cache
def _own(kind: str) -> tuple[str, ...]:
    files = [path for folder in folders(kind) for path in _plugin_files(folder)]
    return tuple(sorted({_name(path) for path in files if kind != "models" or _declared(path, "MODEL")[0]}))


def folders(kind: str) -> list[Path]:
    """Where the package's own plug-ins of a kind are."""
    return [Path(folder) for folder in importlib.import_module(_package_of(kind)).__path__]


def _package_of(kind: str) -> str:
    return f"calib_bench.{_PACKAGES.get(kind, kind)}"


def _plugin_files(folder: Path) -> list[Path]:
    """Of a folder the files that set a constant: `NAME.py`, or `NAME/study.py` of a study in a folder of its own."""
    files = [*folder.glob("*.py"), *folder.glob(f"*/{_STUDY_FILE}")]
    return sorted(path for path in files if not _name(path).startswith("_"))


def _name(path: Path) -> str:
    return path.parent.name if path.name == _STUDY_FILE else path.stem


def names(kind: str) -> list[str]:
    """Names of a kind ("tasks", "baselines", "studies", "corruptions", "models"), of plug-ins too; imports none of the
    package's."""
    return sorted({*_own(kind), *_plugins[kind]})


def load(kind: str, name: str) -> Any:
    """What the task, baseline, study or corruption of a name sets.

    Raises:
        SettingsError: there is no such file, or its constant is missing or of another type.
    """
    if name in _plugins[kind]:
        return _plugins[kind][name]
    if name not in _own(kind):
        raise SettingsError(f"no {_SINGULAR[kind]} is called {name!r}: {nearest(name, names(kind))}")
    module = importlib.import_module(f"{_package_of(kind)}.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.{Path(_STUDY_FILE).stem}")
    return _constant(module, kind, name)


@dataclass(frozen=True)
class Entry:
    """What lists and citations tell of a baseline or a study.

    Attributes:
        title: of a baseline, the question of a study.
        references: keys in references.bib.
        is_objective: whether it is a training objective.
    """

    title: str
    references: tuple[str, ...]
    is_objective: bool


def entry(kind: str, name: str) -> Entry:
    """What lists and citations tell of a baseline or a study, read from its file: importing it would bring torch.

    Raises:
        SettingsError: as `load`.
    """
    if name in _own(kind):
        package = importlib.import_module(f"calib_bench.{kind}")
        files = [path for folder in package.__path__ for path in _plugin_files(Path(folder)) if _name(path) == name]
        maker, literals = _declared(files[0], _CONSTANTS[kind][0])
        title, references = literals.get("title", literals.get("question")), _references(literals)
        if title:
            return Entry(title, references, maker == Objective.__name__)
    value = load(kind, name)
    title = value.question if isinstance(value, Study) else value.title
    return Entry(title, _references(vars(value)), isinstance(value, Objective))


def _references(declared: Mapping[str, Any]) -> tuple[str, ...]:
    keys = declared.get("references") or declared.get("reference") or ()
    return (keys,) if isinstance(keys, str) else tuple(keys)


def _declared(path: Path, constant: str) -> tuple[str, dict[str, Any]]:
    """The name of the class or function whose call a file's constant is, and the call's literal keyword arguments."""
    for statement in ast.parse(path.read_text()).body:
        targets = [ast.unparse(target) for target in getattr(statement, "targets", [])]
        if targets == [constant] and isinstance(call := statement.value, ast.Call):  # type: ignore[attr-defined]
            literals = {}
            for keyword in call.keywords:
                with contextlib.suppress(ValueError):
                    literals[str(keyword.arg)] = ast.literal_eval(keyword.value)
            return ast.unparse(call.func), literals
    return "", {}


def _constant(module: Any, kind: str, origin: str) -> Any:
    constant, types = _CONSTANTS[kind]
    value = getattr(module, constant, None)
    if not isinstance(value, types):
        expected = " or ".join(t.__name__ for t in types)
        raise SettingsError(f"{origin} must set {constant} to a {expected}, and it is {type(value).__name__}")
    return value


def task(name: str) -> Task:
    """The task of that name; of the user's own data what `adapt_task` made of it, where it was called."""
    return _adapted.get(name) or load("tasks", _HUB if name.startswith(f"{_HUB}/") else name)


def adapt_task(name: str, content: Content | None) -> Task:
    """Enter and return the task that goes with the user's own data; any other task where `content` is None."""
    declared = task(name)
    if content is None or declared.adapt is None:
        return declared
    _adapted[name] = declared.adapt(content)
    return _adapted[name]


def study(name: str) -> Study:
    """The study of that name."""
    return load("studies", name)


def corruptions(kind: str) -> dict[str, Corruption]:
    """The corruptions of a kind of input, by name."""
    every = {name: load("corruptions", name) for name in names("corruptions")}
    return {name: corruption for name, corruption in every.items() if corruption.kind == kind}


def plugged_in_models() -> Mapping[str, Model]:
    """The models that plug-ins set, by the names of their files."""
    return _plugins["models"]


@functools.cache
def package_models() -> Mapping[str, Model]:
    """The package's own models by the names of their files, read without importing them, and torch: `build` does."""
    declared = {name: _declared(Path(folders("models")[0], f"{name}.py"), "MODEL")[1] for name in _own("models")}
    return {name: Model(functools.partial(_build, name), **literals) for name, literals in declared.items()}


def _build(name: str, *arguments: Any, **options: Any) -> Any:
    return load("models", name).build(*arguments, **options)


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
    study_name, _, probe_name = name.partition("/")
    probes = study(study_name).probes
    if probe_name not in probes:
        raise SettingsError(f"study {study_name!r} has no probe {probe_name!r}: {nearest(probe_name, probes)}")
    return probes[probe_name]


def _baselines(kind: type) -> dict[str, Any]:
    baselines = {name: load("baselines", name) for name in names("baselines")}
    return {name: baseline for name, baseline in baselines.items() if isinstance(baseline, kind)}


def objectives() -> dict[str, Objective]:
    """Every training objective by name."""
    return _baselines(Objective)


def calibrators(chosen: Sequence[str] | None = None) -> dict[str, Calibrator]:
    """The post-hoc calibrators of the names given, or all.

    Raises:
        SettingsError: a name is not a calibrator's.
    """
    every = _baselines(Calibrator)
    for name in chosen or ():
        if name not in every:
            is_objective = name in names("baselines")
            hint = f"{name!r} is an objective: give it as objective={name}" if is_objective else nearest(name, every)
            raise SettingsError(f"no calibrator is called {name!r}: {hint}")
    return every if chosen is None else {name: every[name] for name in chosen}


class NameTaken(SettingsError):
    """A plug-in has the name of another: which of them a name means cannot be told."""


def use_plugins(folders: Iterable[Path], needed: Iterable[str] | None = None, quiet: bool = False) -> None:
    """Import every plug-in of the folders: `NAME.py`, or `NAME/study.py`. The constant that it sets says what it is.

    The files of a folder may import each other: `from . import figures`. Those whose name begins with an underscore are
    no plug-ins, and may hold what several share. A file that is broken is left out with a warning.

    Args:
        folders: of plug-ins.
        needed: names of tasks, models and others that are asked for, with their parameters.
        quiet: whether another process has warned already.

    Raises:
        SettingsError: a folder is missing, a file takes a name already used, or one whose name is needed cannot be
            imported, holds no constant or does not do what it declares.
    """
    words = " ".join(needed or ())
    folders = list(folders)
    _check_folders(folders)
    for folder in folders:
        package = _package(folder.resolve())
        for path in _plugin_files(folder.resolve()):
            try:
                _plug(path, package)
            except SettingsError as error:
                if isinstance(error, NameTaken) or re.search(rf"\b{re.escape(_name(path))}", words):
                    raise
                if not quiet:
                    log.warning("warning: a plug-in is left out: %s", error)


def use_stored(folder: Path, named: Iterable[Path], trusted: Iterable[Path], needed: Iterable[str]) -> None:
    """Import the plug-ins that a run folder names, if the user gave them too: they are code.

    Args:
        folder: the run folder.
        named: folders of plug-ins that it names.
        trusted: folders of plug-ins that the user gave.
        needed: as of `use_plugins`.

    Raises:
        SettingsError: the user did not give all of those that are named, gave one that is none, or as of `use_plugins`.
    """
    named, trusted = list(named), list(trusted)
    _check_folders(trusted)
    resolved = {path.resolve() for path in trusted}
    if foreign := [path for path in named if path.resolve() not in resolved]:
        raise SettingsError(
            f"{folder} was made with plug-ins from {', '.join(map(str, foreign))}, which is code: if you trust it, "
            f"give plugins={','.join(map(str, named))} too"
        )
    use_plugins(named, needed)


def _check_folders(folders: Iterable[Path]) -> None:
    for folder in itertools.filterfalse(Path.is_dir, folders):
        raise SettingsError(f"plugins={folder} is not a folder")


def _package(folder: Path) -> str:
    """Name of the package that the files of a plug-in folder are imported as; makes it where there is none yet."""
    name = f"calib_bench_plugins_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


def _plug(path: Path, package: str) -> None:
    """Import a plug-in once, and enter what it sets. One that is refused leaves no module behind.

    Raises:
        SettingsError: as of `use_plugins`; or what it sets does not do what it declares.
    """
    name = _name(path)
    top = f"{package}.{name}"
    module_name = f"{top}.{path.stem}" if path.name == _STUDY_FILE else top
    if module_name in sys.modules:
        return
    if "." in name:
        raise SettingsError(f"{path}: the name {name!r} holds a dot: rename it")
    importlib.invalidate_caches()
    try:
        _register(name, path, _imported(module_name, path))
    except BaseException:
        for loaded in [key for key in sys.modules if key == top or key.startswith(f"{top}.")]:
            del sys.modules[loaded]
        raise


def _imported(module_name: str, path: Path) -> ModuleType:
    """Import a plug-in from its source: Python takes compiled code for it that is of the same second and size."""
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise SettingsError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = compiles


def _register(name: str, path: Path, module: ModuleType) -> None:
    """Enter what a plug-in sets."""
    kinds = [kind for kind, (constant, _) in _CONSTANTS.items() if hasattr(module, constant)]
    if not kinds:
        constants = ", ".join(constant for constant, _ in _CONSTANTS.values())
        raise SettingsError(
            f"{path} sets none of {constants}: a plug-in file sets one of them, and a file that others import has a "
            "name that begins with an underscore"
        )
    for kind in kinds:
        if name in names(kind) or (kind == "baselines" and name in plugin_checks.RESERVED):
            raise NameTaken(f"{path}: the name {name!r} is taken by another of the {kind}: rename it")
        value = _constant(module, kind, str(path))
        plugin_checks.check(value, name, str(path))
        _plugins[kind][name] = value
