"""Sweeps: the file that W&B takes, and a point of it run as an agent runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from synthetic import sketched
from wandb_reader import read

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.commands.sweep import configuration
from calib_bench.core.settings import parse
from calib_bench.planning.defaults import resolve

WORDS = ["beta=0.1,1", "objective=cross_entropy,label_smoothing:0.1", "lr=0.1", "epochs=1", "seed=0,1"]


def written(words: list[str], tmp_path: Path) -> dict:
    assert main(["sweep", *words, f"out={tmp_path}"]) == 0
    (path,) = tmp_path.glob("*-sweep.yaml")
    return yaml.safe_load(path.read_text())


def command(content: dict, point: dict) -> list[str]:
    """The command line that W&B's own code makes of a sweep and a point."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    made = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    words: list[str] = []
    for word in create_sweep_command(list(content["command"])):
        words += made["args_no_hyphens"] if word == "${args_no_hyphens}" else [word]
    return [word for word in words if word != "${env}"]


def test_the_file_says_what_w_and_b_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = written(WORDS, tmp_path)
    assert "8 points" in capsys.readouterr().out
    assert content["method"] == "grid"
    assert content["project"] == "calib_bench"
    assert content["parameters"] == {
        "beta": {"values": [0.1, 1.0]},
        "objective": {"values": ["cross_entropy", "label_smoothing:0.1"]},
        "seed": {"values": [0, 1]},
    }
    assert set(content) <= {"name", "description", "project", "entity", "program", "method", "command", "parameters"}


def test_points_cover_the_grid() -> None:
    settings = parse([*WORDS, "interventions=no"])
    plan = registry.study("separation").plan
    whole = {t.key for t in plan(resolve(settings), lambda t: None)}
    content = configuration(settings)
    covered: set[str] = set()
    for beta in content["parameters"]["beta"]["values"]:
        for objective in content["parameters"]["objective"]["values"]:
            for seed in content["parameters"]["seed"]["values"]:
                line = command(content, {"beta": beta, "objective": objective, "seed": seed})
                assert line[:4] == ["python", "-m", "calib_bench", "run"]
                covered |= {t.key for t in plan(resolve(parse(line[4:])), lambda t: None)}
    assert whole <= covered


def test_what_is_tuned_together_is_not_shared_out(capsys: pytest.CaptureFixture[str]) -> None:
    tuned = configuration(parse(["beta=0.1,1", "seed=0,1", "lr=0.1,0.2", "objective=cross_entropy"]))
    assert set(tuned["parameters"]) == {"beta"}
    assert main(["sweep", "study=tune"]) == 2
    assert "nothing to share out" in capsys.readouterr().err
    assert main(["sweep", "bta=1"]) == 2
    assert "did you mean 'beta'" in capsys.readouterr().err


@pytest.mark.slow
@sketched("over_beta")
def test_an_agents_point_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "interventions=no", "model=mlp_16", "calibrator=temperature_scaling", "workers=1"]
    content = written(words, tmp_path)
    point = {"beta": 0.1, "objective": "cross_entropy", "seed": 1}
    line = command(content, point)
    assert line[:3] == ["python", "-m", "calib_bench"]
    monkeypatch.setenv("WANDB_RUN_ID", "point7")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep3")
    assert main(line[3:]) == 0
    runs = read(tmp_path / "digits-separation")
    assert runs["point7"]["job_type"] == "analyse"
    assert runs["point7"]["sweep"] == "sweep3"
    trials = [run for run in runs.values() if "key" in run["config"]]
    assert {run["sweep"] for run in trials} == {""}
    assert {run["config"]["seed"] for run in trials} == {1}
    assert 0.1 in {run["config"]["beta"] for run in trials}
    final = ["plan", *words, f"out={tmp_path}", "wandb=disabled", "beta=0.1", "objective=cross_entropy", "seed=1"]
    final = [word for word in final if word not in WORDS[:2] and word != "seed=0,1"]
    capsys.readouterr()
    assert main(final) == 0
    assert "0 to run" in capsys.readouterr().out
