"""What goes wrong while trials run: one that raises, dies, hangs or eats memory costs itself alone, and is named."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import driver
import forked
import psutil
import pytest
import torch
from faulty import TINY, logits, plug, started

from calib_bench.cli import main
from calib_bench.errors import OutOfMemory
from calib_bench.execute import worker
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from tests.train.test_train import trial

GRID = ["objective=cross_entropy,faulty:0.1,faulty:0.5"]
CAUSES = {
    "raised": "ValueError: a <b>bad</b> strength",
    "memory": "ran out of memory",
    "killed": "twice: most likely for lack of memory",
    "stalled": "no progress in 20 seconds",
}
SHORT = [w for w in TINY if not w.startswith(("beta", "lr_rel"))] + ["beta=1", "lr_rel=0.5", *GRID]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study with the objective at rest."""
    out = tmp_path_factory.mktemp("undisturbed")
    driver.main([*SHORT, f"plugins={plug(out / 'mine')}", f"out={out}", "workers=1"])
    return out / "digits-separation"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raised", pytest.param("memory", marks=pytest.mark.soak)])
def test_one_trial_that_fails_in_this_process(
    kind: str, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(kind, undisturbed, tmp_path, ["workers=1"], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["killed", *(pytest.param(k, marks=pytest.mark.soak) for k in ("stalled", "leaked"))])
def test_one_trial_that_takes_its_process_down(
    kind: str, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(
        kind, undisturbed, tmp_path, ["workers=2", "stack=2", "stall=20" if kind == "stalled" else "stall=100"], capsys
    )


def test_what_a_failed_group_took_is_free_before_its_halves_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the halves of a stack that did not fit would not fit either."""
    taken: list[weakref.ref] = []
    sizes: list[int] = []

    def full(group: tuple, *_: object) -> None:
        assert not [one for one in taken if one() is not None], "an exception's frames hold on to it"
        sizes.append(len(group))
        model = torch.nn.Linear(2, 2)
        taken.append(weakref.ref(model))
        if len(group) > 1:
            try:
                raise MemoryError("it does not fit")
            except MemoryError as error:
                raise OutOfMemory("it does not fit") from error

    monkeypatch.setattr(worker, "train_group", full)
    group = tuple(trial(seed=seed) for seed in range(4))
    checkpoints = SimpleNamespace(finish=lambda path: None, path=lambda group: None)
    store = SimpleNamespace(checkpoints=checkpoints, has=lambda trial: False)
    worker.train_apart(group, None, store, lambda done: None)
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    with pytest.raises(worker.Spent):
        worker.train_apart(group, None, store, lambda done: None, expendable=True)


def check(kind: str, undisturbed: Path, out: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Only the trials of the faulty arm fail; they are named, with their cause; and the same command tries again."""
    told = {"leaked": "memory"}.get(kind, kind)
    mine, whole = undisturbed.parent / "mine", logits(undisturbed)
    words, folder = ["run", *SHORT, f"plugins={mine}", f"out={out}", *more], out / "digits-separation"
    (mine / "armed").write_text(kind)
    try:
        assert main(words) == 1
    finally:
        (mine / "armed").unlink()
    failures = Store(folder, "read").failures.now()
    assert {f.kind for f in failures.values()} == {told}
    assert {f.trial.objective for f in failures.values()} == {"faulty:0.5"}
    assert all(CAUSES[told] in f.cause for f in failures.values())
    stored = logits(folder)
    assert stored == {key: digest for key, digest in whole.items() if key not in failures}
    page = (folder / "report" / "report.html").read_text()
    assert all(key in page for key in failures)
    assert CAUSES[told].replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>bad" not in page
    if kind == "killed":
        return  # how it goes on is the same for all, and told by the others
    if kind == "raised":
        assert main(["report", str(folder), f"plugins={mine}"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "failed before, tried again" in capsys.readouterr().out
    assert not Store(folder, "read").failures.now()
    assert logits(folder) == whole
    assert "Failed:" not in (folder / "report" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGUSR1, 1),
        pytest.param(signal.SIGHUP, 2),
        *(
            pytest.param(number, 1, marks=pytest.mark.soak)
            for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
        ),
    ],
)
def test_a_warning_saves_however_often_it_comes(number: signal.Signals, workers: int, tmp_path: Path) -> None:
    """To a worker and then to every process of the run, as batch systems and closing terminals may send it."""
    words = ["task=digits", "model=cnn_4,cnn_5", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=3000"]
    words += ["interventions=no", "wandb=disabled", "calibrator=temperature_scaling", f"workers={workers}"]
    words += ["stack=1", "checkpoint=1000", f"out={tmp_path}"]
    # forked workers would be no children of the run, and not in its group
    with (started if workers > 1 else forked.started)("run", *words) as run:
        assert _until(lambda: _epochs(tmp_path) >= workers, run)
        if workers > 1:
            server = next(one for one in psutil.Process(run.pid).children() if "forkserver" in str(one.cmdline()))
            server.children()[0].send_signal(number)
            time.sleep(0.01)
        os.killpg(run.pid, number)
        if number in shutdown.WARNINGS:
            time.sleep(0.01)
            os.killpg(run.pid, number)
        _, err = run.communicate(timeout=90)
        assert run.returncode == 130, err
        assert "go on with" in err
    assert len(list(tmp_path.glob("*/checkpoints/*.pt"))) == workers


def _epochs(out: Path) -> int:
    """How many groups have trained for an epoch and more, as their signs of life say."""
    signs = [json.loads(path.read_text()) for path in out.glob("*/live/[!.]*.json")]
    return sum((sign["epoch"] or 0) >= 1 for sign in signs)


def test_what_was_ignored_stays_ignored_and_handlers_come_back() -> None:
    """nohup ignores SIGHUP, so that a run survives its terminal."""
    before = {number: signal.getsignal(number) for number in shutdown.WARNINGS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shutdown.orderly():
            assert signal.getsignal(signal.SIGUSR1) is not before[signal.SIGUSR1]
        assert signal.getsignal(signal.SIGUSR1) is before[signal.SIGUSR1]
        with shutdown.orderly():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
            assert not shutdown.requested()
            signal.raise_signal(signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR1)
            assert shutdown.requested()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert not shutdown.requested()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_stopped_once_it_saves_and_says_how_to_go_on_and_twice_it_stops_at_once(workers: int, tmp_path: Path) -> None:
    # two models: two groups; long enough never to end by itself
    words = ["task=digits", "model=cnn_4,cnn_5", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=3000"]
    words += ["interventions=no", "wandb=disabled", "calibrator=temperature_scaling", f"workers={workers}"]
    words += ["stack=1", "checkpoint=1000", f"out={tmp_path}"]
    with started("run", *words) as run:
        assert _until(lambda: _epochs(tmp_path) >= workers, run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=90)
        assert run.returncode == 130, err
        assert "go on with" in err
        assert "python -m calib_bench run" in err
        assert f"workers={workers}" in err
    assert len(list(tmp_path.glob("*/checkpoints/*.pt"))) == workers
    with forked.started("run", *words) as run:
        assert _until(lambda: _epochs(tmp_path) >= 1, run)
        start = time.monotonic()
        run.send_signal(signal.SIGINT)
        time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=150)
        assert run.returncode in (130, -signal.SIGINT)
        assert time.monotonic() - start < 10


def _until(what, run):
    end = time.monotonic() + 240
    while time.monotonic() < end and run.poll() is None:
        if found := what():
            return found
        time.sleep(0.05)
    return None
