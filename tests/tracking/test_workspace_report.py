"""The W&B Report: built and validated with no network at all, and published to a server of this machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from synthetic import make
from wandb_server import serving

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis
from calib_bench.store.store import Store
from calib_bench.tracking import workspace_report
from tests.tracking.test_wandb import WORDS

wr = pytest.importorskip("wandb_workspaces.reports.v2")
Run = tuple[Store, Settings, Analysis]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = [
        "objective=cross_entropy,label_smoothing:0.1",
        "wandb_wait=2",
        *(w for w in WORDS if not w.startswith("objective")),
    ]
    store, settings = make(tmp_path_factory.mktemp("report") / "run", *words)
    return store, settings, registry.study("separation").analyse(settings, store)


def text_of(block: dict) -> str:
    if "text" in block:
        return str(block["text"])
    return "".join(text_of(child) for child in block.get("children", ()))


def test_the_specification_holds_everything_and_needs_no_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store, settings, analysis = run

    def refuse(*_: object) -> None:
        raise AssertionError("a call was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    study = registry.study("separation")
    path = workspace_report.save(store.path, study, settings, analysis)
    assert path == store.path / "report" / "wandb-report.json"
    spec = json.loads(path.read_text())["spec"]
    blocks = spec["blocks"]
    headings = [text_of(b) for b in blocks if b["type"] == "heading"]
    assert headings[:1] == ["Verdict"]
    assert {"Over beta", "Training", "Figures", "Tables", "Provenance"} <= set(headings)
    assert {table.title for table in analysis.tables.values()} <= set(headings)
    prose = "".join(text_of(block) for block in blocks)
    assert all(sentence in prose for sentence in (*analysis.verdict, *analysis.warnings))
    over_beta, curves, figures = [b["metadata"] for b in blocks if b["type"] == "panel-grid"]
    for grid in (over_beta, curves):
        sets = {run_set["name"]: run_set["filters"]["filters"] for run_set in grid["runSets"]}
        assert set(sets) == {"cross_entropy", "label_smoothing:0.1"}
        for name, filters in sets.items():
            found = {(f["key"]["section"], f["key"]["name"]): f["value"] for f in filters}
            assert found["run", "group"] == "separation-digits"
            assert found["run", "jobType"] == "train"
            assert found["config", "objective"] == name
    panels = [p["config"] for p in over_beta["panelBankSectionConfig"]["panels"]]
    assert all(p["xAxis"] == "config:beta.value" and p["xAxisLogScale"] for p in panels)
    drawn = {p["yAxis"] for p in panels}
    assert {f"summary:{name}" for name in ("raw/log_loss", "temperature_scaling/log_loss")} <= drawn
    assert "summary:temperature_scaling/kappa" in drawn
    assert {p["config"]["metrics"][0] for p in curves["panelBankSectionConfig"]["panels"]} >= {"train_loss"}
    (media,) = figures["panelBankSectionConfig"]["panels"]
    there = [name for name, draw in study.figures.items() if draw(analysis) is not None]
    assert media["config"]["mediaKeys"] == [f"figures/{name}" for name in there]
    assert "interventions" not in there  # none was trained
    assert "over_beta" in there


def test_what_it_draws_is_what_is_logged(run: Run) -> None:
    from calib_bench.tracking import content

    store, _, analysis = run
    (arm, *_) = analysis.result.arms  # type: ignore[misc]
    summary, _ = content.summary(store, list(arm.trials.values()))
    for metric in workspace_report.OVER_BETA:
        assert {f"raw/{metric}", f"temperature_scaling/{metric}"} <= set(summary)
    assert "temperature_scaling/kappa" in summary


@pytest.mark.slow
@pytest.mark.usefixtures("unwritten")
def test_the_command_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = run[0]
    assert main(["report", str(store.path), "wandb=onlin"]) == 2
    assert "online" in capsys.readouterr().err
    with serving(0) as server:
        address = server.url
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("WANDB_ENTITY", "us")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["report", str(store.path), "wandb=online"]) == 2
    told = capsys.readouterr()
    assert "wandb-report.json" in told.out
    assert "was not published" in told.err
