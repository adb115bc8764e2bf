"""Batches in parts: the same result to rounding, or another trial; on few processes as on many; after a lost rank."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from calib_bench.errors import SettingsError
from calib_bench.train import update
from calib_bench.train.train import train
from tests.train.test_train import CPU, digits, run, trial

ROOT = Path(__file__).parents[2]
GHOST = trial(precision="fp64", model="wrn_10_1", epochs=2, lr=0.02, batch=32, norm_batch=8)
PLAIN = trial(precision="fp64", model="cnn_4", epochs=2, batch=32, clip=0.5)


def same(one: Any, other: Any) -> None:
    for split, z in one.logits.items():
        torch.testing.assert_close(other.logits[split], z, rtol=1e-9, atol=1e-10)
    for column in ("train_loss", "train_accuracy", "weight_norm"):
        assert other.history[column] == pytest.approx(one.history[column], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(("most", "micro"), [(32, 32), (16, 16), (9, 8), (1, 1)])
def test_parts_of_a_batch_give_its_result(most: int, micro: int) -> None:
    got = run(PLAIN, micro_batch=most)
    assert got.metadata["micro_batch"] == micro
    same(run(PLAIN), got)


def test_batch_norm_makes_parts_another_trial() -> None:
    whole = GHOST.model_copy(update={"norm_batch": None})
    with pytest.raises(SettingsError, match="norm_batch= it takes those of so many, and is then another trial"):
        run(whole, micro_batch=8)
    assert whole.key != GHOST.key
    assert "norm_batch" not in whole.canonical()
    assert not torch.allclose(run(whole).logits["test"], run(GHOST).logits["test"])
    same(run(whole), run(GHOST.model_copy(update={"norm_batch": 32})))
    with pytest.raises(SettingsError, match="does not divide the 32 examples"):
        run(GHOST.model_copy(update={"norm_batch": 5}))
    with pytest.raises(SettingsError, match="micro_batch=4 is less than norm_batch=8"):
        run(GHOST, micro_batch=4)


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = update.forward, []

    def small(model: Any, loss: Any, x: Any, *rest: Any) -> Any:
        sizes.append(len(x))
        if len(x) > 8:
            raise MemoryError
        return real(model, loss, x, *rest)

    whole = run(PLAIN)
    monkeypatch.setattr(update, "forward", small)
    (got,) = train([PLAIN], digits(PLAIN.model), device=CPU)
    assert sizes[:2] == [32, 16]
    assert got.metadata["micro_batch"] == 8
    same(whole, got)


def torchrun(*words: str, **options: Any) -> list[str]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", *flags, *words]


WORDS = ["task=digits", "model=cnn_4", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=60"]
WORDS += ["calibrator=temperature_scaling", "wandb=disabled", "interventions=no", "precision=fp64", "checkpoint=0"]


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_killed_within_an_epoch_costs_no_more_than_a_checkpoint(tmp_path: Path, ranks: int) -> None:
    program = ["-m", "calib_bench", "run", *WORDS, "batch=40"]
    whole, broken = (f"out={tmp_path / name}" for name in ("whole", "broken"))
    options = {"capture_output": True, "text": True, "timeout": 600, "check": False}
    done: Any = subprocess.run(torchrun(*program, whole, nproc_per_node=ranks), **options)
    assert done.returncode == 0, done.stderr
    launcher = subprocess.Popen(torchrun(*program, broken, nproc_per_node=ranks, max_restarts=2))
    import psutil

    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("broken/*/checkpoints/*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim = psutil.Process(launcher.pid).children()[-1]
    victim.send_signal(signal.SIGKILL)
    assert launcher.wait(600) == 0
    for path in tmp_path.glob("whole/*/trials/[!.]*"):
        other = tmp_path / "broken" / path.relative_to(tmp_path / "whole")
        assert (path / "logits.safetensors").read_bytes() == (other / "logits.safetensors").read_bytes()
        assert json.loads((other / "trial.json").read_text())["facts"]["world"] == ranks
