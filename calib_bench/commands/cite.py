"""`cite`: BibTeX of every task, model, baseline, metric and method that a run used."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from calib_bench import registry
from calib_bench.commands.command import PLUGINS, RUN, Command
from calib_bench.commands.stored_run import evaluation, open_run
from calib_bench.core.metric_references import REFERENCES
from calib_bench.core.settings import Settings
from calib_bench.core.trial import parse_objective
from calib_bench.models.references import references

BIB = Path(__file__).parents[1] / "references.bib"
OWN = "agarwala2023temperature"
"""The paper whose question this project asks."""


def _call(arguments: Namespace) -> int:
    """Print the entries of a run or an evaluation, each under what it is cited for."""
    if evaluation(arguments.run):
        registry.use_plugins(arguments.plugins)
        uses = _evaluation_uses(arguments.run)
    else:
        uses = _uses(open_run(arguments.run, arguments.plugins)[1])
    print(bibtex(_by_key(uses)), end="")
    return 0


def _evaluation_uses(folder: Path) -> Iterator[tuple[str, str]]:
    """What an evaluation or a comparison is cited for: the calibrators in its tables, and metrics."""
    from calib_bench.report.tables import read as read_tables

    columns = [table.frame["method"] for table in read_tables(folder).values() if "method" in table.frame]
    methods = dict.fromkeys(name for column in columns for name in column)
    yield from _calibrators(name for name in methods if name in registry.names("baselines"))
    yield from _metrics()


COMMAND = Command(
    "cite",
    "Prints BibTeX of every task, model, baseline, metric and method that a run used, each under what it is cited for.",
    (RUN, PLUGINS),
    ("cite runs/digits-separation", "cite runs/digits-separation > run.bib", "cite runs/blobs-separation plugins=mine"),
    _call,
)


def used(settings: Settings) -> dict[str, list[str]]:
    """BibTeX keys of what resolved settings use -> what for, in the order task, models, baselines, metrics, study."""
    return _by_key(_uses(settings))


def _by_key(uses: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for key, what in uses:
        if what not in keys.setdefault(key, []):
            keys[key].append(what)
    return keys


def _uses(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each BibTeX key with what it is cited for, repeated where settings repeat it."""
    if reference := registry.task(settings.task).reference:
        yield reference, f"task {settings.task}"
    for model in settings.model or ():
        yield from ((key, f"model {model}") for key in references(model))
    yield from _baselines_used(settings)
    yield from _metrics()
    for key in (OWN, *registry.entry("studies", settings.study).references):
        yield key, f"study {settings.study}"


def _baselines_used(settings: Settings) -> Iterator[tuple[str, str]]:
    for objective in settings.objective:
        for term in parse_objective(objective):
            yield from ((key, f"objective {term}") for key in registry.entry("baselines", term).references)
    yield from _calibrators(settings.calibrator)


def _calibrators(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield from ((key, f"calibrator {name}") for key in registry.entry("baselines", name).references)


def _metrics() -> Iterator[tuple[str, str]]:
    for metric, keys in REFERENCES.items():
        yield from ((key, f"metric {metric}") for key in keys)


def bibtex(cited: dict[str, list[str]], entries: dict[str, str] | None = None) -> str:
    """BibTeX entries, each under a comment that says what it is cited for; then the keys, ready for a `cite`.

    Args:
        cited: key -> what for.
        entries: the bibliography; the package's own when not given.
    """
    bibliography = read() if entries is None else entries
    parts = []
    for key, what in cited.items():
        missing = "" if key in bibliography else f" (no entry called {key} in references.bib)"
        parts.append(f"% {', '.join(what)}{missing}\n{bibliography.get(key, '')}".rstrip() + "\n")
    keys = ",".join(key for key in cited if key in bibliography)
    return "\n".join([*parts, f"% \\cite{{{keys}}}\n"])


def read(path: Path = BIB) -> dict[str, str]:
    """Entries of a BibTeX file by key, each as it stands there.

    Raises:
        ValueError: an entry's braces do not balance, or a key comes twice.
    """
    text = path.read_text()
    entries: dict[str, str] = {}
    for match in re.finditer(r"^@\w+\{([^,\s]+),", text, flags=re.MULTILINE):
        end = _end_of_entry(text, match.start())
        if end is None:
            raise ValueError(f"{path}: the braces of {match[1]} do not balance")
        if match[1] in entries:
            raise ValueError(f"{path} has two entries called {match[1]}")
        entries[match[1]] = text[match.start() : end] + "\n"
    return entries


def _end_of_entry(text: str, start: int) -> int | None:
    """Where the entry that begins at `start` ends, after its last brace; None where its braces do not balance."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0 and text[i] == "}":
            return i + 1
    return None
