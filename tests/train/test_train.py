"""The single loop: against a plain loop, against itself when killed, and its losses, rates and schedules."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from calib_bench import models, registry
from calib_bench.core.splits import Request, Splits
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.dynamics.curvature import lambda_max
from calib_bench.errors import SettingsError, StoreError
from calib_bench.train import fusion, history, initialize
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.learning_rate import PROBE, TOLERANCE, probe
from calib_bench.train.loss import Loss, cross_entropy
from calib_bench.train.optimizer import factor, make_optimizer, set_rate
from calib_bench.train.single_loop import train_single
from calib_bench.train.train import train

CPU = torch.device("cpu")
OBJECTIVES = registry.objectives()


@cache
def digits(model: str = "mlp_16") -> Splits:
    return registry.task("digits").load(Request(task="digits", model=model, limit=240))


def trial(**changes: Any) -> Trial:
    base = {
        "task": "digits",
        "model": "mlp_16",
        "beta": 2.0,
        "objective": "cross_entropy",
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_unit": "lr",
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "warmup": 1.0,
        "epochs": 4,
        "batch": 60,
        "seed": 0,
        "limit": 240,
    }
    return Trial(**{**base, **changes})


def run(one: Trial, **options: Any) -> TrialResult:
    probe = registry.probe(one.probe) if one.probe else None
    return train_single(one, digits(one.model), device=CPU, objectives=OBJECTIVES, probe=probe, **options)


def same(a: TrialResult, b: TrialResult) -> bool:
    """Bit-equal logits and history, seconds aside."""
    columns = [name for name in history.COLUMNS if name != "seconds"]
    return all(torch.equal(a.logits[name], b.logits[name]) for name in a.logits) and all(
        torch.equal(torch.tensor(a.history[name]).nan_to_num(), torch.tensor(b.history[name]).nan_to_num())
        for name in columns
    )


def test_equals_a_plain_loop() -> None:
    one = trial(schedule="constant", warmup=0.0, clip=0.5)
    model = initialize.initial_model(one, digits(), CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=one.lr, momentum=0.9, weight_decay=1e-3)
    for epoch in range(one.epochs):
        for x, y in digits().train.train_batches(seed=0, epoch=epoch, batch=60, device=CPU):
            loss = F.cross_entropy(one.beta * model(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    got = run(one)
    with torch.no_grad():
        for name, z in got.logits.items():
            x = digits()[name].inputs(torch.arange(len(z)), CPU)  # type: ignore[attr-defined]
            torch.testing.assert_close(z, model(x), rtol=1e-5, atol=1e-6)
            assert z.dtype == torch.float32


def test_history_and_facts_describe_the_run() -> None:
    got = run(trial(epochs=3))
    assert tuple(got.history) == history.COLUMNS
    assert got.history["epoch"] == [0, 1, 2, 3]
    assert got.history["step"] == [0, 4, 8, 12]
    z, y = got.logits["selection"].double(), digits().selection.labels
    assert got.history["selection_log_loss"][-1] == pytest.approx(F.cross_entropy(2 * z, y).item(), rel=1e-6)
    assert got.history["selection_accuracy"][-1] == (z.argmax(1) == y).double().mean()
    assert got.history["logit_norm"][-1] == pytest.approx((2 * z).norm().item() / math.sqrt(len(y)), rel=1e-6)
    kappa = got.history["selection_kappa"][-1]
    repaired = F.cross_entropy(2 * z / kappa, y).item()
    assert got.history["selection_repaired_log_loss"][-1] == pytest.approx(repaired, rel=1e-9)
    assert repaired < min(F.cross_entropy(2 * z / (kappa * change), y).item() for change in (0.98, 1.02))
    shares = got.history["scale_share"]
    assert math.isnan(shares[0])
    assert all(0 < share < 1 for share in shares[1:])
    assert got.history["train_loss"][-1] < got.history["train_loss"][1]
    assert got.metadata["steps"] == 12
    assert got.metadata["lr"] == 0.1
    assert got.metadata["diverged_step"] is None


def test_no_epochs_leaves_the_initial_model() -> None:
    one = trial(epochs=0, head_init=3.0)
    got, plain = run(one), run(trial(epochs=0))
    assert got.history["epoch"] == [0]
    torch.testing.assert_close(got.logits["test"], 3 * plain.logits["test"])


def test_arms_of_a_seed_start_alike_and_seeds_do_not() -> None:
    weight = lambda one: models.head(initialize.initial_model(one, digits(), CPU, OBJECTIVES)).weight  # noqa: E731
    assert torch.equal(weight(trial()), weight(trial(beta=5.0, lr=0.7, objective="label_smoothing:0.1")))
    assert not torch.equal(weight(trial()), weight(trial(seed=1)))


def test_divergence_is_a_result_with_its_exact_step() -> None:
    one = trial(lr=1e30, schedule="constant", warmup=0.0, clip=0.0, momentum=0.0)
    model = initialize.initial_model(one, digits(), CPU)
    step = None
    optimizer = torch.optim.SGD(model.parameters(), lr=one.lr, weight_decay=1e-3)
    for at, (x, y) in enumerate(digits().train.train_batches(seed=0, epoch=0, batch=60, device=CPU)):
        loss = F.cross_entropy(one.beta * model(x), y)
        if not loss.isfinite():
            step = at
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    told: list[int] = []
    got = run(one, progress=told.append)
    assert got.status == "diverged"
    assert got.metadata["diverged_step"] == step is not None
    assert got.logits == {}
    assert got.history["epoch"] == [0]
    assert sum(told) == one.epochs * 4


@pytest.mark.parametrize("precision", ["bf16", "fp64"])
def test_precisions_agree_roughly(precision: str) -> None:
    got, plain = run(trial(precision=precision)), run(trial())
    assert got.logits["test"].dtype == (torch.float64 if precision == "fp64" else torch.float32)
    tolerance = 0.1 if precision == "bf16" else 1e-4
    error = (got.logits["test"] - plain.logits["test"]).norm() / plain.logits["test"].norm()
    assert error < tolerance


@pytest.mark.parametrize("model", ["cnn_4", "wrn_10_1", "wrn_10_1_nonorm"])
def test_learns_with_images(model: str) -> None:
    got = run(trial(model=model, beta=1.0, lr=0.05, epochs=3))
    assert got.history["selection_log_loss"][-1] < got.history["selection_log_loss"][0]


def test_loss_composes_terms() -> None:
    z = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, beta = torch.arange(7) % 5, torch.tensor(2.0, dtype=torch.float64)
    plain = F.cross_entropy(2 * z, y, reduction="none")
    number = lambda value: torch.tensor(value, dtype=torch.float64)  # noqa: E731
    smooth = Loss({"label_smoothing": number(0.1)}, OBJECTIVES)(z, y, beta)
    penalty = Loss({"confidence_penalty": number(0.3)}, OBJECTIVES)(z, y, beta)
    both = Loss({"label_smoothing": number(0.1), "confidence_penalty": number(0.3)}, OBJECTIVES)(z, y, beta)
    torch.testing.assert_close(Loss({})(z, y, beta), plain)
    torch.testing.assert_close(smooth, F.cross_entropy(2 * z, y, reduction="none", label_smoothing=0.1))
    torch.testing.assert_close(both, smooth + penalty - plain)
    with pytest.raises(SettingsError, match="did you mean 'label_smoothing'"):
        Loss({"label_smooting": number(0.1)}, OBJECTIVES)


def test_loss_is_float32_for_half_precision_logits() -> None:
    z = torch.randn(4, 3).bfloat16()
    loss = Loss({})(z, torch.zeros(4, dtype=torch.int64), torch.tensor(10.0))
    torch.testing.assert_close(loss, cross_entropy(10 * z.float(), torch.zeros(4, dtype=torch.int64)))


@given(
    schedule=st.sampled_from(fusion.SCHEDULES),
    epochs=st.integers(1, 12),
    per_epoch=st.integers(1, 7),
    warmup=st.integers(0, 10),
    data=st.data(),
)
def test_schedules_stay_within_bounds(schedule: str, epochs: int, per_epoch: int, warmup: int, data: Any) -> None:
    total = epochs * per_epoch
    step = data.draw(st.integers(0, total - 1))
    value = factor(schedule, step, total, per_epoch, warmup / 10 * epochs)
    assert 0 <= value <= 1
    assert value == factor(schedule, step, total, per_epoch, warmup / 10 * epochs)


def test_schedules_have_their_closed_forms() -> None:
    at = lambda name, step, warmup=0.0: factor(name, step, 100, 10, warmup)  # noqa: E731
    assert at("constant", 99) == 1
    assert at("cosine", 50) == pytest.approx(0.5)
    assert at("linear", 25) == 0.75
    assert [at("step", step) for step in (49, 50, 74, 75)] == [1, 0.1, 0.1, 0.01]
    assert [at("cosine", step, 1.0) for step in (0, 9, 10, 55)] == pytest.approx([0.1, 1, 1, 0.5])
    for step in (0, 30, 99):
        assert at("timm/cosine", step) == pytest.approx(at("cosine", step))
        assert at("timm/poly", step) == pytest.approx(at("linear", step))
    with pytest.raises(SettingsError, match="longer than the run"):
        at("cosine", 0, 11.0)
    with pytest.raises(SettingsError, match="did you mean 'cosine'"):
        at("cosin", 0)


def test_optimizer_groups_carry_the_head_factors() -> None:
    one = trial(head_lr=4.0, weight_decay=0.1)
    model = initialize.initial_model(one, digits(), CPU)
    optimizer = make_optimizer(one, model, 0.5)
    set_rate(optimizer, 0.5)
    body, head = optimizer.param_groups
    assert (body["lr"], body["weight_decay"], head["lr"], head["weight_decay"]) == (0.25, 0.1, 1.0, 0.025)
    assert {id(p) for p in head["params"]} == {id(p) for p in models.head(model).parameters()}


def test_timm_optimizers_and_unknown_ones() -> None:
    one = trial(optimizer="timm/lamb", schedule="timm/cosine", epochs=3, lr=0.02, warmup=0.0)
    got = run(one)
    assert got.history["train_loss"][-1] < got.history["train_loss"][1]
    for name in ("sdg", "timm/lamp"):
        with pytest.raises(SettingsError, match="did you mean"):
            fusion.check_optimizer(name)


def test_rate_units() -> None:
    assert run(trial(lr_unit="lr_eff", lr=0.4, epochs=0)).metadata["lr"] == pytest.approx(0.1)
    one = trial(lr_unit="lr_rel", lr=0.25, epochs=0, head_lr=2.0)
    got = run(one)
    x, y = probe(digits(), CPU)
    assert len(y) == PROBE < len(digits().train)
    top = lambda_max(initialize.initial_model(one, digits(), CPU), x, y, 2.0, head_lr=2.0)
    assert got.metadata["lr"] == pytest.approx(0.5 / top.value, rel=TOLERANCE)
    assert got.metadata["lambda_max_converged"]
    with pytest.raises(SettingsError, match="lr_rel"):
        run(trial(lr_unit="lr_rel", optimizer="adam"))


def test_dropout_is_found_and_reproducible() -> None:
    model = models.build("timm/mobilenetv3_small_050", digits("cnn_4").spec, 10)
    assert not initialize.stochastic(models.build("cnn_4", digits("cnn_4").spec, 10))
    assert initialize.stochastic(nn.Sequential(nn.Dropout(0.1)))
    assert not initialize.stochastic(nn.Sequential(nn.Dropout(0.0)))
    assert isinstance(initialize.stochastic(model), bool)


def kill_midway(victim: Callable[[Path], None], path: Path, after: float) -> None:
    """Run `victim(path)` in a process of its own and SIGKILL it some seconds after its first checkpoint."""
    process = forked.Run(victim, path)
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(after)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert path.exists()


VICTIM_TRIAL = trial(epochs=60, model="cnn_4", optimizer="adam", lr=0.01)


def victim(path: Path) -> None:
    run(VICTIM_TRIAL, checkpoint=path, checkpoint_seconds=0)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    kill_midway(victim, path, after=0.2)
    told: list[int] = []
    resumed = run(VICTIM_TRIAL, checkpoint=path, progress=told.append)
    assert 0 < told[0] < 240  # it went on from where it was, in the middle
    assert sum(told) == 240
    assert same(resumed, run(VICTIM_TRIAL))
    assert path.exists()  # until the outcome is stored
    assert same(run(VICTIM_TRIAL, checkpoint=path), resumed)


class Interrupted(Exception):
    """Stops a run from its progress callback."""


def test_stopping_after_any_step_resumes_bit_for_bit(tmp_path: Path) -> None:
    one, path = trial(epochs=2, model="wrn_10_1"), tmp_path / "checkpoint.pt"
    whole = run(one)

    class Saver(Checkpoint):
        def save(self, state: dict[str, Any]) -> None:
            super().save(state)
            raise Interrupted

    stops = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("calib_bench.train.single_loop.Checkpoint", Saver)
            try:
                resumed = run(one, checkpoint=path, checkpoint_seconds=0)
                break
            except Interrupted:
                stops += 1
    assert stops == 8
    assert same(resumed, whole)


def test_foreign_and_corrupt_checkpoints_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, one = tmp_path / "checkpoint.pt", trial(epochs=1)
    Checkpoint(path, "another", 0).save({"step": 3})
    with caplog.at_level(logging.WARNING):
        first = run(one, checkpoint=path, checkpoint_seconds=1e9)
    assert "belongs to another run" in caplog.text
    Checkpoint(path, one.key, 0).save({"step": 3})
    for junk in (b"", b"junk" * 20, path.read_bytes()[:-1], path.read_bytes().replace(b"step", b"stop")):
        path.write_bytes(junk)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert same(run(one, checkpoint=path, checkpoint_seconds=1e9), first)
        assert "is not whole" in caplog.text


def test_unwritable_checkpoint_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write checkpoint"):
        run(trial(epochs=1), checkpoint=tmp_path / "file" / "checkpoint.pt", checkpoint_seconds=0)


@given(st.integers(0, 5000), st.integers(1, 1000))
def test_history_has_every_long_epoch_and_both_ends(epochs: int, per_epoch: int) -> None:
    rows = sorted(history.row_epochs(epochs, per_epoch))
    assert rows[0] == 0
    assert rows[-1] == epochs
    assert min(1, epochs) in rows
    if per_epoch >= 20 or epochs <= 20:
        assert rows == list(range(epochs + 1))
    assert len(rows) <= max(epochs * per_epoch / 20 + 3, 21)


def test_train_sends_each_trial_to_its_loop(tmp_path: Path) -> None:
    alone = train([trial(epochs=1)], digits(), device=CPU)
    pair = train([trial(epochs=1), trial(epochs=1, beta=3.0)], digits(), device=CPU, checkpoint=tmp_path / "c")
    assert [one.metadata["mode"] for one in alone + pair] == ["fused"] * 3
    assert same(alone[0], pair[0])
    images = train([trial(model="cnn_4", epochs=1)], digits("cnn_4"), device=CPU)
    assert images[0].metadata["mode"] == "single"
