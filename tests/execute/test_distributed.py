"""Two processes under torchrun against one process at the same global batch."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from forked import Run, command
from torch import nn

from calib_bench.errors import ResourceError, SettingsError
from calib_bench.system import shutdown
from calib_bench.train import distributed
from calib_bench.train.history import COLUMNS
from tests.commands.test_launch import free_port
from tests.train.test_train import CPU, digits, run, trial

SOON = timedelta(seconds=30)
TRIALS = {
    "mlp": trial(precision="fp64", clip=0.5, lr_unit="lr_rel", lr=0.2, epochs=3),
    "cnn": trial(precision="fp64", model="cnn_4", epochs=2, objective="label_smoothing:0.1"),
    "batch norm": trial(precision="fp64", model="wrn_10_1", epochs=2, lr=0.02),
    "ghost batch norm": trial(precision="fp64", model="wrn_10_1", epochs=2, lr=0.02, batch=32, norm_batch=8),
    "parts": trial(precision="fp64", model="cnn_4", epochs=2, batch=32, clip=0.5),
    "diverges": trial(lr=1e30),
}


def worker(folder: Path) -> None:
    """Train every trial in this process group, resuming one from a checkpoint, and leave each rank's results."""
    torch.set_num_threads(1)
    device = distributed.start("cpu")
    results = {}
    for name, one in TRIALS.items():
        path = folder / f"{name}.pt"
        if name == "batch norm":
            _interrupt(one, path)
        micro = 8 if name == "parts" else None
        got = run(one, checkpoint=path, checkpoint_seconds=1e9, micro_batch=micro)
        results[name] = {"logits": got.logits, "history": got.history, "status": got.status, "facts": got.metadata}
    with pytest.raises(SettingsError, match="multiple of the 2 processes"):
        run(trial(batch=31))
    torch.save(results, folder / f"rank{distributed.rank()}")
    assert device == CPU
    distributed.end_process(0)


def _interrupt(one: object, path: Path) -> None:
    """Leave a checkpoint from within the second epoch."""
    from calib_bench.train import single_loop
    from calib_bench.train.checkpoint import Checkpoint
    from calib_bench.train.history import ProgressThrottle

    class Enough(Exception):
        pass

    class Short(ProgressThrottle):
        def add(self, steps: int) -> None:
            if state.step == state.per_epoch + 2:
                raise Enough

    state = single_loop._Run(one, digits(one.model), CPU, None, {}, None, "auto", None)  # type: ignore[arg-type, attr-defined]
    state.epoch(Checkpoint(None, "", 0), ProgressThrottle(lambda steps: None))
    with pytest.raises(Enough):
        state.epoch(Checkpoint(None, "", 0), Short(lambda steps: None))
    if distributed.is_main():
        Checkpoint(path, one.key, 0).save(state.state())  # type: ignore[attr-defined]


def ranked(function: Callable[..., object], *arguments: object) -> list[Run]:
    """A function called in two processes that have what torchrun tells those that it starts."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [Run(function, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    for one in ranked(worker, folder):
        _, errors = one.communicate(timeout=600)
        assert one.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"rank{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRIALS if name != "diverges"])
def test_two_processes_equal_one(ranks: list[dict], name: str) -> None:
    alone = run(TRIALS[name])
    for rank in ranks:
        got = rank[name]
        assert got["facts"]["world"] == 2
        for split, z in alone.logits.items():
            torch.testing.assert_close(got["logits"][split], z, rtol=1e-9, atol=1e-10)
        for column in COLUMNS:
            if column != "seconds":
                expected = pytest.approx(alone.history[column], rel=1e-9, abs=1e-10, nan_ok=True)
                assert got["history"][column] == expected, column


@pytest.mark.slow
def test_divergence_is_agreed_upon(ranks: list[dict]) -> None:
    alone = run(TRIALS["diverges"])
    for rank in ranks:
        assert rank["diverges"]["status"] == "diverged"
        assert rank["diverges"]["facts"]["diverged_step"] == alone.metadata["diverged_step"]


def test_one_process_needs_no_group() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    assert (distributed.world(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.parallel(model, CPU) is model
    assert distributed.broadcast("x") == "x"


def test_synchronised_batch_norm_is_batch_norm_in_one_process() -> None:
    plain, other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    distributed.synchronise(other)
    assert list(other.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(plain(x), other(x))
    assert torch.equal(plain.eval()(x), other.eval()(x))


def test_processes_meet_apart_from_those_that_are_gone() -> None:
    store = distributed.meeting("localhost")
    store.set("hello/1", "of one that was killed before it was answered")

    def meet() -> list[torch.distributed.PrefixStore]:
        """Where three processes find that they are; each has a connection of its own."""
        with ThreadPoolExecutor(3) as threads:
            own = [distributed.meeting("localhost", store.port) for _ in range(3)]
            return list(threads.map(distributed._apart, own, range(3), [3] * 3, [SOON] * 3))

    for attempt in ("first", "second"):
        parts = meet()
        assert not any(part.check(["attempt"]) for part in parts)
        parts[0].set("attempt", attempt)
        assert [part.get("attempt").decode() for part in parts] == [attempt] * 3


def test_a_process_that_does_not_come_is_told() -> None:
    store = distributed.meeting("localhost")
    with pytest.raises(ResourceError, match="1 of 2 processes"):
        distributed._apart(store, 0, 2, timedelta(seconds=0.1))
    with pytest.raises(torch.distributed.DistError):
        distributed._apart(store, 1, 2, timedelta(seconds=0.1))


def test_alone_there_is_nobody_to_agree_with() -> None:
    accord = distributed.Accord(CPU)
    with shutdown.together():
        signal.raise_signal(signal.SIGUSR1)
        accord.step()
        assert not shutdown.requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *shutdown.WARNINGS])
def test_of_several_processes_each_signal_is_a_wish_however_often_it_comes(number: signal.Signals) -> None:
    """A terminal sends it, and then the launcher, which had it too."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored where these tests run, as nohup has it")
    with shutdown.together():
        assert not shutdown.wished()
        for _ in range(3):
            signal.raise_signal(number)
        assert shutdown.wished()
        assert not shutdown.requested()
    assert not shutdown.wished()
    assert signal.getsignal(number) is before


def test_after_a_request_signals_are_ignored_until_the_process_has_left() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with shutdown.together():
            shutdown.request()
            with pytest.raises(shutdown.Stopped):
                shutdown.check()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert not shutdown.requested()
    finally:
        for number in (signal.SIGINT, *shutdown.WARNINGS):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.signal(signal.SIGTERM, before)


def test_a_launcher_that_died_is_a_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    with shutdown.together():
        assert not shutdown.wished()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert shutdown.wished()


STOPPED = ["task=digits", "model=cnn_4", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=150"]
STOPPED += ["interventions=no", "extend=0", "wandb=disabled", "calibrator=temperature_scaling", "checkpoint=1000"]


def launched(out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += ["-m", "calib_bench", "run", *STOPPED, f"out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def trains(out: Path) -> bool:
    """Whether a group has trained for an epoch and more, as its signs of life say."""
    return any((json.loads(path.read_text())["epoch"] or 0) >= 1 for path in out.glob("*/live/[!.]*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGUSR1, "second"),
        *(
            pytest.param(number, whom, marks=pytest.mark.soak)
            for number, whom in (
                (signal.SIGUSR1, "launcher"),  # it dies, and leaves its processes to themselves
                (signal.SIGTERM, "launcher"),  # it passes it on
                (signal.SIGINT, "all"),  # it passes on what all have had
                (signal.SIGHUP, "first"),
            )
        ),
    ],
)
def test_processes_save_and_leave_together_and_go_on(number: signal.Signals, whom: str, tmp_path: Path) -> None:
    """A signal to any of them; the run that goes on keeps the rows of the one that was stopped."""
    run = launched(tmp_path)
    members: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 90
        while not trains(tmp_path) and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.05)
        members = sorted(psutil.Process(run.pid).children(), key=lambda process: process.pid)
        assert len(members) == 2
        chosen = {"first": members[:1], "second": members[1:], "launcher": [], "all": members}[whom]
        for process in chosen:
            process.send_signal(number)
        if whom in ("launcher", "all"):
            run.send_signal(number)
        output, _ = run.communicate(timeout=60)
        assert output.count("stopped, and what was under way is saved; go on with") == 1
        assert run.returncode != 0
        _, alive = psutil.wait_procs(members, timeout=20)
        assert not alive
    finally:
        for process in members:
            if process.is_running():
                process.kill()
        run.kill()
        run.communicate()
    (path,) = tmp_path.glob("*/checkpoints/*.pt")
    (key,) = json.loads(path.with_suffix(".json").read_text())
    saved = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)["state"]
    seconds = [row["seconds"] for row in saved["rows"]]
    if whom not in ("second", "launcher"):
        return
    for again in ranked(command, "run", *STOPPED, f"out={tmp_path}"):
        _, errors = again.communicate(timeout=200)
        assert again.returncode == 0, errors
    history = pd.read_parquet(next(tmp_path.glob(f"*/trials/{key}*/history.parquet")))
    assert history["seconds"].tolist()[: len(seconds)] == seconds
    assert history["epoch"].iloc[-1] == 150
    assert not list(tmp_path.glob("*/checkpoints/*.pt"))
