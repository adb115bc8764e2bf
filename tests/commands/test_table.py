"""Tables for papers and references: what is bold is what a paired test says, and every name has an entry."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import make, sketched

from calib_bench import registry
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.scores import METRICS
from calib_bench.cli import main
from calib_bench.commands import cite, table, table_ties
from calib_bench.core.metric_references import REFERENCES
from calib_bench.errors import SettingsError, StoreError
from calib_bench.inference import crossed_interval, holm
from calib_bench.models.references import references
from calib_bench.report import paper_table, tables
from calib_bench.report.build import build
from calib_bench.report.paper_table import cell
from calib_bench.system import files

WORDS = ("beta=0.1,1,10", "objective=cross_entropy,label_smoothing", "seed=0..2", "lr=0.03,0.1,0.3")


@pytest.fixture(scope="module")
@sketched("separation")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("paper") / "run"
    words = ("calibrator=temperature_scaling,histogram_binning,vector_scaling",)
    store, settings = make(path, *WORDS, *words, test=400)
    build(store, registry.study("separation"), settings)
    return path


def shown(run: Path, *words: str) -> tuple[str, paper_table.PaperTable]:
    return table.format_table(table.COMMAND.parse([str(run), *words]))


def test_tables_read_back_as_they_were_saved(run: Path) -> None:
    known = tables.read(run)
    saved = pd.read_csv(run / "report" / "tables" / "baselines.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(known["baselines"].frame, saved)
    assert known["separation"].paper
    assert not known["baselines"].paper
    assert known["baselines"].first[0] == "accuracy"
    with pytest.raises(StoreError, match="calib_bench report"):
        tables.read(run / "nowhere")


def test_rows_columns_and_digits_are_chosen(run: Path) -> None:
    words = ("beta=1", "objective=cross_entropy", "columns=log_loss,ece", "digits=3", "sort=-log_loss")
    name, made = shown(run, *words, "interval=half")
    assert name == "baselines"
    assert (made.names, made.metrics) == (["method"], ["log_loss", "ece"])
    frame = tables.read(run)["baselines"].frame.query("beta == 1 and objective == 'cross_entropy'")
    frame = frame.sort_values("log_loss", ascending=False)
    row = frame.iloc[0]
    half = (row.log_loss_high - row.log_loss_low) / 2
    assert made.rows[0][1][0] == f"{row.log_loss:.3f} ± {half:.3f}"
    assert len(made.rows) == 4
    assert "seeds: 3" in made.caption
    back = pd.read_csv(io.StringIO(made.csv()), float_precision="round_trip")
    assert back["log_loss"].tolist() == frame["log_loss"].tolist()
    assert back["seeds"].tolist() == [3] * 4


def test_lopsided_intervals_keep_their_limits() -> None:
    for low, shown_as in ((0.2, "0.30 ± 0.10"), (0.29, "0.300 [0.290, 0.400]")):
        assert cell(0.3, Estimate(0.3, low, 0.4), None, "half") == shown_as


def test_bold_is_the_best_and_what_a_paired_test_does_not_put_below_it(run: Path) -> None:
    _, made = shown(run, "columns=log_loss", "objective=cross_entropy")
    from calib_bench.store.store import Store

    store = Store(run, "read")
    frame = tables.read(run)["baselines"].frame.query("objective == 'cross_entropy'").reset_index()
    ties = table_ties.Ties(store, store.settings(), frame)
    nested = ties.nested
    losses = [ties.scored(i).examples["log_loss"].numpy() for i in range(len(frame))]
    top = int(np.argmin([v.mean() for v in losses]))
    others = [i for i in range(len(losses)) if i != top]
    p = [crossed_interval(losses[i] - losses[top], nested=nested).p for i in others]
    adjusted = holm(p, from_best=True)
    kept = {top, *(i for i, one in zip(others, adjusted, strict=True) if one >= 0.05)}
    assert {i for i, _ in made.bold} == kept
    assert 0 < len(kept) < len(losses)
    assert "Bold" in made.caption


def scored(rows: np.ndarray) -> table_ties.Scored:
    values = torch.tensor(rows)
    return table_ties.Scored({"log_loss": values}, {"log_loss": values.mean(1).tolist()}, tuple(range(len(rows))))


def best(rows: list[table_ties.Scored], nested: bool, groups: list) -> set[int]:
    def p(one: int, other: int) -> float:
        return table_ties.paired_difference(rows[one], rows[other], "log_loss", nested).p

    return table_ties.best(rows, "log_loss", groups, p)


def test_a_tie_of_copies_a_clear_loser_and_an_undecided_seed() -> None:
    rng = np.random.default_rng(0)
    base = rng.gamma(2.0, size=(4, 300))
    noise = 0.01 * rng.normal(size=base.shape)
    three = [scored(base), scored(base + noise - noise.mean()), scored(base + 0.5 + noise)]
    assert best(three, False, [range(3)]) == {0, 1}
    assert best(three, False, [[0, 2], [1]]) == {0, 1}
    single = [scored(base[:1]), scored(base[:1] + 5.0 * rng.normal(size=(1, 300)))]
    assert best(single, True, [range(2)]) == {0, 1}


def test_comparisons_are_stored_and_measured_again_when_a_prediction_changes(run: Path, tmp_path: Path) -> None:
    words = ("columns=log_loss,ece", "objective=cross_entropy", "format=csv")
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / table_ties.KEPT).unlink(missing_ok=True)
    first = shown(copied, *words)[1].csv()
    kept = files.read_sealed(copied / table_ties.KEPT)
    kept["p"] = dict.fromkeys(kept["p"], "nan")  # no test was possible: none is shown to be worse
    files.write_bytes(copied / table_ties.KEPT, files.sealed(kept))
    assert "False" in first
    assert "False" not in shown(copied, *words)[1].csv()
    (copied / table_ties.KEPT).write_text("damaged")
    assert shown(copied, *words)[1].csv() == first
    files.write_bytes(copied / table_ties.KEPT, files.sealed(kept))
    for place in copied.glob("trials/*/trial.json"):
        content = files.read_sealed(place)
        content["data"] = {**content["data"], "source": "elsewhere"}
        files.write_bytes(place, files.sealed(content))
    assert shown(copied, *words)[1].csv() == first


def test_groups_are_judged_apart_and_ruled_off(run: Path) -> None:
    _, made = shown(
        run, "by=beta", "objective=cross_entropy", "columns=accuracy,log_loss", "method=raw,histogram_binning"
    )
    assert len(made.rows) == 6
    assert made.rules == {2, 4}
    for start in (0, 2, 4):
        for column in range(2):
            assert any((i, column) in made.bold for i in (start, start + 1))
    text = made.latex()
    assert text.count(r"\midrule") == 3
    (align,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") + 1 for line in lines} == {len(align)}
    assert text.isascii()
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\textbf{" in text
    assert "Histogram binning" in text
    lines = [line for line in made.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "**" in lines[2] + lines[3]


def test_citing_imports_no_torch(run: Path) -> None:
    code = (
        f"import sys; from calib_bench.cli import main; main(['cite', {str(run)!r}]);"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "% study separation" in done.stdout


def test_the_command_writes_three_files_or_prints_one(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["table", str(run), "table=separation", f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {"separation.tex", "separation.md", "separation.csv"}
    assert text.startswith("| beta | objective |")
    assert main(["table", str(run), "table=separation", "format=latex"]) == 0
    assert capsys.readouterr().out == (tmp_path / "separation.tex").read_text()
    assert main(["table", "--help"]) == 0
    assert "--columns A,B" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["table=baseline"], "did you mean 'baselines'"),
        (["columns=acuracy"], "did you mean 'accuracy'"),
        (["methd=raw"], "did you mean 'method'"),
        (["method=rw"], "did you mean 'raw'"),
        (["digits=many"], "digits=many is not a whole number"),
        (["format=word"], "valid choices"),
        (["sort=-los_loss"], "log_loss"),
        (["digits=2", "digits=3"], "given twice"),
        (["beta=7"], "no row has beta=7"),
    ],
)
def test_bad_words_name_the_nearest(run: Path, words: list[str], hint: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(hint)):
        shown(run, *words)


def test_every_reference_of_the_house_has_a_whole_entry() -> None:
    entries = cite.read()
    keys = {cite.OWN, *(key for some in REFERENCES.values() for key in some)}
    keys |= {registry.task(name).reference for name in registry.names("tasks")} - {""}
    keys |= {registry.load("baselines", name).reference for name in registry.names("baselines")}
    keys |= {key for name in registry.names("studies") for key in registry.study(name).references}
    package = registry.package_models().items()
    for name in (
        *(name for family, model in package for name in model.examples or [family]),
        "timm/vit_base_patch16_224",
        "timm/convnext_tiny",
    ):
        assert references(name), name
        keys |= set(references(name))
    assert keys <= set(entries)
    assert set(METRICS) <= set(REFERENCES)
    for key, text in entries.items():
        lines = re.sub(r"\n {11,}", " ", text)
        for field in ("author", "title", "year"):
            assert re.search(rf"^\s*{field}\s*=\s*\{{.+\}},?$", lines, re.MULTILINE), (key, field)
        kind = text[1 : text.index("{")]
        where = {"article": "journal", "inproceedings": "booktitle", "incollection": "booktitle"}.get(kind)
        assert where is None or re.search(rf"^\s*{where}\s*=", text, re.MULTILINE), key


def test_cite_prints_what_a_run_used_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", str(run)]) == 0
    text = capsys.readouterr().out
    found = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert len(found) == len(set(found))
    wanted = {"alpaydin1998", "guo2017", "szegedy2016", "zadrozny2001", "brier1950", "agarwala2023temperature"}
    assert wanted <= set(found)
    assert "vovk2014" not in found
    assert re.search(r"^% objective label_smoothing\n@inproceedings\{szegedy2016", text, re.MULTILINE)
    (cited,) = re.findall(r"\\cite\{([^}]*)\}", text)
    assert cited.split(",") == found
    assert main(["cite"]) == 2
    assert "required: RUN" in capsys.readouterr().err


def test_a_plug_ins_unknown_reference_is_said(run: Path) -> None:
    text = cite.bibtex({"mine2026": ["task mine"]}, {})
    assert "no entry called mine2026" in text


def test_broken_bibliographies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bib"
    path.write_text("@misc{a,\n  title = {x}\n")
    with pytest.raises(ValueError, match="do not balance"):
        cite.read(path)
    path.write_text("@misc{a,\n  title = {x}\n}\n@misc{a,\n  title = {y}\n}\n")
    with pytest.raises(ValueError, match="two entries"):
        cite.read(path)


def test_an_integer_or_text_cell_stays_as_it_is() -> None:
    row = {"n": 3, "x": 0.25, "x_low": float("nan"), "x_high": float("nan"), "who": "a"}
    cells = [paper_table.cell(row[c], Estimate.of(row, c), 2, "yes") for c in ("n", "x", "who")]
    assert cells == ["3", "0.25", "a"]
