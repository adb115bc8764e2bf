"""The online path to its end: the real wandb client, driven by this project, against the tests' own server.

`wandb_cloud.Cloud` stands for a W&B server; no real one was met. What is held here is what this project and the client
do: that everything arrives, once, whatever happened in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("graphql")

from faulty import stored
from synthetic import make, sketched
from wandb_cloud import Cloud, Run, cloud
from wandb_reader import read

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.store import planes
from calib_bench.store.places import Member
from calib_bench.store.store import Store
from calib_bench.tracking import analysis_export, workspace_report
from calib_bench.tracking.client import UploadError
from calib_bench.tracking.logging_process import Follower
from tests.tracking.test_wandb import analysed

FORMATS = ("png",)  # which are sent
ENTITY = "us"
DIGITS = ["task=digits", "model=mlp_16", "beta=0.3,1", "objective=cross_entropy", "lr=0.1", "epochs=3", "seed=0"]
DIGITS += ["interventions=no", "calibrator=temperature_scaling", "workers=1", "wandb_wait=120", "wandb_runs=selected"]
MADE = (
    "beta=0.1,1",
    "objective=cross_entropy",
    "seed=0",
    "lr=0.1",
    "calibrator=temperature_scaling",
    "wandb_runs=selected",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    import wandb

    wandb.teardown()  # a service that an earlier test of this process started knows another server
    home = tmp_path_factory.mktemp("home")
    with cloud() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WANDB_BASE_URL": found.url,
            "WANDB_API_KEY": "f" * 40,
            "WANDB_ENTITY": ENTITY,
            "HOME": str(home),
        }.items():
            patch.setenv(name, value)
        yield found
        wandb.teardown()


@pytest.fixture(autouse=True)
def well(server: Cloud) -> Iterator[None]:
    server.good = 1e9
    yield
    assert server.unanswered == []
    assert server.faults == []


# what arrived, in a form that can be compared


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Without what wandb adds of its own: times, and references that differ from one upload to the next."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if (name.startswith("_") and not prefix) or name.endswith("artifact_path"):
            continue
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def metrics(run: Run) -> dict[str, str]:
    """Each metric's step metric, as `define_metric` sends them: fields by number, a step metric by its place."""
    told = run.config["_wandb"]["value"].get("m", [])
    return {metric["1"]: told[metric["5"] - 1]["1"] if "5" in metric else "" for metric in told}


def left(server: Cloud, project: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs and artifacts of a project."""
    runs = {}
    for (_, place, name), run in server.kept.items():
        if place == project:
            media = {path: content for path, content in run.files.items() if path.startswith("media/")}
            runs[name] = {
                "about": [run.fields.get(key) for key in ("jobType", "groupName", "displayName", "sweep")],
                "config": run.values,
                "steps": [row["_step"] for row in run.history],
                "history": [flat(row) for row in run.history],
                "metrics": metrics(run),
                "summary": flat(run.summary),
                "media": media,
                "exit": run.exit_code,
            }
    artifacts = {}
    for artifact in server.artifacts:
        if artifact.key[1] == project and artifact.committed:
            named = [artifact.type, artifact.digest, artifact.aliases, sorted(artifact.made), sorted(artifact.used)]
            artifacts[f"{artifact.name}:v{artifact.version}"] = (*named, server.files_of(artifact))
    return runs, artifacts


def whole(runs: dict[str, Any]) -> None:
    """Each file that a history names is there, with the content that it names."""
    for run in runs.values():
        assert run["exit"] == 0
        assert run["steps"] == list(range(len(run["steps"])))
        named = {row[k]: row[k.replace("path", "sha256")] for row in run["history"] for k in row if k.endswith("/path")}
        assert {path: hashlib.sha256(content).hexdigest() for path, content in run["media"].items()} == named


def online(store: Store) -> list[str]:
    return logged(store, "online")


def logged(store: Store, mode: str, runs: str = "selected") -> list[str]:
    """Log a store as the process that logs does, in this process; returns the runs that were logged."""
    said: list[dict[str, Any]] = []
    words: queue.Queue[str] = queue.Queue()
    words.put("analysed")
    Follower(store.path, mode, runs, 30.0, words, lambda **fields: said.append(fields)).follow()
    return [fields["logged"] for fields in said if fields.get("logged")]


def forget(store: Store) -> None:
    for ledger in (store.path / "wandb").glob("logged-online*.json"):
        ledger.unlink()


# a real run, by the command line


@pytest.fixture(scope="module")
@sketched("over_beta")
def digits(server: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study of digits, logged online while it ran, into the project `calib_bench`."""
    out = tmp_path_factory.mktemp("digits")
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        assert main(["run", *DIGITS, f"out={out}", "wandb=online"]) == 0
    assert "Weights & Biases" not in said.getvalue()
    return out / "digits-separation"


@pytest.fixture(scope="module")
def copy(server: Cloud, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the study's folder that was never online, logged offline for the project `replayed`."""
    folder = tmp_path_factory.mktemp("copy") / digits.name
    shutil.copytree(digits, folder, ignore=shutil.ignore_patterns("run-*", "logged-online*.json", "latest-run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_PROJECT", "replayed")
        assert main(["sync", str(folder), "wandb=offline"]) == 0
    return folder


@pytest.mark.slow
def test_what_arrives_online_is_what_offline_writes(server: Cloud, digits: Path, copy: Path) -> None:
    runs, artifacts = left(server, "calib_bench")
    offline = read(copy)
    whole(runs)
    assert set(runs) == set(offline)
    assert {run["about"][0] for run in runs.values()} == {"train", "positive-control", "calibrate", "analyse"}
    for name, own in offline.items():
        run = runs[name]
        assert run["about"] == [own["job_type"], own["group"], own["name"], None]
        assert run["config"] == {k: v for k, v in own["config"].items() if k != "_wandb"}
        assert run["history"] == [flat(row) for row in own["history"]]
        assert run["metrics"] == own["metrics"]
        last = {key: value for row in run["history"] for key, value in row.items()}
        told = {key: value for key, value in (last | flat(own["summary"])).items() if value is not None}
        assert told.items() <= run["summary"].items()  # the client leaves out what is None
        made = {(a["name"], a["type"], a["digest"], tuple(sorted(a["files"]))) for a in own["made"]}
        arrived = {
            (n.rpartition(":")[0], a[0], a[1], tuple(sorted(a[5]))) for n, a in artifacts.items() if name in a[3]
        }
        assert arrived == made
        assert {a[1] for a in artifacts.values() if name in a[4]} == {a["digest"] for a in own["used"]}
    held = stored(digits)
    for name, run in runs.items():
        if "key" in run["config"]:
            files = held[run["config"]["key"]]
            place = Store(digits, "read").place(run["config"]["key"])
            if isinstance(place, Member):
                (sent_to,) = (a[5] for n, a in artifacts.items() if "-archives-" in n)
                with zipfile.ZipFile(io.BytesIO(sent_to[Path(place.archive).name])) as archive:
                    assert archive.read(f"{place.key}/logits.safetensors") == files["logits.safetensors"]
            else:
                assert artifacts[f"logits-{name}:v0"][5]["logits.safetensors"] == files["logits.safetensors"]
            epochs = pd.read_parquet(io.BytesIO(files["history.parquet"]))
            sent = [row["train_loss"] for row in run["history"] if "train_loss" in row]
            assert sent == list(epochs["train_loss"].dropna())


@pytest.mark.slow
def test_sync_again_after_a_run_online_changes_nothing(
    server: Cloud, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(server, "calib_bench")
    assert main(["sync", str(digits)]) == 0
    assert "0 runs logged online" in capsys.readouterr().out
    assert left(server, "calib_bench") == before
    store = Store(digits, "read")
    forget(store)  # another machine, or a copy of the folder
    assert set(online(store)) == set(before[0])
    assert left(server, "calib_bench") == before


@pytest.mark.slow
def test_offline_copies_of_what_is_online_are_left_out_of_wandb_sync(made: Made, server: Cloud, tmp_path: Path) -> None:
    """It appends: what the server has would be there twice."""
    store, expected = made
    folder = tmp_path / "run"
    shutil.copytree(store.path, folder, ignore=shutil.ignore_patterns("run-*", "latest-run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_PROJECT", "both")
        again = Store(folder, "read")
        logged(again, "offline")
        copies = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
        assert len(copies) == len(expected[0])
        assert not list((folder / "wandb").glob("offline-run-*/*.synced"))
        logged(again, "online")
    assert all(path.with_name(path.name + ".synced").exists() for path in copies)
    assert left(server, "both") == expected


@pytest.mark.slow
def test_an_offline_folder_that_was_moved_syncs_as_a_complete_project(
    server: Cloud, digits: Path, copy: Path, tmp_path: Path
) -> None:
    moved = copy.rename(tmp_path / "moved")
    folders = sorted(str(path.relative_to(moved)) for path in (moved / "wandb").glob("offline-run-*"))
    assert len(folders) == len(read(moved))
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--yes", "-n", "1", *folders],
        capture_output=True,
        text=True,
        check=False,
        cwd=moved,
        env={k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"},  # this process's, which looks elsewhere
    )
    moved.rename(copy)
    assert done.returncode == 0, done.stderr
    runs, artifacts = left(server, "replayed")
    expected_runs, expected_artifacts = left(server, "calib_bench")
    whole(runs)
    assert runs == expected_runs
    for name, artifact in expected_artifacts.items():
        assert artifacts[name] == artifact, name
    assert set(artifacts) == set(expected_artifacts)


@pytest.mark.slow
@sketched("over_beta")
def test_a_report_is_published_once_and_then_updated(
    server: Cloud, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces")
    for updates in (0, 1):
        assert main(["report", str(digits), "wandb=online"]) == 0
        (view,) = server.views.values()
        assert view["id"].rstrip("=") in capsys.readouterr().out.replace("\n", "")
        assert view["updates"] == updates
    kept = json.loads((digits / "report" / "wandb-report.json").read_text())
    sent = json.loads(view["spec"])
    assert [block["type"] for block in sent["blocks"]] == [block["type"] for block in kept["spec"]["blocks"]]
    assert (view["displayName"], view["projectName"]) == ("separation of digits", "calib_bench")


@pytest.mark.slow
def test_a_report_that_was_deleted_there_is_published_anew(server: Cloud, tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    store, settings = make(tmp_path / "run", *MADE)
    study = registry.study(settings.study)
    server.on_upsertModel({"entityName": ENTITY, "name": "calib_bench"})
    analysis = study.analyse(settings, store)
    server.views.clear()
    for _ in range(2):
        workspace_report.publish(store.path, study, settings, analysis)
        server.views.clear()
    workspace_report.publish(store.path, study, settings, analysis)
    workspace_report.publish(store.path, study, settings, analysis)
    assert [view["updates"] for view in server.views.values()] == [1]


# a server that fails half-way

Made = tuple[Store, tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def made(server: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A store, and what it leaves where nothing goes wrong."""
    store, settings = make(tmp_path_factory.mktemp("made") / "run", *MADE)
    analysis_export.write(store, settings, analysed(store, settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_PROJECT", "unbroken")
        online(store)
    forget(store)
    found = left(server, "unbroken")
    whole(found[0])
    return store, found


def settled(server: Cloud, made: Made, project: str) -> None:
    """Log on, and hold what is there against what it should be."""
    store, expected = made
    server.good = 1e9
    online(store)
    forget(store)
    assert left(server, project) == expected


@pytest.mark.slow
def test_arms_arrive_as_runs(server: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *MADE[:2], "seed=0,1", *MADE[3:])
    analysis_export.write(store, settings, analysed(store, settings))
    monkeypatch.setenv("WANDB_PROJECT", "arms")
    sent = logged(store, "online", "arms")
    runs, artifacts = left(server, "arms")
    whole(runs)
    assert set(runs) == set(sent)
    arms = {name: run for name, run in runs.items() if name.startswith("arm-")}
    assert {(run["config"]["beta"], tuple(run["config"]["seed"])) for run in arms.values()} == {
        (0.1, (0, 1)), (1.0, (0, 1))
    }  # fmt: skip
    for name, run in arms.items():
        found = artifacts[f"logits-{name}:v0"]
        for key in run["config"]["key"]:
            assert json.loads(found[5][f"{key}/trial.json"])["key"] == key
            sent_logits = planes.load(found[5][f"{key}/logits.safetensors"])
            for split, z_NK in store.logits(store.trial(key)).items():
                assert (sent_logits[split] == z_NK).all()
    assert logged(store, "online", "arms") == []
    forget(store)
    logged(store, "online", "arms")
    assert left(server, "arms") == (runs, artifacts)


@pytest.mark.slow
@pytest.mark.parametrize("lines", [2])
def test_a_run_that_is_cut_in_its_history_is_completed(
    server: Cloud, made: Made, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    store, expected = made
    project = f"cut-{lines}"
    monkeypatch.setenv("WANDB_PROJECT", project)
    victim = next(name for name, run in expected[0].items() if "key" in run["config"])
    server.cut[victim] = lines
    with pytest.raises(UploadError):
        online(store)
    assert len(server.kept[ENTITY, project, victim].history) == lines
    settled(server, made, project)


@pytest.mark.slow
def test_a_page_whose_content_changes_has_another_row_and_version(
    server: Cloud, made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store, expected = made
    monkeypatch.setenv("WANDB_PROJECT", "growing")
    key = next(run["config"]["key"] for run in expected[0].values() if "key" in run["config"])
    (store.path / "trials" / key).rename(tmp_path / key)
    online(store)
    (tmp_path / key).rename(store.path / "trials" / key)
    online(store)
    forget(store)
    runs, artifacts = left(server, "growing")
    whole(runs)
    page = next(name for name, run in runs.items() if run["about"][2] == "all rates")
    rows = [json.loads(runs[page]["media"][row["trials/path"]])["data"] for row in runs[page]["history"]]
    assert [len(data) for data in rows] == sorted({len(data) for data in rows})
    assert len(rows) == 2
    assert {f"run-{page}-trials:v0", f"run-{page}-trials:v1"} <= set(artifacts)
    trials = {name: run for name, run in runs.items() if "key" in run["config"]}
    assert trials == {name: run for name, run in expected[0].items() if "key" in run["config"]}
