"""What lists and citations tell of plug-ins without importing them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from calib_bench import registry
from calib_bench.core.baseline import Objective
from calib_bench.core.study import Study

NAMES = [(kind, name) for kind in ("baselines", "studies") for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_an_entry_is_what_the_file_sets(kind: str, name: str) -> None:
    value, entry = registry.load(kind, name), registry.entry(kind, name)
    assert entry.title == (value.question if isinstance(value, Study) else value.title)
    assert entry.references == (value.references if isinstance(value, Study) else (value.reference,))
    assert entry.is_objective == isinstance(value, Objective)


def test_what_is_read_of_a_model_is_what_its_file_sets() -> None:
    """A constant that is no literal would be lost: then the model has no parameters in its name, without a word."""
    read = registry.package_models()
    assert read
    for name, model in read.items():
        assert replace(model, build=(value := registry.load("models", name)).build) == value


def test_entries_import_nothing_heavy() -> None:
    code = (
        "import sys; from calib_bench import registry\n"
        "[registry.entry(kind, name) for kind in ('baselines', 'studies') for name in registry.names(kind)]\n"
        "print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_whose_constant_cannot_be_read_is_imported(tmp_path: Path) -> None:
    (tmp_path / "of_a_plugin.py").write_text(
        "from calib_bench import Objective\n"
        "WORDS = {'reference': 'guo2017', 'title': 'A plug-in'}\n"
        "BASELINE = Objective(factor=lambda share, strength: 1.0, strengths=(0.5,), neutral=None, **WORDS)\n"
    )
    registry.use_plugins([tmp_path])
    try:
        assert registry.entry("baselines", "of_a_plugin") == registry.Entry("A plug-in", ("guo2017",), True)
    finally:
        registry._plugins["baselines"].pop("of_a_plugin")
