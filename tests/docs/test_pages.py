"""The documentation says what is there: commands parse, code runs, links lead somewhere, nothing is left out."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_pages
from synthetic import sketched

import calib_bench
from calib_bench import metrics, registry
from calib_bench.cli import main
from calib_bench.commands import table_of_commands
from calib_bench.core.metric_references import REFERENCES
from calib_bench.core.settings import KEYS
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.report.glossary import GLOSSARY

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
COMMAND = re.compile(rf"-m calib_bench ((?:{'|'.join(table_of_commands.COMMANDS)})\b[^`\n#&]*)")


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


READERS = re.compile(r"plugins=|data=|=/|weights=|=hf/|[A-Z]{4}|task=(hub|folder)")
"""In words that rest on what only a reader has: a folder, a file, a name in capitals."""


def read(line: str) -> None:
    """Parses a command line of a page; settings are completed too, but for those that rest on what the reader has.

    Raises:
        SettingsError: a word is wrong.
    """
    name, *words = shlex.split(line.partition(" >")[0])
    values = table_of_commands.load(name).parse([word for word in words if not word.startswith("config=")])
    if hasattr(values, "settings") and not READERS.search(line):
        resolve(values.settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_read(page: Path) -> None:
    for line in COMMAND.findall(page.read_text()):
        read(line)


def test_pages_have_commands_and_a_wrong_one_is_noticed() -> None:
    assert sum(len(COMMAND.findall(page.read_text())) for page in PAGES) > 60
    for wrong in ("run task=digits bta=1", "run task=digts", "report", "table runs/x --no", "evaluate --tst a"):
        with pytest.raises(SettingsError):
            read(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page):
        compile(block, page.name, "exec")


def test_the_readme_fits_and_its_code_and_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "README.md"):
        exec(block, names)
    assert names["probabilities"].shape == (1000, 3)
    assert names["calibrated"](names["x"]).shape == (64, 3)
    logits, labels = names["logits"], names["labels"]
    halves = slice(1000), slice(1000, 2000)
    for files, scale in ((("cal", "test"), 1), (("cal", "new"), 1), (("a_cal", "a"), 1), (("b_cal", "b"), 2)):
        for name, half in zip(files, halves, strict=True):
            np.savez(f"{name}.npz", logits=scale * logits[half], labels=labels[half])
    for line in COMMAND.findall(text.partition("From files")[2].partition("In Python")[0]):
        words = shlex.split(line)
        assert main([*words, *(["calibrator=temperature_scaling"] if words[0] == "evaluate" else [])]) == 0
    assert len(Path("calibrated.csv").read_text().splitlines()) == 1001
    assert (tmp_path / "pair").is_dir()


@pytest.mark.slow
@sketched("separation")
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert 1.8 < names["temperature"] < 2.2
    frame, arms = names["frame"], names["separation"].set_index(["beta", "objective"])
    assert frame["accuracy"][0] == frame["accuracy"][1]
    assert frame["log_loss"][1] < frame["log_loss"][0]
    smoothed = arms.loc[(1.0, "label_smoothing:0.1")]
    assert smoothed["log_loss_conf_low"] > 0 > smoothed["log_loss_dyn_low"]
    assert 0.3 < smoothed["kappa"] < 0.7
    assert arms.loc[(10.0, "label_smoothing:0.1"), "log_loss_dyn_low"] > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_listed_as_files_and_on_the_site() -> None:
    listed, nav = (DOCS / "README.md").read_text(), (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or (f"({page.name})" in listed and f" {page.name}\n" in nav), page.name


def test_the_glossary_is_that_of_reports() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.M)
    assert {term: line.replace("\\*", "*") for term, line in rows} == GLOSSARY
    for term, line in GLOSSARY.items():
        assert re.fullmatch(r"[^|\n]{20,159}\.", line), term


def test_the_reference_has_everything() -> None:
    pages = reference_pages.pages()
    for name in table_of_commands.COMMANDS:
        assert f"\n## {name}\n" in pages["reference/commands.md"]
    for key in KEYS:
        assert f"| `{key}` |" in pages["reference/settings.md"]
    for kind, page in (("studies", "studies"), ("tasks", "tasks"), ("corruptions", "tasks")):
        for name in registry.names(kind):
            assert re.search(rf"\b{name}\b", pages[f"reference/{page}.md"])
    for name in metrics.__all__:
        assert f"::: calib_bench.metrics.{name}\n" in pages["reference/metrics.md"]
    answering = " ".join(reference_pages.QUESTIONS.values()).split()
    assert sorted(answering) == sorted(REFERENCES)
    for name in set(calib_bench.__all__) - {"__version__"}:
        assert f"heading: calib_bench.{name}\n" in pages["reference/python.md"]
    baselines = pages["reference/calibrators.md"] + pages["reference/objectives.md"]
    for name in registry.names("baselines"):
        section = baselines.partition(f"\n`{name}`\n")[2].partition("\n## ")[0]
        assert "When: " in section, name
        assert "- source: " in section, name
        assert ("Cost: " in section) != registry.entry("baselines", name).is_objective, name


def test_every_variable_of_the_environment_is_on_its_page() -> None:
    page = (DOCS / "environment.md").read_text()
    read = re.compile(r"environ(?:\.get|\.pop|\.setdefault)?[\[(]\s*\"([A-Z_]+)\"")
    passed = re.compile(r"\"((?:WANDB|HF|OMP|CALIB_BENCH|RAY|NCCL|GLOO|PYTHON)_[A-Z_]+)\"")
    variables = set()
    for folder in ("calib_bench", "tasks", "baselines"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            variables |= {*read.findall(text), *passed.findall(text)}
    assert len(variables) > 15
    assert {name for name in variables if f"`{name}`" not in page} == set()
