"""Weights & Biases offline, read back from its files; and that it can neither be needed nor fail a run."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import make
from wandb_reader import read, records, table

from calib_bench import registry
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import Analysis
from calib_bench.execute import fork_server
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.planning.search import shortened
from calib_bench.planning.tuning import templates, trial_at
from calib_bench.report.build import build
from calib_bench.store.store import Store
from calib_bench.tracking import analysis_export, content, names, scratch
from calib_bench.tracking.client import WHERE, Ledger, turn
from calib_bench.tracking.tables import ROWS, parts
from calib_bench.tracking.tracker import Tracker

WORDS = ("beta=0.1,1", "objective=cross_entropy", "seed=0,1", "lr=0.05,0.1,0.2", "calibrator=temperature_scaling")
WORDS += ("wandb_runs=selected",)
Run = tuple[Store, Settings, Analysis]


def analysed(store: Store, settings: Settings) -> Analysis:
    study = registry.study("separation")
    analysis = study.analyse(settings, store)
    build(store, replace(study, figures={"over_beta": study.figures["over_beta"]}), settings, analysis)
    return analysis


def log(store: Store, settings: Settings, analysis: Analysis | None, **update: Any) -> tuple[int, list[str]]:
    """How many runs a job's tracker logs, and its warnings."""
    warnings: list[str] = []
    with Tracker(store, settings.model_copy(update=update), warnings.append) as tracker:
        tracker.trained()
        return tracker.finish(analysis), warnings


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store, settings = make(tmp_path_factory.mktemp("wandb") / "run", *WORDS)
    analysis = analysed(store, settings)
    assert log(store, settings, analysis) == (len(chosen(store, settings, analysis)) + 3, [])
    return store, settings, analysis


@pytest.fixture(scope="module")
def runs(logged: Run) -> dict[str, dict[str, Any]]:
    return read(logged[0].path)


def chosen(store: Store, settings: Settings, analysis: Analysis) -> dict[str, Any]:
    """Trials at chosen rates, controls included, by run id."""
    arms: Any = analysis.result.arms
    trials = {trial.key: trial for arm in arms for trial in arm.trials.values()}
    return {names.trial_id(settings, store.record(trial)): trial for trial in trials.values()}


@pytest.mark.slow
def test_each_chosen_trial_is_a_run_with_its_config_history_and_summary(
    logged: Run, runs: dict[str, dict[str, Any]]
) -> None:
    store, settings, analysis = logged
    measured: Any = analysis.result.measurements
    found = chosen(store, settings, analysis)
    assert {run_id for run_id, run in runs.items() if "key" in run["config"]} == set(found)
    for run_id, trial in found.items():
        run, record = runs[run_id], store.record(trial)
        naming = (run["project"], run["group"], run["job_type"])
        control = trial.epochs not in (settings.spaces or {})[trial.model]["epochs"]
        role = ("separation-digits-positive-control", "positive-control") if control else ("separation-digits", "train")
        assert naming == ("calib_bench", *role)
        assert f"beta={trial.beta:g}" in run["name"]
        assert f"seed={trial.seed}" in run["name"]
        config = {k: v for k, v in run["config"].items() if k != "_wandb"}
        assert config == content.plain(content.config(store, settings, [trial]))
        assert {k: config[k] for k in trial.canonical()} == trial.canonical()
        assert (config["data"], config["environment"]) == (record.data, content.plain(record.environment))
        rows = run["history"][:-1]
        assert rows == store.history(trial).to_dict("records")
        assert run["metrics"] == {"epoch": "", **{name: "epoch" for name in rows[0] if name != "epoch"}}
        assert run["summary"]["status"] == "done"
        assert run["summary"]["selection/log_loss"] == record.metadata["selection"]["log_loss"]
        for row in measured[measured.key == trial.key].to_dict("records"):
            for metric in ("log_loss", "accuracy", "ece", "brier", "aurc"):
                assert run["summary"][f"{row['method']}/{metric}"] == pytest.approx(row[metric], abs=1e-12)


def test_a_trials_reliability_bins_are_a_table(logged: Run, runs: dict[str, dict[str, Any]]) -> None:
    store, settings, analysis = logged
    for run_id, trial in chosen(store, settings, analysis).items():
        found = table(runs[run_id], "reliability")
        assert found["columns"] == ["method", "bin", "count", "confidence", "accuracy"]
        n = len(store.labels(trial)["test"])
        for method in ("raw", "temperature_scaling"):
            rows = [row for row in found["data"] if row[0] == method]
            assert sum(row[2] for row in rows) == n
            hit = sum(row[2] * row[4] for row in rows) / n
            assert hit == pytest.approx(runs[run_id]["summary"][f"{method}/accuracy"])


def test_artifacts_tie_trials_to_the_calibration_and_that_to_the_analysis(
    logged: Run, runs: dict[str, dict[str, Any]]
) -> None:
    store, settings, analysis = logged
    found = chosen(store, settings, analysis)
    made = {item["digest"]: item for run_id in found for item in runs[run_id]["made"] if item["type"] == "logits"}
    assert len(made) == len(found)
    assert all({"logits.safetensors", "labels.safetensors", "trial.json"} == set(m["files"]) for m in made.values())
    (calibration,) = [run for run in runs.values() if run["job_type"] == "calibrate"]
    (analysis_run,) = [run for run in runs.values() if run["job_type"] == "analyse"]
    assert {item["digest"] for item in calibration["used"]} == set(made)
    (output,) = [item for item in calibration["made"] if item["type"] == "calibration"]
    assert [(item["name"], item["digest"]) for item in analysis_run["used"]] == [(output["name"], output["digest"])]
    (report,) = [item for item in analysis_run["made"] if item["type"] == "report"]
    assert {"report.html", "figures/over_beta.png", "tables/separation.csv"} <= set(report["files"])


def test_all_rates_are_rows_and_histories_of_one_run(logged: Run, runs: dict[str, dict[str, Any]]) -> None:
    store, settings, _ = logged
    (run,) = [run for run in runs.values() if run["name"] == "all rates"]
    plan = registry.study("separation").plan(settings, store.scores(settings.select))
    rows = table(run, "trials")
    by_key = {row[0]: dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]}
    assert set(by_key) == {trial.key for trial in plan}
    assert len({row["lr"] for row in by_key.values()}) >= 3
    for trial in plan:
        assert by_key[trial.key]["selection_score"] == pytest.approx(store.scores("log_loss")(trial))
    histories = table(run, "histories")
    assert len(histories["data"]) == sum(len(store.history(trial)) for trial in plan)


def test_the_calibration_has_every_method_and_the_analysis_every_table_and_figure(
    logged: Run, runs: dict[str, dict[str, Any]]
) -> None:
    _, _, analysis = logged
    (calibration,) = [run for run in runs.values() if run["job_type"] == "calibrate"]
    assert len(table(calibration, "measurements")["data"]) == len(analysis.result.measurements)  # type: ignore[arg-type]
    (run,) = [run for run in runs.values() if run["job_type"] == "analyse"]
    for name, own in analysis.tables.items():
        found = table(run, f"tables/{name}")
        assert found["columns"] == [str(c) for c in own.frame.columns]
        assert len(found["data"]) == len(own.frame)
        assert run["config"]["tables"][name] == {"title": own.title, "note": own.note}
    assert "figures/over_beta/path" in run["history"][-1]
    assert run["summary"]["verdict"] == list(analysis.verdict)
    assert run["summary"]["warnings"] == list(analysis.warnings)


def test_logging_again_logs_nothing_and_what_is_new_only(logged: Run) -> None:
    store, settings, analysis = logged
    before = read(store.path)
    assert log(store, settings, analysis) == (0, [])
    assert read(store.path).keys() == before.keys()
    tried = {t.key for t in registry.study("separation").plan(settings, store.scores(settings.select))}
    count, warnings = log(store, settings, None, wandb_runs="all")
    assert (count, warnings) == (len(tried) - len(chosen(store, settings, analysis)), [])
    keys = {run["config"].get("key") for run in read(store.path).values()} - {None}
    assert keys == tried


def test_an_arm_is_a_run_by_default_with_its_seeds_means_and_histories(logged: Run, tmp_path: Path) -> None:
    store, settings, analysis = logged
    folder = tmp_path / "run"
    shutil.copytree(store.path, folder, ignore=shutil.ignore_patterns("wandb"))
    store = Store(folder, "write")
    assert resolve(parse(["task=digits"])).wandb_runs == "arms"
    arms = names.arms(chosen(store, settings, analysis).values())
    assert {len(arm) for arm in arms} == {2}
    assert log(store, settings, analysis, wandb_runs="arms") == (len(arms) + 3, [])
    assert log(store, settings, analysis, wandb_runs="arms") == (0, [])
    runs = read(folder)
    assert len({run["name"] for run in runs.values()}) == len(runs)
    measured: Any = analysis.result.measurements
    for arm in arms:
        run = runs[names.run_id(settings, [store.record(trial) for trial in arm])]
        assert (run["job_type"], run["config"]["seed"]) == (names.role(settings, arm[0]), [0, 1])
        assert run["config"]["key"] == [trial.key for trial in arm]
        assert run["config"]["beta"] == arm[0].beta
        frames = [store.history(trial) for trial in arm]
        rows = run["history"][:-1]
        assert [row["train_loss"] for row in rows] == pytest.approx(sum(frame["train_loss"] for frame in frames) / 2)
        histories = table(run, "histories")
        place = histories["columns"].index("train_loss")
        assert [row[place] for row in histories["data"]] == pytest.approx(pd.concat(frames)["train_loss"].tolist())
        mine = measured[measured.key.isin([trial.key for trial in arm])].groupby("method")
        for method, log_loss in mine["log_loss"].mean().items():
            assert run["summary"][f"{method}/log_loss"] == pytest.approx(log_loss, abs=1e-12)
        assert sum(row[2] for row in table(run, "reliability")["data"]) == 2 * 2 * len(store.labels(arm[0])["test"])
        (made,) = [item for item in run["made"] if item["type"] == "logits"]
        files = {f"{trial.key}/{name}" for trial in arm for name in content.ARTIFACT}
        assert set(made["files"]) == {"labels.safetensors", *files}


def artifact_files(folder: Path) -> dict[Path, str]:
    """What the artifacts of offline runs call their files, and the MD5 that they should have."""
    return {
        Path(entry.local_path): entry.digest
        for path in folder.glob("wandb/offline-run-*/*.wandb")
        for record in records(path)
        if record.WhichOneof("record_type") == "artifact"
        for entry in record.artifact.manifest.contents
    }


def test_the_offline_folder_names_files_as_seen_from_the_run_and_keeps_no_logs(logged: Run) -> None:
    folder = logged[0].path
    paths = artifact_files(folder)
    assert len(paths) > 20
    assert not [path for path in paths if path.is_absolute()]
    for path, digest in paths.items():
        content = (folder / path).read_bytes()
        assert base64.b64encode(hashlib.md5(content).digest()).decode() == digest, path
    assert not list((folder / "wandb").rglob("debug*"))


def test_each_table_is_one_file_which_its_history_and_its_artifact_name(logged: Run) -> None:
    folder = logged[0].path
    runs = read(folder)
    files = {path.relative_to(folder) for path in (folder / "wandb").rglob("*.table.json")}
    assert len(files) > 10
    assert files == {path for path in artifact_files(folder) if path.name.endswith(".table.json")}
    named = [Path(run["folder"], "files", value) for run in runs.values() for value in media(run["history"])]
    assert {path.relative_to(folder) for path in named if path.name.endswith(".table.json")} == files
    assert {path.name for path in (folder / "wandb").iterdir() if path.is_dir() and not path.is_symlink()} == {
        "analysis", *(run["folder"].name for run in runs.values())
    }  # fmt: skip


def media(history: list[dict[str, Any]]) -> list[str]:
    """The files that rows name."""
    flat = [entry for row in history for entry in row.items()]
    whole = [value["path"] for _, value in flat if isinstance(value, dict) and "path" in value]
    return whole + [value for name, value in flat if name.endswith("/path") and "artifact" not in name]


def test_trials_that_lie_in_archives_are_one_artifact_of_the_stores_own_files(logged: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(logged[0].path, folder, ignore=shutil.ignore_patterns("wandb"))
    store = Store(folder)
    assert store.upgrade()[1] == []
    log(store, logged[1], logged[2], wandb_runs="arms")
    runs = {run["name"]: run for run in read(folder).values()}
    (made,) = [item for item in runs["all rates"]["made"] if item["type"] == "logits"]
    archives = {path.name for path in (folder / "trials").iterdir()}
    assert set(made["files"]) == archives | {"labels.safetensors"}
    assert made["digest"] in {item["digest"] for item in runs["calibration"]["used"]}
    assert {Path("trials", name) for name in archives} <= artifact_files(folder).keys()
    assert not [
        item for run in runs.values() if "key" in run["config"] for item in run["made"] if item["type"] == "logits"
    ]
    assert not list((folder / "wandb").rglob("*.safetensors"))


def test_tables_that_the_report_has_are_not_handed_over_twice(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    analysis = analysed(store, settings)
    analysis_export.write(store, settings, analysis)
    assert not (store.path / "wandb" / "analysis" / "tables").exists()
    handed = analysis_export.read(store)
    assert handed is not None
    assert handed.tables.keys() == analysis.tables.keys()
    name = next(iter(analysis.tables))
    table = store.path / "report" / "tables" / f"{name}.csv"
    table.write_text(table.read_text() + "\n")
    assert not analysis_export.is_current(store), "the report is another one by now"
    analysis_export.write(store, settings, analysis)
    assert [path.stem for path in (store.path / "wandb" / "analysis" / "tables").iterdir()] == [name]
    assert analysis_export.is_current(store)


def test_controls_stand_apart_and_no_two_runs_share_a_name(logged: Run) -> None:
    store, settings, _ = logged
    log(store, settings, None, wandb_runs="all")
    found = {run_id: run for run_id, run in read(store.path).items() if "key" in run["config"]}
    named = [run["name"] for run in found.values()]
    assert len(set(named)) == len(named)
    (full,) = {epochs for space in (settings.spaces or {}).values() for epochs in space["epochs"]}
    short = [run for run in found.values() if run["config"]["epochs"] < full]
    assert {(run["job_type"], run["group"], *run["tags"]) for run in short} == {
        ("positive-control", "separation-digits-positive-control", "positive-control")
    }
    assert all(f"epochs={run['config']['epochs']}" in run["name"] for run in short)
    rest = [run for run in found.values() if run["config"]["epochs"] == full]
    assert {(run["job_type"], run["group"], *run["tags"]) for run in rest} == {("train", "separation-digits")}


def test_names_tell_every_setting_that_varies() -> None:
    words = ["task=digits", "lr=0.1,0.100001", "batch=30,60", "eps_scale=none", "momentum=0,0.9", "epochs=8"]
    settings = resolve(parse([*words, "beta=1", "objective=cross_entropy"]))
    trials = [
        trial_at(settings, t, rate, seed) for t in templates(settings) for rate in (0.1, 0.100001) for seed in (0, 1)
    ]
    trials += [shortened(trial, 1) for trial in trials]
    trials += [trials[0].model_copy(update={"switch_from": 3.0, "switch_at": at}) for at in (0.1, 0.5)]
    assert len({names.title(settings, trial) for trial in trials}) == len(trials) == 34
    assert {names.role(settings, trial) for trial in trials[:16]} == {"train"}
    assert {names.role(settings, trial) for trial in trials[16:32]} == {"positive-control"}
    tune = resolve(parse(["task=digits", "study=tune", "epochs=9", "beta=0.1,1"]))
    template = next(iter(templates(tune)))
    roles = {epochs: names.role(tune, shortened(template, epochs)) for epochs in (1, 2, 3, 9)}
    assert roles == {1: "positive-control", 2: "positive-control", 3: "train", 9: "train"}


def test_times_of_fits_are_no_news(logged: Run) -> None:
    """A study that is analysed again has other times, and nothing else."""
    store, settings, analysis = logged
    analysis_export.write(store, settings, analysis)
    path = store.path / "wandb" / "analysis" / "measurements.csv"
    frame = pd.read_csv(path)
    frame["fit_seconds"] = frame["fit_seconds"].fillna(0) + 1.5
    before = read(store.path).keys()
    changed = replace(analysis, result=replace(analysis.result, measurements=frame))
    assert log(store, settings, changed) == (0, [])
    assert read(store.path).keys() == before
    frame.loc[0, "log_loss"] += 1
    with Tracker(store, settings, lambda said: None) as tracker:
        assert tracker.finish(replace(analysis, result=replace(analysis.result, measurements=frame))) == 1


def test_wandb_leaves_nothing_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    analysis = registry.study("separation").analyse(settings, store)
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    fork_server.start()  # whose socket is in the temporary directory of the first who needs it
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(home))
    count, warnings = log(store, settings, analysis)
    assert count > 3
    assert warnings == []
    assert list(temporary.iterdir()) == []
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os; from calib_bench.tracking.scratch import Scratch; Scratch.make(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "other").mkdir()
    first = scratch.Scratch.make()
    second = scratch.Scratch.make()
    assert {path.name for path in tmp_path.iterdir()} == {"other", first.folder.name, second.folder.name}
    (second.folder / "table").mkdir()
    first.remove()
    second.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    scratch.discard(tmp_path / "other")
    assert (tmp_path / "other").exists()


def test_ids_tell_data_studies_and_questions_apart(logged: Run) -> None:
    store, settings, analysis = logged
    (run_id, trial), *_ = chosen(store, settings, analysis).items()
    record = store.record(trial)
    other = replace(record, data={**record.data, "digest": "another"})
    ids = {run_id, names.trial_id(settings, other), names.trial_id(settings.model_copy(update={"study": "x"}), record)}
    assert len(ids) == 3
    moved = settings.model_copy(update={"out": Path("elsewhere"), "workers": 7, "wandb": "online"})
    asked = settings.model_copy(update={"seed": (5,)})
    page = names.page_id(settings, ["d"], "analysis")
    assert names.page_id(moved, ["d"], "analysis") == page
    assert page not in (names.page_id(asked, ["d"], "analysis"), names.page_id(settings, ["e"], "analysis"))
    assert all(len(i) <= 64 and not set(i) & set("/\\#?%:") for i in (*ids, page))


def test_only_what_is_known_to_be_chosen_is_logged_during_training(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS)
    study = registry.study("separation")
    found = content.selected(study, settings, store)
    arms = tuning.arms(settings, store.scores(settings.select))
    assert {t.key for t in found} == {t.key for arm in arms for t in arm.trials.values()}
    (victim,) = [t for t in found if t.seed == 1 and t.beta == 1]
    store.folder(victim).rename(tmp_path / "gone")
    assert content.selected(study, settings, Store(store.path, "read")) == []
    fixed = settings.model_copy(
        update={"spaces": {m: {**space, "lr": (0.1,)} for m, space in (settings.spaces or {}).items()}}
    )
    alone = content.selected(study, fixed, Store(store.path, "read"))
    assert {(t.beta, t.seed) for t in alone if t.epochs == found[0].epochs} == {(0.1, 0), (0.1, 1), (1.0, 0)}


def test_long_tables_are_logged_in_parts() -> None:
    frame = pd.DataFrame({"x": range(2 * ROWS + 1)})
    found = parts("trials", frame)
    assert [len(part) for part in found.values()] == [ROWS, ROWS, 1]
    assert list(found) == ["trials", "trials-2", "trials-3"]
    assert pd.concat(found.values()).equals(frame)


def test_what_goes_wrong_is_one_warning(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    analysis = registry.study("separation").analyse(settings, store)
    (store.path / "wandb").write_text("a file where the folder should be")
    count, warnings = log(store, settings, analysis)
    assert count == 0
    assert len(warnings) == 1
    assert "are whole" in warnings[0]
    assert "sync" in warnings[0]


def test_a_logger_that_dies_costs_no_result_and_is_one_warning(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    warnings: list[str] = []
    with Tracker(store, settings, warnings.append) as tracker:
        assert tracker.process is not None
        tracker.process.kill()
        deadline = time.monotonic() + 30
        while not tracker.over.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert tracker.finish(None) == 0
    assert len(warnings) == 1
    assert "ended early" in warnings[0]


def test_a_job_that_stops_early_takes_its_logger_along(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    warnings: list[str] = []

    def job() -> None:
        raise KeyboardInterrupt

    tracker = Tracker(store, settings, warnings.append)
    with pytest.raises(KeyboardInterrupt), tracker:
        job()
    process = tracker.process
    assert process is not None
    assert process.exitcode is not None
    assert warnings == []


def test_what_is_handed_over_is_of_the_trials_that_are_stored(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")
    assert not analysis_export.is_current(store)
    analysis_export.write(store, settings, registry.study("separation").analyse(settings, store))
    assert analysis_export.is_current(store)
    next((store.path / "trials").iterdir()).rename(tmp_path / "gone")
    assert not analysis_export.is_current(store)


def test_disabled_starts_nothing_and_imports_nothing() -> None:
    program = (
        "import sys; from calib_bench.core.settings import UserSettings\n"
        "from calib_bench.tracking.tracker import Tracker\n"
        "with Tracker(None, UserSettings(wandb='disabled'), None) as t: t.trained(); assert t.finish(None) == 0\n"
        "assert t.process is None and 'wandb' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_online_is_known_of_each_project_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in WHERE:
        monkeypatch.delenv(variable, raising=False)
    Ledger(tmp_path, "online").add("run", "content")
    Ledger(tmp_path, "offline").add("run", "content")
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    assert not Ledger(tmp_path, "online").has("run", "content")
    assert Ledger(tmp_path, "offline").has("run", "content")
    monkeypatch.delenv("WANDB_PROJECT")
    assert Ledger(tmp_path, "online").has("run", "content")


def test_one_process_logs_a_store_at_a_time(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from calib_bench.tracking.client import turn\n"
    code += "with turn(Path(sys.argv[1])) as mine: print(mine)"

    def elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True).stdout.strip()

    with turn(tmp_path) as mine:
        assert (mine, elsewhere()) == (True, "False")
    assert elsewhere() == "True"
    with turn(tmp_path) as mine:
        assert mine
