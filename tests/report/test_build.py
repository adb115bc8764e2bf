"""The report: what it writes, that it stands alone, and that names cannot break it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed import unpacked
from synthetic import make

from calib_bench import registry
from calib_bench.analysis.format import estimate, number
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Study, Table
from calib_bench.report import build as report
from calib_bench.report import figures, html, tables
from calib_bench.report.build import build
from calib_bench.report.drawing import empty_figure
from calib_bench.report.table_view import TableView
from calib_bench.store.store import Store
from calib_bench.system import files

EVIL = "<script>alert('x & y')</script>$_{%#"
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings, Path]:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0..1", "lr=0.1", "calibrator=temperature_scaling")
    store, settings = make(tmp_path_factory.mktemp("report") / "run", *words, class_names=(EVIL, "b", "c", "d"))
    return store, settings, build(store, registry.study("separation"), settings)


class Page(HTMLParser):
    """Checks that elements nest and collects what the page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_file_is_there(run: tuple[Store, Settings, Path]) -> None:
    folder = run[2].parent
    assert run[2] == run[0].path / "report" / "report.html"
    study = registry.study("separation")
    drawn = {p.name for p in (folder / "figures").iterdir()}
    unmeasured = {
        "comparisons",
        "over_time",
        "over_time_by_beta",
        "lazy",
        "shift",
        "shift_repaired",
        "shift_methods",
        "shift_change",
    }
    some = set(study.figures) - unmeasured - {"interventions", "learning_rates"}  # none was trained, one rate was given
    assert drawn == {f"{name}.{suffix}" for name in some for suffix in ("png", "svg", "pdf")}
    names = {p.name for p in (folder / "tables").iterdir()}
    assert {"separation.csv", "separation.tex", "separation.md", "baselines.csv", "rates.csv", "trials.csv"} <= names
    assert not list(folder.rglob(".*"))


def test_a_figure_without_axes_leaves_no_warning(tmp_path: Path) -> None:
    """It has nothing to lay out: drawn for the report, and saved from a notebook."""
    with warnings.catch_warnings(), figures.style():
        warnings.simplefilter("error", UserWarning)
        assert "no trial yet" in figures.render(empty_figure("no trial yet"))["svg"].decode()
        empty_figure("no trial yet").savefig(tmp_path / "empty.png")


def test_a_page_of_one_arm_begins_with_it_and_shows_no_empty_table(tmp_path: Path) -> None:
    words = ("beta=1", "objective=cross_entropy", "seed=0", "lr=0.1", "interventions=no", "calibrator=isotonic")
    store, settings = make(tmp_path / "run", *words)
    text = unpacked(build(store, registry.study("separation"), settings).read_text())
    assert text.index("cross_entropy: accuracy 0.") < text.index("There is nothing to compare")
    assert 'id="table-baselines"' in text
    assert "table-separation" not in text
    assert "figure-separation" not in text


def test_the_page_stands_alone(run: tuple[Store, Settings, Path]) -> None:
    Page(run[2].read_text())
    text = unpacked(run[2].read_text())
    page = Page(text)
    assert "://" not in text
    assert "@import" not in text
    assert {"iframe", "object"}.isdisjoint(page.tags)
    assert text.count("<script") == 1
    local = [target for target in page.fetched if not target.startswith(("#", "data:"))]
    assert local
    assert all((run[2].parent / target).is_file() for target in local)
    assert len(page.ids) == len(set(page.ids))
    assert {target[1:] for target in page.fetched if target.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(page.ids)


def test_names_are_escaped_everywhere(run: tuple[Store, Settings, Path]) -> None:
    text = unpacked(run[2].read_text())
    assert "&lt;script&gt;alert" in text
    assert "<script>alert" not in text
    assert text.count("<script") == 1


def test_only_the_pages_own_script_may_run(run: tuple[Store, Settings, Path]) -> None:
    text = run[2].read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_a_hostile_task_name_survives_figures_tables_and_page(run: tuple[Store, Settings, Path]) -> None:
    frame = pd.DataFrame({"model": [EVIL], "x": [1.0], "x_low": [0.5], "x_high": [1.5]})
    table = Table(EVIL, frame, EVIL, paper=True)
    analysis = Analysis((EVIL,), {"t": table}, (EVIL,))

    def draw(_: Analysis) -> object:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().set_title(EVIL)
        return figure

    study = Study(EVIL, lambda *_: [], lambda *_: analysis, {"f": draw})  # type: ignore[arg-type, dict-item]
    with figures.style():
        svg = figures.render(study.figures["f"](analysis))["svg"].decode()
    settings = run[1].model_copy(update={"task": EVIL})
    text = unpacked(html.page(study, settings, analysis, {"f": svg}, {"command": EVIL, "nested": {EVIL: [EVIL]}}))
    Page(text)
    assert text.count("<script") == 1
    assert "<script" not in svg
    latex = tables.latex(table)
    assert r"\textless{}script\textgreater{}" in latex
    (caption,) = re.findall(r"caption\{(.*)\}", latex)
    assert not re.search(r"(?<!\\)[_%#&$]", caption)


def test_the_same_store_gives_the_same_bytes(run: tuple[Store, Settings, Path]) -> None:
    store, settings, path = run
    before = {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    build(Store(store.path, "read"), registry.study("separation"), settings)
    changed = [p.name for p, content in before.items() if p.read_bytes() != content]
    assert changed == []


def test_csv_reads_back_exactly(run: tuple[Store, Settings, Path]) -> None:
    frame = registry.study("separation").analyse(run[1], run[0]).tables["separation"].frame
    back = pd.read_csv(run[2].parent / "tables" / "separation.csv", float_precision="round_trip")
    assert back["log_loss_dyn"].tolist() == frame["log_loss_dyn"].tolist()
    assert list(back.columns) == list(frame.columns)


@given(st.floats(-1e3, 1e3), st.floats(1e-7, 1e3))
def test_an_estimate_is_right_to_a_hundredth_of_its_half_width(mean: float, half: float) -> None:
    text = estimate(mean, mean - half, mean + half).replace("−", "-")
    shown = [float(part) for part in re.findall(r"-?[\d.]+(?:e-\d+)?", text)]
    for value, told in zip((mean, mean - half, mean + half), shown, strict=True):
        far_apart = 0 < 10 * (mean - half) < mean + half  # then each has two digits of its own
        narrow = half <= 1.001e-6 * abs(mean)  # then each has five
        tolerance = 5.1e-5 * max(abs(mean), 1) if narrow else max(0.051 * half, 5.1e-7)
        assert abs(value - told) <= (0.051 * value if far_apart else tolerance)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "–"), (math.inf, "inf"), (3, "3"), (True, "True"), (-0.12345, "−0.1235"), ("a", "a")],
)
def test_lone_values(value: object, text: str) -> None:
    assert number(value) == text


def test_siblings_fold_and_stars_are_for_adjusted_p() -> None:
    frame = pd.DataFrame(
        {
            "beta": [0.1, 1.0, 10.0],
            "empty": [None, None, None],
            "x": [1.0, 2.0, math.nan],
            "x_low": [0.9, 1.5, math.nan],
            "x_high": [1.1, 2.5, math.nan],
            "x_p": [0.01, 0.04, math.nan],
            "x_holm": [0.02, 0.08, math.nan],
        }
    )
    lines = tables.markdown_rows(TableView.of(Table("t", frame))).splitlines()
    assert lines == [
        "| beta | x |",
        "| --- | --- |",
        "| 0.1 | 1.00 [0.90, 1.10]* |",
        "| 1 | 2.00 [1.50, 2.50] |",
        "| 10 | – |",
    ]
    assert len(next(csv.reader(io.StringIO(tables.csv(Table("t", frame)))))) == 7


def test_latex_is_balanced_and_aligned(run: tuple[Store, Settings, Path]) -> None:
    text = (run[2].parent / "tables" / "separation.tex").read_text()
    (align,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 2
    assert {line.count(" & ") + 1 for line in lines} == {len(align)}
    assert text.isascii()
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1


def test_markdown_has_one_cell_a_column(run: tuple[Store, Settings, Path]) -> None:
    text = (run[2].parent / "tables" / "separation.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_a_long_table_is_cut_on_the_page_and_says_so(run: tuple[Store, Settings, Path]) -> None:
    table = Table("long", pd.DataFrame({"n": range(html.MOST_ROWS + 5)}))
    study = registry.study("separation")
    text = unpacked(html.page(study, run[1], Analysis(("v",), {"long": table}), {}, {}))
    assert text.count("<tr") == html.MOST_ROWS + 1
    assert f"first {html.MOST_ROWS:,} of {html.MOST_ROWS + 5:,} rows" in text


def test_the_terminal_table_fits_eighty_columns(run: tuple[Store, Settings, Path]) -> None:
    from rich.console import Console

    table = registry.study("separation").analyse(run[1], run[0]).tables["separation"]
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(tables.rich_table(table))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    total = table.frame["log_loss_total"].iloc[0]
    assert f"{total:.2f}" in text
    assert "±" in text


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_rate_is_called_untuned_only_where_something_is_trained(tmp_path: Path, epochs: int) -> None:
    words = ("beta=1", "objective=cross_entropy", "seed=0..1", "lr=0.1", f"epochs={epochs}")
    store, settings = make(tmp_path / "run", *words, "calibrator=temperature_scaling")
    said = registry.study("separation").analyse(settings, store).warnings
    assert any("not tuned" in warning for warning in said) == (epochs > 0)


def test_a_figure_with_nothing_to_show_is_left_out(tmp_path: Path) -> None:
    study, analysis = Study("?", lambda *_: [], lambda *_: Analysis((), {}), {"f": lambda _: None}), Analysis((), {})
    (tmp_path / "f.png").write_bytes(b"of an earlier report")
    assert figures.save(study, analysis, tmp_path) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("study", ["separation", "two_temperatures"])
def test_every_study_tells_what_is_to_be_known_of_the_data(tmp_path: Path, study: str) -> None:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0", f"study={study}", "calibrator=temperature_scaling")
    store, settings = make(tmp_path / "run", *words)
    (path,) = store.splits.folder.glob("*/split.json")
    content = {key: value for key, value in files.read_sealed(path).items() if key != "sha256"}
    files.write_json(path, files.seal(content | {"notes": {"duplicates": "7 of 120 test examples also occur"}}))
    warnings = report.analyse(store, registry.study(study), settings).warnings
    assert warnings.count("Data: 7 of 120 test examples also occur.") == 1
