"""The stacked loop against the single one, and every member against its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.errors import SettingsError
from calib_bench.train import chunks, stacked_loop
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.history import COLUMNS
from calib_bench.train.loss import Loss
from calib_bench.train.stacked_loop import fuse_key, train_fused
from calib_bench.train.stacked_model import Packed, StackedMLP, StackedModel, logit_gradient, stacked
from tests.train.test_train import CPU, OBJECTIVES, digits, kill_midway, run, same, trial


def fuse(trials: list[Trial], **options: object) -> list[TrialResult]:
    return train_fused(trials, digits(trials[0].model), device=CPU, objectives=OBJECTIVES, **options)  # type: ignore[arg-type]


def assert_close(a: TrialResult, b: TrialResult, tolerance: float = 1e-10) -> None:
    for name, z in a.logits.items():
        torch.testing.assert_close(z, b.logits[name], rtol=tolerance, atol=tolerance)
    for name in COLUMNS:
        if name != "seconds":
            assert a.history[name] == pytest.approx(b.history[name], rel=tolerance, abs=tolerance, nan_ok=True), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_agrees_with_the_single_loop(optimizer: str, clip: float) -> None:
    lr = 0.1 if optimizer == "sgd" else 0.01
    shared = {"optimizer": optimizer, "clip": clip, "precision": "fp64", "epochs": 12, "warmup": 2.0}
    both = "label_smoothing:0.05+confidence_penalty:0.1"
    trials = [
        trial(lr=lr, beta=1.0, momentum=0.5, **shared),
        trial(lr=3 * lr, beta=0.3, objective="label_smoothing:0.1", weight_decay=0.1, **shared),
        trial(lr=lr, beta=4.0, seed=3, head_lr=2.0, head_init=0.5, **shared),
        trial(lr=lr, lr_unit="lr_eff", objective=both, weight_decay=0.0, **shared),
        trial(lr=lr, objective="confidence_penalty:0.2", head_lr=0.25, **shared),
        trial(lr=lr, objective="label_smoothing:0.3", seed=3, **shared),
    ]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert got.trial == one
        assert got.metadata["mode"] == "fused"
        assert_close(got, run(one))


def test_agrees_with_the_single_loop_without_momentum_and_in_relative_rates() -> None:
    shared = {"momentum": 0.0, "precision": "fp64", "lr_unit": "lr_rel", "schedule": "step", "epochs": 25}
    trials = [trial(lr=r, beta=b, seed=s, **shared) for r in (0.1, 0.5) for b in (0.1, 3.0) for s in (0, 1)]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one))


@pytest.mark.parametrize("model", ["cnn_4_6", "wrn_10_1_nonorm", "mlp_8_8_nobias", "mlp_8_8_layernorm"])
def test_agrees_with_the_single_loop_for_other_models(model: str) -> None:
    shared = {"model": model, "precision": "fp64", "epochs": 2, "lr": 0.02}
    trials = [trial(beta=1.0, **shared), trial(beta=2.0, seed=1, **shared)]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one), 1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_member_does_not_depend_on_its_neighbours(optimizer: str) -> None:
    shared = {"model": "mlp_128_128", "epochs": 3, "clip": 1.0, "optimizer": optimizer}
    one = trial(lr=0.02, seed=2, objective="label_smoothing:0.1", **shared)
    alone = fuse([one])[0]
    others = [
        trial(lr=0.001 * (1 + i), beta=1.0 + i, seed=i % 4, objective=text, **shared)
        for i in range(16)
        for text in ("cross_entropy", "confidence_penalty:0.1")
    ]
    for size in (1, 2, 6, 32):
        stack = [*others[: size // 2], one, *others[size // 2 : size]]
        assert same(fuse(stack)[size // 2], alone)


@pytest.mark.parametrize("name", ["mlp_7_5", "mlp_6_nobias", "mlp_4_4_4"])
def test_the_written_out_backward_is_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    copies = [models.build(name, InputSpec("image", (1, 3, 3)), 4).double() for _ in range(3)]
    weights, _ = torch.func.stack_module_state(copies)
    params, ours, theirs = Packed(weights), Packed(weights), Packed(weights)
    for key, p in weights.items():
        params.by[key].copy_(p.detach())
    x, dz = torch.randn(3, 11, 1, 3, 3).double(), torch.randn(3, 11, 4).double()
    fast, general = stacked(copies[0], params, ours), StackedModel(copies[0], params, theirs)
    assert isinstance(fast, StackedMLP)
    torch.testing.assert_close(fast.forward(x), general.forward(x))
    fast.backward(dz)
    general.backward(dz)
    assert ours.all.abs().sum(1).min() > 0
    torch.testing.assert_close(ours.all, theirs.all)


def test_the_gradient_by_the_logits_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(3, 8, 5, generator=generator).double(), torch.arange(24).view(3, 8) % 5
    beta = torch.tensor([0.1, 1.0, 30.0]).double().view(3, 1, 1)
    loss, dz = logit_gradient(Loss({}), z, y, beta)
    z.requires_grad_()
    each = torch.nn.functional.cross_entropy((beta * z).flatten(0, 1), y.flatten(), reduction="none").view(3, 8)
    torch.testing.assert_close(loss, each.detach())
    torch.testing.assert_close(dz, torch.autograd.grad(each.mean(1).sum(), z)[0])
    neutral = Loss({"label_smoothing": torch.zeros(3, 1).double()}, OBJECTIVES)
    for plain, general in zip((loss, dz), logit_gradient(neutral, z, y, beta), strict=True):
        torch.testing.assert_close(plain, general)


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trials = [trial(beta=beta, seed=seed) for beta in (0.3, 1.0, 3.0) for seed in (1, 0)] + [trial(lr=1e30)]
    whole = fuse(trials)
    assert whole[0].metadata["stack"] == len(trials)
    monkeypatch.setattr(chunks, "PART_VALUES", 2 * whole[0].metadata["parameters"])
    stops = 0
    while True:  # killed after every third step, between parts too
        saves: list[int] = []

        class Saver(Checkpoint):
            def save(self, state: dict[str, object], saves: list[int] = saves) -> None:
                super().save(state)
                saves.append(1)
                if len(saves) == 3:
                    raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(stacked_loop, "Checkpoint", Saver)
            try:
                apart = fuse(trials, checkpoint=path, checkpoint_seconds=0)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops >= 5
    assert {one.metadata["stack"] for one in apart} == {1, 2}
    assert all(same(a, b) for a, b in zip(apart, whole, strict=True))
    assert all(same(a, b) for a, b in zip(fuse(trials, checkpoint=path), whole, strict=True))


def test_agrees_with_the_single_loop_with_another_head() -> None:
    shared = {"precision": "fp64", "epochs": 3, "objective": "learned_beta:2"}
    trials = [trial(beta=1.0, head_lr=0.5, **shared), trial(beta=2.0, seed=1, head_decay=0.0, **shared)]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one))


def test_one_divergence_leaves_the_others_bit_equal() -> None:
    good = [trial(beta=beta, seed=seed) for beta in (0.5, 3.0) for seed in (0, 1)]
    told: list[int] = []
    got = fuse([*good[:2], trial(lr=1e30), *good[2:]], progress=told.append)
    bad = got.pop(2)
    assert bad.status == "diverged"
    assert bad.logits == {}
    assert bad.metadata["diverged_step"] == run(trial(lr=1e30)).metadata["diverged_step"]
    assert bad.history["epoch"] == [0]
    assert all(same(a, b) for a, b in zip(got, fuse(good), strict=True))
    assert sum(told) == 5 * 4 * 4


def test_a_stack_that_diverges_whole_stops() -> None:
    told: list[int] = []
    got = fuse([trial(lr=1e30, seed=seed) for seed in range(2)], progress=told.append)
    assert [one.status for one in got] == ["diverged"] * 2
    assert sum(told) == 2 * 4 * 4


VICTIMS = [trial(epochs=150, beta=beta, seed=seed) for beta in (0.5, 3.0) for seed in (0, 1)]


def victim(path: Path) -> None:
    fuse(VICTIMS, checkpoint=path, checkpoint_seconds=0)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    kill_midway(victim, path, after=0.3)
    told: list[int] = []
    resumed = fuse(VICTIMS, checkpoint=path, progress=told.append)
    assert 0 < told[0] < sum(told) == 4 * 600
    assert all(same(a, b) for a, b in zip(resumed, fuse(VICTIMS), strict=True))
    assert path.exists()  # until the outcomes are stored


def test_a_checkpoint_of_other_members_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, ones = tmp_path / "checkpoint.pt", [trial(epochs=2), trial(epochs=2, seed=1)]
    Checkpoint(path, "another", 0).save({"step": 3})
    got = fuse(ones, checkpoint=path, checkpoint_seconds=1e9)
    assert "belongs to another run" in caplog.text
    assert all(same(a, b) for a, b in zip(got, fuse(ones), strict=True))


def test_fuse_key_joins_what_differs_in_numbers_alone() -> None:
    key = fuse_key(trial())
    numbers = {"beta": 7.0, "lr": 2.0, "lr_unit": "lr_rel", "objective": "label_smoothing:0.1", "seed": 9}
    numbers |= {"momentum": 0.5, "weight_decay": 0.0, "head_lr": 2.0, "head_init": 2.0}
    assert all(fuse_key(trial(**{name: value}), OBJECTIVES) == key is not None for name, value in numbers.items())
    apart = {"momentum": 0.0, "optimizer": "adam", "epochs": 5, "batch": 30, "split": 1, "clip": 1.0, "model": "mlp_8"}
    assert all(fuse_key(trial(**{name: value})) not in (key, None) for name, value in apart.items())
    alone = {"precision": "bf16", "pretrained": True, "optimizer": "timm/lamb", "model": "gru_8"}
    assert all(fuse_key(trial(**{name: value})) is None for name, value in alone.items())
    assert fuse_key(trial(model="cnn_4")) is None
    assert fuse_key(trial(model="cnn_4"), device="cuda") is not None
    with pytest.raises(SettingsError, match="one stack"):
        fuse([trial(), trial(batch=30)])


def test_a_member_does_not_depend_on_the_objectives_beside_it() -> None:
    trials = [
        trial(beta=beta, objective=objective, momentum=0.0, weight_decay=0.0, head_lr=head_lr)
        for beta in (0.3, 1.0)
        for objective in ("cross_entropy", "label_smoothing:0.1", "mixup:0.4")
        for head_lr in (1.0, 0.1)
    ]
    for one, beside in zip(trials, fuse(trials), strict=True):
        assert same(fuse([one])[0], beside), one
