"""Whether a run folder holds the report that would be made of it now: then nothing needs to be made again."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from calib_bench import registry
from calib_bench.core.study import Analysis
from calib_bench.core.trial import Trial
from calib_bench.errors import StoreError
from calib_bench.report import tables
from calib_bench.store.store import Store
from calib_bench.system import environment, files

KEPT = "report/made.json"
"""A digest of all that the report was made of, its sentences, and the digests of its files."""
SOURCES = (".py", ".html", ".css", ".js", ".mplstyle")
DRAWN_WITH = ("matplotlib", "fonttools", "pandas", "pyarrow", "jinja2")
"""Packages that can change a file of the report, beside those of `environment.PACKAGES`."""


@cache
def code_digest(plugins: tuple[Path, ...]) -> str:
    """A digest of the package's code and that of plug-ins, of the versions of libraries and of the machine."""
    folders = (Path(__file__).parents[1], *registry.folders("baselines"), *registry.folders("tasks"))
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SOURCES]
    paths += [path for folder in plugins for depth in ("*.py", "*/*.py") for path in sorted(folder.glob(depth))]
    versions = [importlib.metadata.version(name) for name in DRAWN_WITH]
    return files.digest_of([environment.describe(), versions, [files.sha256(path) for path in paths]])


def keep(store: Store, settings: Mapping[str, Any], trials: Iterable[Trial], analysis: Analysis) -> None:
    """Note what the report that was just written was made of, where that can be written.

    Args:
        settings: as JSON.
        trials: those of the study.
    """
    folder = store.path / "report"
    with suppress(StoreError):
        content = {
            "inputs": _inputs(store, settings, trials),
            "verdict": list(analysis.verdict),
            "warnings": list(analysis.warnings),
            "files": {path: files.sha256(folder / path) for path in _files(folder)},
        }
        files.write_bytes(store.path / KEPT, files.sealed(content))


def current(store: Store, settings: Mapping[str, Any], trials: Iterable[Trial]) -> Analysis | None:
    """Verdict, tables and warnings of the report, where it is the one that would be made now, every file whole.

    Args:
        settings, trials: as of `keep`.
    """
    folder = store.path / "report"
    with suppress(StoreError, OSError, KeyError, TypeError, AttributeError):
        kept = files.read_sealed(store.path / KEPT)
        present = {path: files.sha256(folder / path) for path in _files(folder)}
        if kept["files"] == present and kept["inputs"] == _inputs(store, settings, trials):
            return Analysis(tuple(kept["verdict"]), tables.read(store.path), tuple(kept["warnings"]))
    return None


def _files(folder: Path) -> list[str]:
    """The files that `report.build` writes."""
    return sorted(str(path.relative_to(folder)) for path in (folder / "report.html", *folder.glob("*/*.*")))


def _inputs(store: Store, settings: Mapping[str, Any], trials: Iterable[Trial]) -> str:
    """A digest of all that a report is made of.

    Raises:
        StoreError: something that is stored is damaged.
    """
    for folder in store.splits.written():
        store.splits.check(folder)
    failures = [[key, failure.cause, failure.trace] for key, failure in store.failures.now().items()]
    stored = sorted((trial.key, store.digest(trial) if store.has(trial) else "") for trial in trials)
    code = code_digest(tuple(map(Path, settings["plugins"])))
    return files.digest_of([code, settings, store.provenance(), sorted(store.stored_keys()), failures, stored])
