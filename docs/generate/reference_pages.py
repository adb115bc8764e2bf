"""The reference: pages made from the table of commands, the settings, the registries and docstrings, by their path."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import calib_bench
from calib_bench import metrics, models, registry
from calib_bench.commands import cite, table_of_commands
from calib_bench.commands.command import GRID, PROGRAM, SETTINGS, SPELLING, Command, Option
from calib_bench.core.metric_references import REFERENCES
from calib_bench.core.settings import CONFIG, KEYS, describe
from calib_bench.core.task import Task
from calib_bench.registry import study_options

BIBLIOGRAPHY = cite.read()
ROOT = Path(__file__).parents[2]
QUESTIONS = {
    "Which probabilities are better? These are proper scores; compare models by them.": "log_loss brier",
    "Is confidence what accuracy is? Read it beside what a calibrated model would show.": "ece ece_null",
    "The same, where few bins hold nearly all examples": "adaptive_ece",
    "The same, without bins": "smece",
    "The same, without the upward bias of few examples; it may be below 0": "debiased_squared_ece",
    "The same, class by class": "classwise_ece",
    "The same of the positive class, for two classes": "ece_positive smece_positive",
    "How bad is the worst bin? It rests on few examples.": "mce",
    "How far is the model too sure?": "kappa mean_confidence mean_entropy",
    "Which answers should be trusted?": "auroc augrc aurc e_aurc",
    "How many may be kept, how many are wrong?": "coverage_at_5_risk risk_at_80_coverage",
    "How many classes must be named?": "lac_size aps_size raps_size lac_coverage aps_coverage raps_coverage",
    "How often is the first class right?": "accuracy",
}
"""What is asked of predictions -> the metrics that answer it, by their names in reports."""
CLASSES = (
    "calib_bench.evaluation.fits.Fitted",
    "calib_bench.torch.at_beta",
    "calib_bench.torch.AtBeta",
    "calib_bench.sklearn.PostHocCalibrator",
)


def pages() -> dict[str, str]:
    """Every page of the reference by its path under docs/."""
    made = {
        "commands": commands(),
        "settings": settings(),
        "python": python(),
        "calibrators": calibrators(),
        "objectives": objectives(),
        "metrics": metric_functions(),
        "studies": studies(),
        "tasks": tasks(),
    }
    return {f"reference/{name}.md": text for name, text in made.items()}


def commands() -> str:
    """Every command with its options and examples."""
    parts = ["# Commands", f"{SPELLING} {GRID}"]
    return _joined(
        parts, (part for name in table_of_commands.COMMANDS for part in _command(table_of_commands.load(name)))
    )


def _command(command: Command) -> Iterable[str]:
    yield from (f"## {command.name}", _text(command.does))
    if command.options:
        yield _table(("argument", "what it is", "default"), map(_option, command.options))
    if command.keys == SETTINGS:
        yield "Takes the [settings of a run](settings.md) too."
    if command.notes:
        yield _text(command.notes)
    yield _code("bash", *map(_example, command.examples))


def _example(example: str) -> str:
    """A command line; what an example's second column says is a comment."""
    line, _, comment = example.partition("  ")
    return f"{PROGRAM} {line}" + (f"  # {comment.strip()}" if comment else "")


def _option(option: Option) -> tuple[str, str, str]:
    choices = f"; one of {', '.join(option.choices)}" if option.choices and option.bare is None else ""
    default = "" if option.default in (None, False, "", ()) else f"`{option.default}`"
    return f"`{option.name}`", option.help + choices, default


def settings() -> str:
    """Every key of a run, and those of single studies."""
    rows = [(f"`{key}`", describe(key), "") for key in (*KEYS, CONFIG)]
    rows += [
        (f"`{key}`", describe(key, options), study)
        for study, options in study_options().items()
        for key in options.model_fields
    ]
    intro = (
        "The keys of `run`, `plan`, `sweep` and `launch`, and of `calib_bench.run`. `plan` prints what is left open."
    )
    return _joined(["# Settings of a run", f"{intro} {GRID}"], [_table(("key", "what it is", "of study"), rows)])


def python() -> str:
    """Every public name."""
    parts = ["# Python", "The functions and what plug-ins are made of are names of `calib_bench` itself."]
    functions = [name for name in calib_bench.__all__ if calib_bench._WHERE.get(name) == "calib_bench.api"]
    names = [(f"calib_bench.api.{name}", f"calib_bench.{name}") for name in functions]
    names += [(name, name.replace("evaluation.fits.", "")) for name in CLASSES]
    plug_ins = [name for name in calib_bench.__all__ if name in calib_bench._WHERE and name not in functions]
    names += [(f"{calib_bench._WHERE[name]}.{name}", f"calib_bench.{name}") for name in plug_ins]
    return _joined(parts, itertools.starmap(_object, names))


def _object(path: str, heading: str) -> str:
    """What mkdocstrings replaces by the documentation of an object."""
    return f"::: {path}\n    options:\n      heading: {heading}"


def calibrators() -> str:
    """Every calibrator: equation, source, when to use it, cost."""
    intro = (
        "A calibrator is a map from logits Z = beta z [N, K] to log probabilities, fitted on N calibration examples of "
        f"K classes. `{PROGRAM} evaluate` and `run` fit all of them, `calib_bench.fit(NAME, logits, labels)` one."
    )
    return _joined(["# Calibrators", intro], _baselines(False))


def objectives() -> str:
    """Every training objective: equation, source, strengths, when to use it."""
    intro = (
        "An objective is a departure from cross-entropy on beta z, with a strength: `objective=NAME:STRENGTH`, terms "
        "joined by `+`. It costs a training for each strength; the loss itself is small beside the model."
    )
    return _joined(["# Objectives", intro], _baselines(True))


def _baselines(is_objective: bool) -> Iterable[str]:
    for name in registry.names("baselines"):
        if registry.entry("baselines", name).is_objective == is_objective:
            baseline = registry.load("baselines", name)
            yield from (f"## {baseline.title}", f"`{name}`", _documentation(f"calib_bench.baselines.{name}"))
            facts = _objective_facts(baseline) if is_objective else _calibrator_facts(baseline)
            yield _facts(facts, [baseline.reference])


def _calibrator_facts(calibrator: Any) -> dict[str, object]:
    return {
        "may change the predicted class": "no" if calibrator.keeps_argmax else "yes",
        "classes": calibrator.classes or "any number",
        "on probabilities": "the same model" if calibrator.shift_invariant else "another model than on logits",
        "among all calibrators with many classes": "left out, unless named" if calibrator.unknowns else "fitted",
    }


def _objective_facts(objective: Any) -> dict[str, object]:
    low, high = objective.valid
    return {
        "strengths tried by default": ", ".join(f"{strength:g}" for strength in objective.strengths),
        "valid strengths": f"{low:g} to {high:g}",
        "cross-entropy at strength": "none" if objective.neutral is None else f"{objective.neutral:g}",
    }


def metric_functions() -> str:
    """Every metric: a table of names and sources, then the functions."""
    intro = (
        "Pure functions of logits or log probabilities [..., N, K] and labels [..., N], in float64. Reports show these "
        "numbers by the names of the table; each public function follows."
    )
    asked = [(question, ", ".join(f"`{name}`" for name in names.split())) for question, names in QUESTIONS.items()]
    rows = [(f"`{name}`", "; ".join(map(_source, keys))) for name, keys in REFERENCES.items()]
    functions = [_object(f"calib_bench.metrics.{name}", f"metrics.{name}") for name in metrics.__all__]
    tables = _table(("question", "metrics"), asked), _table(("name in reports", "source"), rows)
    return _joined(["# Metrics", intro, *tables], functions)


def studies() -> str:
    """Every study: its question, its design, its figures, its defaults."""
    parts = ["# Studies", f"`{PROGRAM} plan study=NAME` tells what one would train, and about how long it takes."]
    for name in registry.names("studies"):
        study = registry.study(name)
        design = _documentation(f"calib_bench.studies.{name}.study").partition("\n\n")[2]
        facts = {"figures": ", ".join(study.figures), "defaults": _defaults(study.defaults)}
        facts |= _published(name)
        parts += [f"## {name}", f"**{study.question}**", design, _facts(facts, study.references)]
        parts.append(_code("bash", f"{PROGRAM} run study={name}"))
    return _joined(parts, [])


def _published(study: str) -> dict[str, object]:
    """Where the study is published on digits, with what it took there."""
    page = ROOT / "reports" / f"digits-{study}" / "README.md"
    if not page.exists():
        return {}
    took = re.search(r"([\d,]+ trials.*?), on ", page.read_text())
    link = f"[digits-{study}](../../reports/digits-{study}/README.md)"
    return {"published": f"{link}: {took[1]}" if took else link}


def _defaults(defaults: Any) -> str:
    words = [f"`{key}={','.join(map(_value, value))}`" for key, value in defaults.items() if isinstance(value, tuple)]
    return ", ".join(words) or "those of the task"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def tasks() -> str:
    """Every task, then models and corruptions."""
    parts = ["# Tasks"]
    for name in registry.names("tasks"):
        task = registry.task(name)
        parts += [f"## {name}", _documentation(f"calib_bench.tasks.{name}")]
        parts.append(_facts(_task_facts(task), filter(None, [task.reference])))
    rows = [(f"`{name}`", text) for name, text in models.examples().items()]
    parts += [
        "# Models",
        "Numbers in a name may be changed: `wrn_40_2`, `mlp_64`.",
        _table(("name", "what it is"), rows),
    ]
    corruptions = {name: registry.load("corruptions", name) for name in registry.names("corruptions")}
    shifts = [(f"`{name}`", one.kind, one.title) for name, one in corruptions.items()]
    return _joined(parts, ["# Corruptions", _table(("name", "inputs", "what it is, severity 1 to 5"), shifts)])


def _task_facts(task: Task) -> dict[str, object]:
    recipe = task.recipe
    rates = ", ".join(map(_value, recipe.lr))
    sizes, hub = task.sizes, task.source
    splits = f"{sizes.train or 'the rest'} to train, {sizes.selection} selection, {sizes.calibration} calibration"
    return {
        "classes": task.classes,
        "splits": f"{splits}; test is {'a set of its own' if hub else 'the remaining examples'}",
        "models": ", ".join(f"`{model}`" for model in task.models),
        "recipe": f"{recipe.optimizer}, {recipe.epochs} epochs, batch {recipe.batch}, {recipe.lr_unit} {rates}",
        "beta": ", ".join(f"{beta:.3g}" for beta in task.beta),
        "seeds": ", ".join(map(str, task.seeds)),
        "data": f"`{hub.name}` on the Hub at {hub.revision[:12]}" if hub else "ships with scikit-learn",
        "licence": task.licence,
    }


def _facts(facts: dict[str, object], references: Iterable[str]) -> str:
    lines = [f"- {name}: {_text(str(value))}" for name, value in facts.items()]
    return "\n".join([*lines, *(f"- source: {_source(key)}" for key in references)])


def _documentation(module: str) -> str:
    return _text(inspect.getdoc(importlib.import_module(module)) or "")


def _text(text: str) -> str:
    """A text as Markdown: angle brackets are no tags."""
    return text.replace("<", "&lt;")


def _source(key: str) -> str:
    """Authors, title and year of an entry of the bibliography."""
    entry = BIBLIOGRAPHY[key]
    fields = {name: re.sub(r"[{}\\\"]|\s+(?=\s)|\n", "", text) for name, text in _FIELD.findall(entry)}
    names = [author.partition(",")[0].strip() for author in fields["author"].split(" and ")]
    authors = names[0] if len(names) == 1 else f"{names[0]} & {names[1]}" if len(names) == 2 else f"{names[0]} et al."
    number = re.search(r"arXiv:([\d.]+\d)", entry)
    link = f", [arXiv {number[1]}](https://arxiv.org/abs/{number[1]})" if number else ""
    return f"{authors} ({fields['year']}), {fields['title']}{link}"


_FIELD = re.compile(r"(\w+)\s*=\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([_text(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _joined(first: list[str], then: Iterable[str]) -> str:
    return "\n\n".join([*first, *then]) + "\n"
