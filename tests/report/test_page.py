"""The page in a real browser: it sorts, filters and folds, says nothing on the console, and fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from calib_bench.core.settings import parse
from calib_bench.core.study import DETAILS, Analysis, Detail, Section, Study, StudyResult, Table
from calib_bench.report import figures, html
from calib_bench.report.glossary import GLOSSARY
from calib_bench.report.page_tables import page_table

EVIL = "<script>document.title='run'</script>_\"&'"
NAMES = ("model", "beta", "objective", "method")


def baselines() -> pd.DataFrame:
    """Rows like those of the baselines table; label smoothing at beta 1 is the best, and one score is missing."""
    rows = []
    for i, (beta, objective, method) in enumerate(
        (b, o, m) for b in (0.1, 1.0, 10.0) for o in ("cross_entropy", EVIL) for m in ("raw", "temperature_scaling")
    ):
        loss = 0.05 + 0.01 * ((7 * i) % 12)
        rows.append(
            {
                "model": "mlp", "beta": beta, "objective": objective, "tuning": "edge" if beta > 1 else "tuned",
                "method": method, "seeds": 3, "accuracy": 1 - loss, "accuracy_low": 0.9 - loss,
                "accuracy_high": 1.05 - loss, "log_loss": loss if i else None, "log_loss_low": loss - 0.02,
                "log_loss_high": loss + 0.02, "log_loss_p": 0.01, "log_loss_holm": 0.04 if i == 3 else 0.2,
                "aurc": 1e-3 * i, "at_bound": i == 5,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def draw(_: Analysis) -> Any:
    """A line that goes up, named by whoever names tasks.

    This paragraph is for programmers.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3))
    axes = figure.subplots(1, 2)
    axes[0].plot([1, 2], [1, 2], label=EVIL)
    axes[1].imshow([[0, 1], [1, 0]])
    axes[0].legend()
    return figure


def made() -> tuple[Study, Analysis]:
    wide = pd.DataFrame([{f"a_rather_long_name_of_column_{i}": i / 7 for i in range(30)}] * 3)
    tables = {
        "baselines": Table("Baselines", baselines(), "A note.", first=("accuracy", "log_loss")),
        "wide": Table("Wide", wide, "x" * 300),
        "empty": Table("Empty", pd.DataFrame()),
        "long": Table(
            "Long",
            pd.DataFrame({"name": [f"row {i}" for i in range(2 * html.PLAIN_ROWS)], "n": range(2 * html.PLAIN_ROWS)}),
        ),
    }
    analysis = Analysis(
        verdict=(EVIL, "Second.", "Third.", "Fourth."),
        tables=tables,
        warnings=("Beware.",) * 5,
        result=StudyResult(limit=8),
        summary=("Short and plain.", "Kappa and kappa."),
    )
    details = [Detail("beta = 1", "brief", ("A sentence.",), tables["baselines"], lambda: draw(analysis))]
    study = Study(
        "What is asked?",
        lambda *_: [],
        lambda *_: analysis,
        {"line": draw, "other": draw},
        sections=(Section("Line", ("line", "baselines"), "What it is."), Section("Each", (DETAILS, "absent"))),
        details=lambda _: details,
    )
    return study, analysis


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of thing on it."""
    study, analysis = made()
    folder = tmp_path_factory.mktemp("page")
    drawn = figures.save(study, analysis, folder / "figures")
    settings = parse(["seed=0..2"]).model_copy(update={"task": EVIL, "model": ("mlp",)})
    origin = {"command": "python -m calib_bench run", "data": [{EVIL: EVIL, "sizes": {"test": 99}}], "nothing": []}
    text = html.page(study, settings, analysis, drawn, origin, figures.details(study, analysis))
    (folder / "report.html").write_text(text)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def said() -> list[str]:
    """What the console said."""
    return []


@pytest.fixture
def page(browser: Any, path: Path, said: list[str]) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(path.as_uri())
    opened.locator("script.packed").first.wait_for(state="detached")
    yield opened
    opened.close()
    assert said == []


def column(page: Any, number: int) -> list[str]:
    """The texts of a column of the baselines table, rows that are hidden left out."""
    script = """n => [...document.querySelectorAll('#table-baselines tbody tr')].filter(r => !r.hidden)
        .map(r => r.cells[n].childNodes[0].textContent)"""
    return page.evaluate(script, number)


def test_a_heading_sorts_best_first_then_worst_first_then_as_it_was(page: Any) -> None:
    before = column(page, 1)
    head = page.locator("#table-baselines thead th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(v) for v in column(page, 1)] == sorted((float(v) for v in before), reverse=True)
    head.locator("button").click()
    assert [float(v) for v in column(page, 1)] == sorted(float(v) for v in before)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, 1) == before


def test_losses_sort_lowest_first_and_what_is_missing_comes_last(page: Any) -> None:
    head = page.locator("#table-baselines thead th").nth(2)
    for clicks in range(2):
        head.locator("button").click()
        *known, last = column(page, 2)
        assert last == "–"
        values = [float(v) for v in known]
        assert values == sorted(values, reverse=clicks == 1)


def test_rows_are_chosen_by_name_and_columns_unfolded(page: Any) -> None:
    assert len(column(page, 1)) == 12
    page.locator("#table-baselines select").nth(0).select_option("1")
    assert len(column(page, 1)) == 4
    page.locator("#table-baselines select").nth(1).select_option(EVIL)
    assert len(column(page, 1)) == 2
    aurc = page.locator("#table-baselines thead th", has_text="aurc")
    assert not aurc.is_visible()
    page.get_by_role("button", name="2 more columns").first.click()
    assert aurc.is_visible()


def test_names_are_shown_and_not_run(page: Any, said: list[str]) -> None:
    assert EVIL in page.title()
    assert EVIL in page.inner_text("h1")
    assert EVIL in page.inner_text("#table-baselines tbody")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    assert EVIL in page.title()
    (refusal,) = said
    assert "Content Security Policy" in refusal
    said.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser: Any, path: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelector('#table-wide .scroll').scrollWidth > 390")
    name = page.locator("#table-wide tbody .name").first
    left = name.bounding_box()["x"]
    page.evaluate("document.querySelector('#table-wide .scroll').scrollLeft = 500")
    assert name.bounding_box()["x"] == pytest.approx(left, abs=1)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    page.close()


def test_it_reads_without_its_script(browser: Any, path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#table-baselines thead th", has_text="aurc").is_visible()
    assert page.locator("#table-baselines button").count() == 0
    context.close()


def test_the_summary_leads_and_the_rest_is_folded(page: Any) -> None:
    assert "Short and plain." in page.inner_text(".lead")
    assert "not results" in page.inner_text("#start .smoke")
    assert not page.get_by_text("Fourth.").is_visible()
    page.locator("#verdict summary").click()
    assert page.get_by_text("Fourth.").is_visible()


def test_sections_come_in_order_and_nothing_is_lost_or_doubled(path: Path) -> None:
    text = path.read_text()
    places = [text.index(f">{word}</h2>") for word in ("Start here", "Line", "Each", "More figures", "More tables")]
    assert places == sorted(places)
    for name in ("figure-line", "figure-other", "table-baselines", "table-wide"):
        assert text.count(f'id="{name}"') == 1
    assert "table-empty" not in text
    assert "A line that goes up" in text
    assert "for programmers" not in text


def test_what_is_compressed_is_shown_in_its_place(page: Any, path: Path) -> None:
    page.locator("#figure-line svg").wait_for(state="visible")
    rows = page.locator("#table-long tbody tr")
    page.locator("#table-long button").first.wait_for(state="attached")
    assert rows.count() == 2 * html.PLAIN_ROWS
    assert rows.last.locator("td").text_content() == str(2 * html.PLAIN_ROWS - 1)
    assert page.locator("script.packed").count() == 0
    assert f"row {html.PLAIN_ROWS - 1}<" in path.read_text()
    assert f"row {html.PLAIN_ROWS}<" not in path.read_text()


def test_a_term_is_explained_where_it_is_first_and_in_the_list(page: Any) -> None:
    first = page.locator("a.term", has_text="Kappa")
    assert first.count() == 1
    assert first.get_attribute("title") == GLOSSARY["kappa"]
    head = page.locator("#table-baselines thead th", has_text="log loss")
    assert GLOSSARY["log_loss"] in head.get_attribute("title")
    first.click()
    assert page.locator("#word-kappa").is_visible()
    assert page.locator("#word-log_loss").count() == 1
    assert page.locator("#word-auroc").count() == 0


def test_the_columns_that_come_first_fit_and_the_others_are_folded(page: Any) -> None:
    page.evaluate("document.querySelector('#table-wide').open = true")
    scroll = page.locator("#table-wide .scroll")
    page.get_by_role("button", name="more columns").last.wait_for()
    assert scroll.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert 1 <= page.locator("#table-wide thead th:not(.more)").count() - 1 < 30
    marks = pd.DataFrame({"model": ["a", "b"], "two_kinds": ["", "this arm"], "z": [1.0, 2.0], "x": [0.5, 0.25]})
    table = page_table("t", Table("t", marks, first=("x", "z")))
    assert (table.keys, [column.name for column in table.columns]) == (["model"], ["x", "z", "two_kinds"])


def test_a_grid_names_rows_folds_intervals_and_tells_what_is_alike() -> None:
    found = page_table("baselines", Table("t", baselines()))
    assert found.keys == ["beta", "objective", "method"]
    assert found.same == "model: mlp; seeds: 3"
    assert [column.title for column in found.columns] == ["accuracy", "log loss", "aurc", "at bound"]
    line = found.rows[3]
    assert (line.name, line.over) == ("temperature_scaling", f"beta 0.1 · {EVIL}")
    assert line.flag == ""
    assert found.rows[-1].flag == "edge"
    assert line.cells[1].star
    assert not found.rows[4].cells[1].star
    frame = baselines()
    assert float(line.cells[1].value) == pytest.approx(frame["log_loss"][3])
    assert line.cells[1].limits == f"[{frame['log_loss_low'][3]:.3f}, {frame['log_loss_high'][3]:.3f}]"
    assert found.rows[0].cells[1].text == "–"
    assert found.rows[5].cells[3].text == "yes"
