"""What a trial measures beside its logits: the same in both loops, stored, and no part of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faulty import unpack

from calib_bench import cli, registry
from calib_bench.core.study import Probe
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.errors import SettingsError
from calib_bench.planning.plan import group
from calib_bench.store.store import Store
from calib_bench.train.stacked_loop import fuse_key, train_fused
from calib_bench.train.train import train
from tests.train.test_train import CPU, digits, run, trial

PROBE = "watched/all"
PLUGIN = '''
"""A study that measures the loss of all training examples, and their logits at the end."""

import torch
import torch.nn.functional as F

from calib_bench.core.study import Analysis, Probe, Study
from calib_bench.planning.tuning import templates


def logits(model, splits, device):
    with torch.no_grad():
        return model(splits.train.inputs(torch.arange(len(splits.train)), device))


def columns(trial, model, splits, device):
    loss = F.cross_entropy(trial.beta * logits(model, splits, device), splits.train.labels)
    return {"whole_loss": loss.item()}


def arrays(trial, model, splits, device):
    assert torch.is_grad_enabled()
    return {"z_train": logits(model, splits, device)}


def plan(settings, scores):
    return [trial.model_copy(update={"probe": "watched/all", "lr": 0.1}) for trial in templates(settings)]


def analyse(settings, store):
    found = [store.arrays(trial)["z_train"].shape for trial in plan(settings, None)]
    return Analysis(verdict=(f"shapes {[tuple(shape) for shape in found]}",), tables={})


STUDY = Study("Do probes work?", plan, analyse, {}, probes={"all": Probe(columns, arrays)})
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine")
    (path / "watched.py").write_text(PLUGIN)
    registry.use_plugins([path])
    return path


def watched(**changes: Any) -> Trial:
    return trial(**{"probe": PROBE, "lr": 0.05, "epochs": 6, "momentum": 0.5} | changes)


def test_both_loops_measure_each_member_with_its_own_weights(folder: Path) -> None:
    trials = [watched(beta=beta, seed=seed) for beta in (0.5, 2.0) for seed in (0, 1)]
    data = digits()
    x = data.train.inputs(torch.arange(len(data.train)), CPU)  # type: ignore[attr-defined]
    assert len(x) == 240
    for one, fused in zip(trials, train_fused(trials, data, device=CPU, probe=registry.probe(PROBE)), strict=True):
        alone = run(one)
        for outcome in (alone, fused):
            assert list(outcome.history)[-1] == "whole_loss"
            z = outcome.arrays["z_train"]
            last = F.cross_entropy(one.beta * z, data.train.labels).item()
            assert outcome.history["whole_loss"][-1] == pytest.approx(last, rel=1e-5)
            assert outcome.history["whole_loss"][0] > outcome.history["whole_loss"][-1]
        torch.testing.assert_close(alone.arrays["z_train"], fused.arrays["z_train"], rtol=1e-4, atol=1e-5)
        assert alone.history["whole_loss"] == pytest.approx(fused.history["whole_loss"], rel=1e-4)


def stacked(one: Trial) -> TrialResult:
    probe = registry.probe(one.probe) if one.probe else None
    return train_fused([one], digits(), device=CPU, probe=probe)[0]


def test_measuring_changes_nothing_that_is_trained(folder: Path) -> None:
    one, bare = watched(), watched().model_copy(update={"probe": None})
    assert one.key != bare.key
    for train_one in (run, stacked):
        with_probe, without = train_one(one), train_one(bare)
        assert all(torch.equal(z, without.logits[name]) for name, z in with_probe.logits.items())
        assert without.arrays == {}
        assert "whole_loss" not in without.history


def test_a_diverged_trial_is_not_measured_at_its_end(folder: Path) -> None:
    lost = run(watched(lr=1e12, epochs=3))
    assert lost.status == "diverged"
    assert lost.arrays == {}
    assert len(lost.history["whole_loss"]) == len(lost.history["epoch"])


def test_trials_of_one_stack_share_their_probe_and_those_that_train_nothing_are_spread() -> None:
    assert fuse_key(watched()) not in (None, fuse_key(trial()), fuse_key(watched(probe="watched/other")))
    idle = [watched(epochs=0, seed=seed) for seed in range(4)]
    assert group(idle, 128, 2) == [(one,) for one in idle]


def test_what_is_measured_is_stored_and_an_analysis_reads_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["study=watched", f"plugins={folder}", "model=mlp_4", "beta=1", "objective=cross_entropy", "epochs=0,2"]
    words += [f"out={tmp_path}", "wandb=disabled", "workers=1"]
    assert cli.main(["run", *words, "seed=0"]) == 0
    assert "shapes [(300, 10), (300, 10)]" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "digits-watched"), f"plugins={folder}"]) == 0
    unpack(tmp_path / "digits-watched")
    store = Store(tmp_path / "digits-watched", "read")
    assert len(list(store.path.glob("trials/*/arrays.safetensors"))) == 2
    next(store.path.glob("trials/*/arrays.safetensors")).write_bytes(b"harm")
    assert ["arrays.safetensors is damaged" in message for message in store.audit()] == [True]


def test_a_probe_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(SettingsError, match="study 'watched' has no probe 'al': did you mean 'all'"):
        registry.probe("watched/al")
    with pytest.raises(SettingsError, match="no study is called 'wached'"):
        registry.probe("wached/all")


def test_training_refuses_a_trial_whose_probe_it_is_not_given() -> None:
    for one, probe in ((watched(), None), (trial(), Probe())):
        with pytest.raises(ValueError, match="has a probe"):
            train([one], digits(), device=CPU, probe=probe)
