"""Weights & Biases offline, read back from its files; and that it can neither be needed nor fail a run."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import make

from calib_bench import discover, tuning
from calib_bench.report import build
from calib_bench.report.wandb import log
from calib_bench.settings import Settings
from calib_bench.store import Store
from calib_bench.study import Analysis

BLOCK, HEADER = 32768, struct.Struct("<IHB")


def records(path: Path) -> list[Any]:
    """Every record of a .wandb file: LevelDB-style blocks, (checksum, length, type) before each part of a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, pending, at = path.read_bytes(), [], b"", 7
    assert data[:4] == b":W&B"
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        pending += data[at : at + length]
        at += length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(pending)
            found.append(record)
            pending = b""
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Config, history, summary and naming of every offline run in a run folder, by run id."""
    runs: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": {}}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {"id": record.run.run_id, "project": record.run.project, "group": record.run.run_group}
                run["config"] |= values(record.run.config.update)
            elif kind == "history":
                run["history"].append(values(record.history.item))
            elif kind == "summary":
                run["summary"] |= values(record.summary.update)
            elif kind == "metric":
                run["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        runs[run["id"]] = run
    return runs


Run = tuple[Store, Settings, Analysis]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0", "lr=0.05,0.1,0.2", "calibrator=temperature_scaling")
    store, settings = make(tmp_path_factory.mktemp("wandb") / "run", *words)
    study = discover.study("separation")
    analysis = study.analyse(settings, store)
    build(store, replace(study, figures={"over_beta": study.figures["over_beta"]}), settings, analysis)
    assert log(store, settings, analysis, "offline") == 5
    return store, settings, analysis


@pytest.fixture(scope="module")
def runs(logged: Run) -> dict[str, dict[str, Any]]:
    return read(logged[0].path)


def test_each_chosen_trial_is_a_run_with_its_config_history_and_summary(
    logged: Run, runs: dict[str, dict[str, Any]]
) -> None:
    store, settings, analysis = logged
    arms = tuning.arms(settings, store.scores(settings.select))
    measured = analysis.data["measurements"]
    for arm in arms:
        (trial,) = arm.trials.values()
        run = runs[trial.key]
        assert (run["project"], run["group"]) == ("calib_bench", "separation-digits")
        assert {k: run["config"][k] for k in trial.canonical()} == trial.canonical()
        rows = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run["history"]]
        assert rows == store.history(trial).to_dict("records")
        assert run["metrics"]["*"] == "epoch"
        row = measured[(measured.key == trial.key) & (measured.method == "temperature_scaling")].iloc[0]
        assert run["summary"]["temperature_scaling/log_loss"] == pytest.approx(row["log_loss"])
        assert run["summary"]["temperature_scaling/kappa"] == pytest.approx(row["kappa"])
        assert run["summary"]["status"] == "done"


def test_all_rates_are_one_table_and_the_analysis_one_run(logged: Run, runs: dict[str, dict[str, Any]]) -> None:
    assert len(runs) == 5
    tuned, analysed = runs["digits-separation-tuning"], runs["digits-separation-analysis"]
    assert tuned["history"][-1]["rates/nrows"] == len(logged[2].tables["rates"].frame)
    last = {key.removesuffix("/_type") for key in analysed["history"][-1]}
    assert {"separation", "baselines", "trials"} <= last
    assert "figures/over_beta" in last
    assert analysed["summary"]["verdict"] == list(logged[2].verdict)


def test_logging_again_logs_nothing(logged: Run) -> None:
    store, settings, analysis = logged
    before = len(read(store.path))
    assert log(store, settings, analysis, "offline") == 0
    assert len(read(store.path)) == before


def test_what_goes_wrong_is_one_warning(tmp_path: Path) -> None:
    words = ("beta=1", "objective=cross_entropy", "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    store, settings = make(tmp_path / "run", *words)
    analysis = discover.study("separation").analyse(settings, store)
    (store.path / "wandb").write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="are whole") as caught:
        assert log(store, settings, analysis, "offline") == 0
    assert len(caught) == 1


def test_disabled_does_not_import_wandb() -> None:
    program = (
        "import sys, types; from calib_bench.report.wandb import log; "
        "assert log(None, None, None, 'disabled') == 0; assert 'wandb' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
