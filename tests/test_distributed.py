"""Two processes under torchrun against one process at the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from test_train import CPU, digits, run, trial
from torch import nn

from calib_bench.errors import ResourceError, SettingsError
from calib_bench.train import distributed
from calib_bench.train.history import COLUMNS

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
    distributed.stop()


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


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        __file__,
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
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


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
