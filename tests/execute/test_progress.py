"""What users and machines see while trials train: JSON lines of a stable schema, bars on a terminal, else nothing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
from forked import Run, call, command

from calib_bench.core.settings import parse
from calib_bench.execute import heartbeat, worker
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import templates
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.train import callbacks
from tests.commands.test_run import TINY

WORDS = ["run", *TINY, "calibrator=temperature_scaling", "wandb=disabled", "objective=cross_entropy", "workers=2"]
STATE = {"round", "done", "running", "left", "failed", "rate", "seconds_left", "loss", "epoch"}


def trial():
    return next(templates(resolve(parse(["task=digits", "beta=1", "objective=cross_entropy"]))))


@pytest.mark.slow
def test_a_run_as_json_lines(tmp_path: Path) -> None:
    words = [
        *(w for w in WORDS if not w.startswith(("epochs", "seed"))),
        "epochs=40",
        "stack=2",
        "seed=0",
        f"out={tmp_path}",
    ]
    done = call(*words, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "start"
    assert names[-2:] == ["trained", "analysed"]
    assert {"round", "progress"} <= set(names)
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times)
    assert all(time.tzinfo is not None for time in times)
    states = [event for event in events if event["event"] in ("round", "progress")]
    assert all(set(event) == STATE | {"event", "time"} for event in states)
    assert states[0]["done"] == 0
    for event in states:
        assert event["left"] >= event["running"] >= 0
    assert states[-1]["left"] == 0
    assert states[-1]["done"] == len(Store(tmp_path / "digits-separation", "read").stored_keys())
    assert events[-2]["trained"] == states[-1]["done"]
    assert Path(events[-1]["report"]).is_file()
    assert "trained" in done.stderr
    assert list((tmp_path / "digits-separation" / "live").iterdir()) == []


@pytest.mark.slow
def test_bars_on_a_terminal(tmp_path: Path) -> None:
    main, side = pty.openpty()
    words = [*(w for w in WORDS if not w.startswith(("beta", "workers"))), "beta=1", "workers=1", f"out={tmp_path}"]
    process = Run(command, *words, stdout=side, COLUMNS="160")
    os.close(side)
    text = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        text += piece
    os.close(main)
    assert process.wait() == 0
    shown = text.decode()
    assert "training, round 1" in shown
    assert "running" in shown
    assert "left" in shown


def test_signs_tell_what_trains_now(tmp_path: Path) -> None:
    one = trial()
    trials = [one.model_copy(update={"seed": seed}) for seed in range(3)]
    with heartbeat.given(tmp_path, "a", trials):
        assert heartbeat.read(tmp_path) == heartbeat.Now(3, None, None)
        nan = float("nan")
        callbacks.tell(trials, {"epoch": torch.tensor([2, 2, 2]), "train_loss": torch.tensor([1.0, 3.0, nan])})
        with heartbeat.given(tmp_path, "b", trials[:1]):
            assert heartbeat.read(tmp_path).running == 4
        assert heartbeat.read(tmp_path) == heartbeat.Now(3, 2.0, 2)
    assert heartbeat.read(tmp_path) == heartbeat.Now()
    callbacks.tell(trials, {})  # nobody listens


def test_signs_of_the_dead_are_removed(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    about = {"machine": leases.machine(), "pid": child.pid, "start": leases.process_start(child.pid)}
    path = tmp_path / "live" / "x.json"
    path.write_text(json.dumps({**about, "trials": 5, "loss": 1.5, "epoch": 3}))
    (tmp_path / "live" / "y.json").write_text("{")
    assert heartbeat.read(tmp_path) == heartbeat.Now(5, 1.5, 3)
    child.communicate(b"\n")
    assert heartbeat.read(tmp_path) == heartbeat.Now()
    assert not path.exists()


@pytest.mark.parametrize("words", [["--log-format"], ["--log-format", "jsn"], ["--log-format=xml"]])
def test_a_format_that_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from calib_bench.cli import main

    assert main(["run", *words]) == 2
    assert "json" in capsys.readouterr().err


def test_progress_is_sent_now_and_then_and_the_rest_when_asked():
    sent: list[float] = []
    rarely, always = worker.throttled(sent.append, 1e9), worker.throttled(sent.append, -1.0)
    rarely(0.25)
    rarely(0.5)
    assert sent == []
    rarely(0.0)
    rarely(0.0)
    assert sent == [0.75]
    always(0.25)
    assert sent == [0.75, 0.25]
