"""What goes wrong while trials run: one that raises, dies, hangs or eats memory costs itself alone, and is named."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from faulty import TINY, call, logits, plug, started

from calib_bench.cli import main
from calib_bench.store import Store

GRID = ["objective=cross_entropy,faulty:0.1,faulty:0.5"]
FAULTS = {
    "raised": ('raise ValueError("a <b>bad</b> strength")', "ValueError: a <b>bad</b> strength"),
    "memory": ("b = bytearray(1 << 46)", "ran out of memory"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL, twice"),
    "stalled": ("time.sleep(600)", "no progress in 4 seconds"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with the objective at rest."""
    out = tmp_path_factory.mktemp("undisturbed")
    words = [*TINY, *GRID, f"plugins={plug(out / 'mine', 'pass', armed=False)}", f"out={out}", "workers=1"]
    assert main(["run", *words]) == 0
    return out / "digits-separation"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raised", pytest.param("memory", marks=pytest.mark.soak)])
def test_one_trial_that_fails_in_this_process(kind: str, undisturbed: Path, tmp_path: Path) -> None:
    _check(kind, undisturbed, tmp_path, ["workers=1"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", pytest.param("stalled", marks=pytest.mark.soak)])
def test_one_trial_that_takes_its_process_down(kind: str, undisturbed: Path, tmp_path: Path) -> None:
    stall = ["stall=4" if kind == "stalled" else "stall=100"]
    _check(kind, undisturbed, tmp_path, ["workers=2", "tune_seeds=1", "lr_rel=0.5", "beta=1", *stall], few=True)


def _check(kind: str, undisturbed: Path, where: Path, more: list[str], few: bool = False) -> None:
    fault, cause = FAULTS[kind]
    mine, whole = plug(where / "mine", fault), logits(undisturbed)
    given = {word.partition("=")[0] for word in more}
    words = [*(w for w in TINY if w.partition("=")[0] not in given), *GRID, f"plugins={mine}", f"out={where}", *more]
    done = call("run", *words)
    assert done.returncode == 1, done.stderr
    folder = where / "digits-separation"
    failures = Store(folder, "read").failures.now()
    assert {f.kind for f in failures.values()} == {kind}
    assert {f.trial.objective for f in failures.values()} == {"faulty:0.5"}
    assert all(cause in f.cause for f in failures.values())
    stored = logits(folder)
    assert not stored.keys() & failures.keys()
    assert all(stored[key] == whole[key] for key in stored.keys() & whole.keys())
    assert few or stored.keys() | failures.keys() == whole.keys()
    page = (folder / "report" / "report.html").read_text()
    assert all(key in page for key in failures)
    assert cause.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>bad" not in page
    assert call("report", str(folder), f"plugins={mine}").returncode == 0 if kind == "raised" else True
    (mine / "armed").unlink()
    again = call("run", *words)
    assert again.returncode == 0, again.stderr
    assert "failed before, tried again" in again.stdout
    assert not Store(folder, "read").failures.now()
    after = logits(folder)
    assert after.keys() == stored.keys() | failures.keys()
    assert all(after[key] == whole[key] for key in after.keys() & whole.keys())
    assert "Failed:" not in (folder / "report" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_stopped_once_it_saves_and_says_how_to_go_on_and_twice_it_stops_at_once(workers: int, tmp_path: Path) -> None:
    # two models: two groups; long enough never to end by itself
    words = ["task=digits", "model=cnn_4,cnn_5", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=3000"]
    words += ["interventions=no", "wandb=disabled", "calibrator=temperature_scaling", f"workers={workers}"]
    words += ["stack=1", "checkpoint=1000", f"out={tmp_path}"]
    with started("run", *words) as run:
        begun = _until(lambda: list(tmp_path.glob("*/checkpoints/*.json")), run)
        assert begun
        time.sleep(2)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=90)
        assert run.returncode == 130, err
        assert "go on with" in err
        assert "python -m calib_bench run" in err
        assert f"workers={workers}" in err
    assert len(list(tmp_path.glob("*/checkpoints/*.pt"))) == workers
    with started("run", *words) as run:
        _until(lambda: run.poll() is not None, run, seconds=8)
        start = time.monotonic()
        run.send_signal(signal.SIGINT)
        time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode in (130, -signal.SIGINT)
        assert time.monotonic() - start < 10


def _until(what, run, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and run.poll() is None:
        if found := what():
            return found
        time.sleep(0.05)
    return None
