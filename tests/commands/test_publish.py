"""Publication: what a folder of a study holds, that readings are kept, that the gallery lists every folder once."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pytest
import synthetic
from safetensors.torch import load

from calib_bench import cli
from calib_bench.commands.publish import BEGIN, END, _small_csv, gallery, publish, refuse_other, shareable
from calib_bench.commands.report import rebuild
from calib_bench.core.settings import UserSettings
from calib_bench.errors import UserError
from calib_bench.store.store import Store

WORDS = ("beta=0.1,1", "lr=0.1,0.2", "seed=0..1", "calibrator=temperature_scaling,isotonic", "extend=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits-separation"
    synthetic.make(folder, *WORDS)
    return folder


@pytest.mark.slow
@synthetic.sketched("separation")
def test_a_study_is_published_again_and_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "reports"
    to.mkdir()
    (to / "README.md").write_text(f"# Gallery\n\nby hand\n\n{BEGIN}\n{END}\n\nafter\n")
    rebuilt = rebuild(run, ())
    publish(*rebuilt, to, "first")
    (to / "first" / "reading.md").write_text("## How to read it\nWith care.\n")
    (to / "first" / "figures" / "stale.png").write_bytes(b"")
    publish(*rebuilt, to, "first")
    synthetic.make(tmp_path / "run", *WORDS, "limit=200")
    assert cli.main(["publish", str(tmp_path / "run"), f"to={to}", "name=checked", "check=yes"]) == 0
    assert f"published: {to / 'checked'}" in capsys.readouterr().out.replace("\n", "")
    page = (to / "first" / "README.md").read_text()
    for link in ("report.html", "figures/separation.png", "tables/separation.csv", "tables/separation.tex"):
        assert f"({link})" in page
        assert (to / "first" / link).stat().st_size > 100
    assert "With care." in page
    assert "With care." not in (to / "checked" / "README.md").read_text()
    assert not (to / "first" / "figures" / "stale.png").exists()
    page = (to / "first" / "report.html").read_text()
    assert all((to / "first" / link).is_file() for link in re.findall(r'href="((?:figures|tables)/[^"]*)"', page))
    index = (to / "README.md").read_text()
    assert index.count("| [first](first/README.md) |") == index.count("| [checked](checked/README.md) |") == 1
    assert index.startswith("# Gallery\n\nby hand\n")
    assert index.endswith("\nafter\n")
    facts = json.loads((to / "first" / "study.json").read_text())
    assert facts["summary"]
    assert {"data", "out", "plugins"}.isdisjoint(facts["settings"])
    with gzip.open(to / "first" / "trials.csv.gz", "rt") as measured:
        rows = list(csv.DictReader(measured))
    fits = load(gzip.decompress((to / "first" / "fits.safetensors.gz").read_bytes()))
    kappa = {(row["key"], row["method"]): row["kappa"] for row in rows}
    temperatures = {name.split("/")[0]: float(v) for name, v in fits.items() if name.endswith("scaling/temperature")}
    assert len(temperatures) == len({row["key"] for row in rows if row["method"] == "temperature_scaling"})
    for key, temperature in temperatures.items():
        assert float(kappa[key, "temperature_scaling"]) == pytest.approx(temperature)
    shown_as_a_check_of_the_path(to)


def test_published_settings_say_no_places() -> None:
    typed = UserSettings(data=Path("/home/me/data"), shift=("/home/me/CIFAR-10-C", "noise"))
    shared = shareable(typed)
    assert shared["shift"] == ["CIFAR-10-C", "noise"]
    assert "/home/me" not in json.dumps(shared)


def test_numbers_of_a_published_table_keep_seven_digits(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(b"a,b\n-0.04385167793101578,label_smoothing:0.10\n2.662050771382439e-05,8.0\n10.0,0.3162277660\n")
    short = b"a,b\n-0.04385168,label_smoothing:0.10\n2.662051e-05,8.0\n10.0,0.3162278\n"
    assert _small_csv(table) == short


def test_a_row_of_the_gallery_ends_with_a_sentence_or_clause(tmp_path: Path) -> None:
    texts = {
        "long": ["Accuracy fell; so did ECE. ", "x" * 500],
        "clauses": ["a" * 300 + "; b" * 300],
        "short": ["Nothing changed."],
    }
    for name, summary in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps({"summary": summary, "command": "run"}))
    gallery(tmp_path)
    rows = (tmp_path / "README.md").read_text().splitlines()
    cells = {row.split("]")[0][3:]: row.split(" | ")[-1].removesuffix(" |") for row in rows if row.startswith("| [")}
    assert cells["long"] == "Accuracy fell; so did ECE. …"
    assert cells["short"] == "Nothing changed."
    assert cells["clauses"].endswith("; b; …")
    assert len(cells["clauses"]) <= 502


def test_a_study_of_other_data_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    store, folder = Store(run, "read"), tmp_path / "digits-separation"
    refuse_other(folder, store)
    folder.mkdir()
    facts = {"study": "separation", "task": "digits", "splits": store.provenance()["splits"]}
    (folder / "study.json").write_text(json.dumps(facts))
    refuse_other(folder, store)
    for change in ({"study": "tune"}, {"task": "folder"}, {"splits": [{"digest": "sha256:0"}]}):
        (folder / "study.json").write_text(json.dumps(facts | change))
        with pytest.raises(UserError, match="give name="):
            refuse_other(folder, store)


def test_smoke_runs_stay_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic.make(tmp_path / "run", *WORDS, "limit=200")
    assert cli.main(["publish", str(tmp_path / "run"), f"to={tmp_path / 'reports'}"]) == 2
    assert "smoke run" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
    assert not (tmp_path / "run" / "report").exists()


def shown_as_a_check_of_the_path(to: Path) -> None:
    """What is said of a smoke run."""
    assert {path.name for path in (to / "checked").iterdir()} == {"README.md", "report.html", "study.json"}
    for page in (to / "README.md", to / "checked" / "README.md"):
        assert "A path check and nothing else" in page.read_text()
        assert "at most 200 examples" in page.read_text()
    assert "log loss" not in (to / "checked" / "README.md").read_text()


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "into=b"], ["a", "name=../b"], ["a", "check=maybe"]])
def test_bad_words_are_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", *words]) == 2
    assert "error:" in capsys.readouterr().err
