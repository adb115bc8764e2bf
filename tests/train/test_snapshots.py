"""Logits kept at levels of the training loss: where they are taken, that nothing else changes, that they last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from calib_bench.core.trial import Trial, TrialResult
from calib_bench.store.store import Store
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.snapshots import LEVELS
from calib_bench.train.stacked_loop import fuse_key
from tests.train.test_stacked_loop import fuse
from tests.train.test_train import run, same, trial

EPOCHS = 30  # of 4 updates, of which only some are measured


def keeping(**changes: Any) -> Trial:
    return trial(**{"keep": "losses", "epochs": EPOCHS, "schedule": "constant", "warmup": 0.0, "lr": 0.1, **changes})


def alike(a: TrialResult, b: TrialResult) -> bool:
    facts = [[(one.level, one.epoch, one.step, one.train_loss) for one in got.snapshots] for got in (a, b)]
    pairs = [
        (one.logits[name], other.logits[name])
        for one, other in zip(a.snapshots, b.snapshots, strict=True)
        for name in one.logits
    ]
    return same(a, b) and facts[0] == facts[1] and all(torch.equal(one, other) for one, other in pairs)


def test_a_snapshot_is_the_model_after_the_first_epoch_at_the_level() -> None:
    got, plain = run(keeping()), run(keeping(keep=None))
    assert same(got, plain)
    assert plain.snapshots == []
    assert [one.level for one in got.snapshots] == list(LEVELS[: len(got.snapshots)])
    assert len(got.snapshots) >= 3
    for one in got.snapshots:
        assert one.train_loss <= one.level
        assert one.step == 4 * one.epoch
        short = run(keeping(keep=None, epochs=one.epoch))  # at a constant rate a shorter run is the longer one's start
        assert short.history["train_loss"][-1] == one.train_loss
        assert all(torch.equal(z, short.logits[name]) for name, z in one.logits.items())
        before = run(keeping(keep=None, epochs=one.epoch - 1)).history["train_loss"][-1]
        assert not before <= one.level


def test_members_of_a_stack_keep_theirs_each_at_its_own_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [keeping(lr=lr, seed=seed) for lr in (0.02, 0.1) for seed in (0, 1)] + [keeping(lr=1e30)]
    together = fuse(trials)
    assert together[0].snapshots[0].epoch != together[2].snapshots[0].epoch
    assert together[-1].snapshots == []
    assert all(alike(fuse([one])[0], got) for one, got in zip(trials, together, strict=True))

    class Killed(Checkpoint):
        def save(self, state: dict[str, Any]) -> None:
            super().save(state)
            if state["parts"][0]["step"] == 4 * (EPOCHS - 2):
                raise KeyboardInterrupt

    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr("calib_bench.train.stacked_loop.Checkpoint", Killed)
        with pytest.raises(KeyboardInterrupt):
            fuse(trials, checkpoint=path, checkpoint_seconds=0)
    resumed = fuse(trials, checkpoint=path)
    assert all(alike(one, other) for one, other in zip(resumed, together, strict=True))


def test_a_single_run_keeps_them_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"

    class Killed(Checkpoint):
        def save(self, state: dict[str, Any]) -> None:
            super().save(state)
            if state["step"] == 4 * (EPOCHS - 1):
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("calib_bench.train.single_loop.Checkpoint", Killed)
        with pytest.raises(KeyboardInterrupt):
            run(keeping(), checkpoint=path, checkpoint_seconds=0)
    assert alike(run(keeping(), checkpoint=path), run(keeping()))


def test_the_store_gives_them_back_and_notices_damage(tmp_path: Path) -> None:
    store, got, plain = Store(tmp_path), run(keeping()), run(keeping(keep=None))
    for result in (got, plain):
        store.write(result, {}, {"selection": {"log_loss": 1.0}})
    again = Store(tmp_path, "read")
    assert again.snapshots(plain.trial) == []
    for one, stored in zip(got.snapshots, again.snapshots(got.trial), strict=True):
        assert (one.level, one.epoch, one.step, one.train_loss) == (
            stored.level,
            stored.epoch,
            stored.step,
            stored.train_loss,
        )
        assert list(stored.logits) == sorted(one.logits)
        assert all(torch.equal(z, stored.logits[name]) for name, z in one.logits.items())
    path = store.folder(got.trial) / "snapshots.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert ["snapshots.safetensors is damaged" in message for message in Store(tmp_path).audit()] == [True]


def test_keeping_is_part_of_the_key_only_where_it_is_asked_for() -> None:
    assert "keep" not in trial().canonical()
    assert keeping().key != keeping(keep=None).key
    assert fuse_key(keeping()) not in (None, fuse_key(keeping(keep=None)))
