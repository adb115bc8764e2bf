"""`cite`: BibTeX of every task, model, baseline, metric and method that a run used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench import registry
from calib_bench.core.trial import parse_objective
from calib_bench.errors import SettingsError
from calib_bench.metrics.references import REFERENCES
from calib_bench.models.references import references

if TYPE_CHECKING:
    from calib_bench.core.settings import Settings

BIB = Path(__file__).parents[1] / "references.bib"
OWN = "agarwala2023temperature"
"""The paper whose question this project asks."""


def show(words: Sequence[str]) -> int:
    """Print the entries of a run, each under what it is cited for."""
    runs, plugins = ([word for word in words if word.startswith("plugins=") == own] for own in (False, True))
    if len(runs) != 1 or "=" in runs[0] or runs[0].startswith("-") or len(plugins) > 1:
        raise SettingsError("cite takes one run folder: python -m calib_bench cite runs/digits-separation")
    from calib_bench.core.settings import parse
    from calib_bench.store.store import Store

    run = Path(runs[0])
    settings = Store(run, "read").settings()
    registry.use_stored(run, settings.plugins, parse(plugins).plugins)
    print(bibtex(used(settings)), end="")
    return 0


def used(settings: Settings) -> dict[str, list[str]]:
    """BibTeX keys of what resolved settings use -> what for, in the order task, models, baselines, metrics, study."""
    found: dict[str, list[str]] = {}

    def add(key: str, what: str) -> None:
        found.setdefault(key, []).append(what)

    add(registry.task(settings.task).reference, f"task {settings.task}")
    for model in settings.model or ():
        for key in references(model):
            add(key, f"model {model}")
    objectives, calibrators = registry.objectives(), registry.calibrators(settings.calibrator)
    for term in dict.fromkeys(t for text in settings.objective or () for t in parse_objective(text)):
        add(objectives[term].reference, f"objective {term}")
    for name, calibrator in calibrators.items():
        add(calibrator.reference, f"calibrator {name}")
    for metric, keys in REFERENCES.items():
        for key in keys:
            add(key, f"metric {metric}")
    for key in (OWN, *registry.study(settings.study).references):
        add(key, f"study {settings.study}")
    return {key: list(dict.fromkeys(what)) for key, what in found.items()}


def bibtex(wanted: dict[str, list[str]], entries: dict[str, str] | None = None) -> str:
    """The entries, each under a comment that says what it is cited for; then the keys, ready for a `cite`."""
    known = read() if entries is None else entries
    parts = []
    for key, what in wanted.items():
        missing = "" if key in known else f" (no entry called {key} in references.bib)"
        parts.append(f"% {', '.join(what)}{missing}\n{known.get(key, '')}".rstrip() + "\n")
    cited = ",".join(key for key in wanted if key in known)
    return "\n".join([*parts, f"% \\cite{{{cited}}}\n"])


def read(path: Path = BIB) -> dict[str, str]:
    """Entries of a BibTeX file by key, each as it stands there.

    Raises:
        ValueError: an entry's braces do not balance, or a key comes twice.
    """
    text = path.read_text()
    found: dict[str, str] = {}
    for match in re.finditer(r"^@\w+\{([^,\s]+),", text, flags=re.MULTILINE):
        depth, end = 0, match.start()
        for end in range(match.start(), len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0 and text[end] == "}":
                break
        if depth:
            raise ValueError(f"{path}: the braces of {match[1]} do not balance")
        if match[1] in found:
            raise ValueError(f"{path} has two entries called {match[1]}")
        found[match[1]] = text[match.start() : end + 1] + "\n"
    return found
