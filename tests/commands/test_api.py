"""The functions for notebooks: their documented examples run, and importing them costs nothing."""

from __future__ import annotations

import base64
import contextlib
import doctest
import html
import importlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from synthetic import make, sketched

import calib_bench
from calib_bench import api, registry
from calib_bench.cli import main
from calib_bench.commands.console import open_console
from calib_bench.errors import DataError, SettingsError
from calib_bench.report.build import build

PLOTS = tuple(name.removeprefix("plot_") for name in api.__all__ if name.startswith("plot_"))


@pytest.fixture(scope="module")
@sketched(*PLOTS)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "run"
    store, settings = make(path, "beta=0.3,1,3", "seed=0,1", "calibrator=temperature_scaling")
    build(store, registry.study("separation"), settings)
    return path


def test_what_is_quiet_is_quiet_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class ZMQInteractiveShell:  # by this name rich recognizes a notebook
        pass

    monkeypatch.setattr("builtins.get_ipython", ZMQInteractiveShell, raising=False)
    assert Console().is_jupyter
    with contextlib.redirect_stdout(io.StringIO()) as text:
        open_console().print("a line")
    assert text.getvalue() == "a line\n"


@pytest.mark.slow
@sketched("separation")
def test_the_documented_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(api)
    assert found.attempted > 8
    assert found.failed == 0
    assert (tmp_path / "separation.pdf").stat().st_size > 1000


ROOT = Path(api.__file__).parents[1]
SHOWN = sorted(
    (package + "." + ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__")
    for folder, package in (
        ("calib_bench", "calib_bench"), ("tasks", "calib_bench.tasks"), ("baselines", "calib_bench.baselines"),
    )
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text() and path != Path(api.__file__)
)  # fmt: skip
"""Modules with examples in their docstrings, besides `api`."""


@pytest.mark.parametrize("module", SHOWN)
def test_the_examples_of_every_module_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


def test_importing_costs_nothing() -> None:
    code = (
        "import sys, calib_bench; from calib_bench import Calibrator, Objective, Study, Task;"
        "assert callable(calib_bench.run);"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'wandb'} & set(sys.modules); sys.exit(str(heavy or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.slow
@pytest.mark.parametrize("how", [["script.py"], pytest.param(["-m", "script"], marks=pytest.mark.soak)])
def test_a_plain_script_runs_once(how: list[str], tmp_path: Path) -> None:
    """One without `if __name__ == "__main__":`, with workers to train on and workers to analyse with."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import replace\n"
        "import calib_bench\n"
        "from calib_bench.execute import analysis_pool\n"
        "from calib_bench.studies.separation import study\n"
        "figures = {name: study.STUDY.figures[name] for name in ('separation', 'over_beta')}\n"
        "study.STUDY = replace(study.STUDY, figures=figures, details=None)\n"
        "print('begun')\n"
        "analysis_pool.WORTH = 0.0\n"
        "calib_bench.run(task='digits', model='mlp_8', beta=[0.1, 1], lr=0.1, seed=[0, 1], epochs=1, stack=2,\n"
        "    interventions='no', objective='cross_entropy', calibrator='temperature_scaling', wandb='disabled',\n"
        f"    workers=2, out={str(tmp_path)!r})\n"
        "print('ended', __file__, __spec__)\n"
    )
    done = subprocess.run(
        [sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1
    assert f"ended {script}" in done.stdout
    assert ("ModuleSpec" in done.stdout) == ("-m" in how)
    assert "2 workers" in done.stdout
    assert (tmp_path / "digits-separation" / "report" / "report.html").is_file()


def test_every_function_is_there_documented_and_found_by_completion() -> None:
    for name in api.__all__:
        assert getattr(calib_bench, name) is getattr(api, name)
        assert (getattr(api, name).__doc__ or "").strip()
        assert name in dir(calib_bench)
    with pytest.raises(AttributeError, match="nothing"):
        _ = calib_bench.nothing  # type: ignore[attr-defined]


@pytest.mark.slow
def test_results_are_the_reports_tables(folder: Path) -> None:
    analysis = registry.study("separation").analyse
    frame = calib_bench.load_results(str(folder), "separation")
    from calib_bench.store.store import Store

    store = Store(folder, "read")
    expected = analysis(store.settings(), store).tables["separation"]
    assert frame["log_loss_dyn"].tolist() == expected.frame["log_loss_dyn"].tolist()
    assert frame.attrs["title"] == expected.title
    with pytest.raises(SettingsError, match="did you mean 'baselines'"):
        calib_bench.load_results(folder, "baseline")


@pytest.mark.parametrize("name", PLOTS)
def test_drawings_from_the_saved_tables_are_those_of_the_report(folder: Path, name: str) -> None:
    from calib_bench.report import figures

    figure = getattr(calib_bench, f"plot_{name}")(folder)
    assert len(figure.axes) >= 2
    with figures.style():
        svg = figures.render(figure)["svg"]
    assert svg == (folder / "report" / "figures" / f"{name}.svg").read_bytes()


PNG = b"\x89PNG\r\n\x1a\n"


def test_notebooks_show_pictures(folder: Path) -> None:
    """By the methods that IPython asks for, without pyplot."""
    figure = calib_bench.plot_over_beta(folder)
    shown = figure._repr_png_()  # type: ignore[attr-defined]
    assert shown.startswith(PNG)
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.6], [0.7, 0.3]] * 10)
    for values, kind in ((np.random.default_rng(0).normal(size=(40, 2)), "logits"), (p, "probabilities")):
        frame = calib_bench.evaluate(values, [1, 1, 0, 0] * 10, kind=kind)
        page = frame._repr_html_()
        assert base64.b64decode(page.partition("base64,")[2].partition('"')[0]).startswith(PNG)
        assert html.escape(frame.attrs["verdict"][0]) in page
        assert f"{frame['accuracy'][0]:.6f}".rstrip("0") in page
        assert type(frame[["method"]]) is pd.DataFrame
    with pd.option_context("display.notebook_repr_html", False):
        assert frame._repr_html_() is None


def test_values_become_words() -> None:
    values = (True, [0.1, 1], range(3), "a,b", Path("x"), np.array([0.5, 2.0]), np.int64(3), 1e-05)
    assert [api._text(v) for v in values] == ["true", "0.1,1", "0,1,2", "a,b", "x", "0.5,2.0", "3", "1e-05"]
    with pytest.raises(SettingsError, match="did you mean 'task'"):
        calib_bench.run(taks="digits")


def test_several_models_and_probabilities_are_judged() -> None:
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(2, 600, 3))
    y = rng.integers(0, 3, 600)
    frame = calib_bench.evaluate(Z, y, folds=3, calibrators=["temperature_scaling"])
    assert frame["method"].tolist() == ["raw", "temperature_scaling"]
    assert (frame["log_loss_low"] < frame["log_loss"]).all()
    assert "accuracy" in frame.attrs["verdict"][0]
    p = np.exp(Z[0]) / np.exp(Z[0]).sum(1, keepdims=True)
    one = calib_bench.evaluate(p, y, kind="probabilities")
    logits = calib_bench.evaluate(Z[0], y)
    assert one["log_loss"][0] == pytest.approx(logits["log_loss"][0], rel=1e-9)
    with pytest.raises(DataError, match="probabilities"):
        calib_bench.evaluate(Z[0], y, kind="probabilities")


RNG = np.random.default_rng(3)
LOGITS, ANSWERS, SITE = RNG.normal(size=(300, 3)), RNG.integers(0, 3, 300), RNG.choice(["n", "s", "e"], 300)
FRAME = pd.DataFrame(LOGITS, columns=["logit_0", "logit_1", "logit_2"]).assign(site=SITE)


def test_slices_are_those_of_the_command(tmp_path: Path) -> None:
    """As a column of what holds labels or of classes alone, as an array, as a series in another order."""
    FRAME.assign(label=ANSWERS).to_csv(tmp_path / "t.csv", index=False)
    assert main(["evaluate", str(tmp_path / "t.csv"), "groups=site", f"out={tmp_path / 'out'}"]) == 0
    mixed = RNG.permutation(300)
    names = pd.Index([f"r{i}" for i in range(300)])
    by_name = FRAME.drop(columns="site").set_index(names)
    slices = pd.Series(SITE, index=names, name="site")
    given = (
        calib_bench.evaluate(FRAME.assign(label=ANSWERS), groups="site"),
        calib_bench.evaluate(FRAME, ANSWERS, groups="site"),
        calib_bench.evaluate(by_name, ANSWERS, groups=slices.iloc[mixed]),
        calib_bench.evaluate({"a": LOGITS}, ANSWERS, groups={"a": SITE}),
    )
    for name in ("slices", "slice_metrics", "slice_differences"):
        expected = calib_bench.load_results(tmp_path / "out", name)
        for frame in given:
            pd.testing.assert_frame_equal(frame.tables[name], expected, check_dtype=False)
    assert "By site, as they are" in given[2].attrs["verdict"][-1]
    assert given[0].tables["slices"].attrs["title"] == "By site"


BAD_GROUPS = {
    "a name without columns": (LOGITS, "site", "has no columns beside its predictions"),
    "another name": (FRAME, "sight", "did you mean 'site'"),
    "too few": (LOGITS, SITE[:9], "9 values of groups for 300 rows"),
    "a number a row": (LOGITS, np.arange(300), "300 different values"),
    "one value": (LOGITS, np.zeros(300), "one value, 0, in all rows"),
    "a table": (LOGITS, np.stack([SITE, SITE], 1), "one value a row"),
    "other models": ({"a": LOGITS, "b": LOGITS}, {"a": SITE}, "predictions are of a, b, groups of a"),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
def test_what_can_be_no_slices_is_refused(case: str) -> None:
    values, groups, message = BAD_GROUPS[case]
    with pytest.raises(DataError, match=message):
        calib_bench.evaluate(values, ANSWERS, groups=groups)


def test_folds_are_whole_and_go_without_a_calibration_set() -> None:
    z, y = np.random.default_rng(0).normal(size=(40, 2)), np.array([0, 1, 1, 0] * 10)
    for words, message in (
        ({"folds": 2, "calibration": (-z, y)}, "without a calibration set: give one of the two"),
        ({"folds": 2.5}, "folds=2.5 is not a whole number"),
        ({"folds": 2, "seed": "a"}, "seed='a' is not a whole number"),
    ):
        with pytest.raises(SettingsError, match=message):
            calib_bench.evaluate(z, y, **words)  # type: ignore[arg-type]
