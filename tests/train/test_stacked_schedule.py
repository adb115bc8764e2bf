"""Training whose beta, inputs or head are not the usual ones, through both loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from calib_bench.core.trial import Trial, TrialResult
from calib_bench.errors import SettingsError
from calib_bench.train.stacked_loop import train_fused
from calib_bench.train.train import train
from tests.train.test_train import CPU, OBJECTIVES, digits, run, trial

EXACT = {"precision": "fp64", "lr": 0.05, "weight_decay": 1e-3}
DEPARTURES: dict[str, dict[str, Any]] = {
    "annealed": {"objective": "beta_anneal:1.0"},
    "mixed": {"objective": "mixup:0.4"},
    "mixed and smoothed": {"objective": "label_smoothing:0.1+mixup:0.4"},
    "focal": {"objective": "focal_loss:2.0"},
    "normed": {"objective": "logit_norm:10.0"},
    "squared": {"objective": "squared_error:1.0"},
    "cosine": {"objective": "cosine_head:10.0"},
    "learned": {"objective": "learned_beta:1.0", "head_decay": 0.0},
    "switched": {"switch_from": 0.3, "switch_at": 0.5},
    "switched, Adam": {"switch_from": 0.3, "switch_at": 0.5, "optimizer": "adam", "lr": 3e-3},
    "head undecayed": {"head_decay": 0.0, "weight_decay": 0.1},
}


def same(first: TrialResult, second: TrialResult, rtol: float = 1e-8) -> None:
    for name, z in first.logits.items():
        torch.testing.assert_close(z, second.logits[name], rtol=rtol, atol=1e-9)
    for column in ("train_loss", "train_accuracy", "selection_log_loss", "logit_norm", "weight_norm", "head_norm"):
        assert first.history[column] == pytest.approx(second.history[column], rel=rtol, nan_ok=True), column


@pytest.mark.parametrize("name", DEPARTURES)
def test_both_loops_agree(name: str) -> None:
    one = trial(**{**EXACT, **DEPARTURES[name]})
    plain = trial(**{**EXACT, "optimizer": one.optimizer, "lr": one.lr, "head_decay": one.head_decay, "seed": 3})
    members = (
        [one]
        if "head" in name or name in ("cosine", "learned")
        else [plain, one, plain.model_copy(update={"beta": 0.5})]
    )
    fused = train_fused(members, digits(), device=CPU, objectives=OBJECTIVES)
    same(run(one), fused[members.index(one)])
    if len(members) > 1:
        same(run(plain), fused[0])


@pytest.mark.parametrize("name", DEPARTURES)
def test_each_departure_departs(name: str) -> None:
    changes = {**EXACT, **DEPARTURES[name]}
    plain = {k: v for k, v in changes.items() if k in ("precision", "lr", "weight_decay", "optimizer")}
    there, here = run(trial(**changes)).logits["test"], run(trial(**plain)).logits["test"]
    assert (there - here).norm() > 1e-3 * here.norm()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_switch_leaves_predictions_as_they_are(optimizer: str, fused: bool) -> None:
    """One update before the switch and one after it, at a rate so small that nothing else can move beta z."""
    changes = {"precision": "fp64", "lr": 1e-13, "optimizer": optimizer, "weight_decay": 0.0, "head_init": 30.0}
    switched = trial(beta=3.0, switch_from=0.3, switch_at=0.5, **changes)
    steady = trial(beta=0.3, **changes)
    train_one = (lambda one: train_fused([one], digits(), device=CPU, objectives=OBJECTIVES)[0]) if fused else run
    after, before = train_one(switched).logits["test"] * 3.0, train_one(steady).logits["test"] * 0.3
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    history = train_one(switched).history["selection_log_loss"]
    assert history == pytest.approx([history[0]] * len(history), rel=1e-9)


def test_training_after_a_switch_is_training_at_the_new_beta() -> None:
    """Momentum and all: the second half equals a run at beta2 from the switched weights (arXiv 2010.07344).

    By the head's reparametrization a switch from b1 to b2 is, at b1, a change of the head's rate by (b2 / b1)^2.
    """
    one = run(trial(beta=2.0, switch_from=0.5, switch_at=0.5, **{**EXACT, "weight_decay": 0.0, "schedule": "constant"}))
    reference = _by_hand(beta=0.5, change=16.0, **{**EXACT, "weight_decay": 0.0, "schedule": "constant"})
    torch.testing.assert_close(2.0 * one.logits["test"], 0.5 * reference, rtol=1e-8, atol=1e-9)


def _by_hand(beta: float, change: float, **changes: Any) -> torch.Tensor:
    """Logits of a run at `beta` whose head's rate is multiplied half-way by `change`, in a plain loop."""
    from calib_bench import models
    from calib_bench.train import initialize

    one = trial(beta=beta, **changes)
    splits = digits()
    model = initialize.initial_model(one, splits, CPU)
    head = {id(p) for p in models.head(model).parameters()}
    optimizer = torch.optim.SGD(
        [{"params": [p for p in model.parameters() if (id(p) in head) == own], "lr": one.lr} for own in (False, True)],
        lr=one.lr,
        momentum=one.momentum,
    )
    total, step = one.epochs * splits.train.steps(one.batch), 0
    warm = splits.train.steps(one.batch) * one.warmup
    for epoch in range(one.epochs):
        for x, y in splits.train.train_batches(seed=one.seed, epoch=epoch, batch=one.batch, device=CPU):
            rate = one.lr * min(1.0, (step + 1) / warm)
            for group, factor in zip(optimizer.param_groups, (1.0, change if step >= total // 2 else 1.0), strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(beta * model(x.double()), y).backward()
            optimizer.step()
            step += 1
    x = torch.cat([x for x, _ in splits.test.eval_batches(batch=10_000, device=CPU)])
    return model(x.double()).detach()


def test_a_killed_switch_is_resumed_to_the_bit(tmp_path: Any) -> None:
    one = trial(switch_from=0.3, switch_at=0.5)
    whole = run(one)

    class Stop(Exception):
        pass

    def stop(after: int) -> Any:
        seen = 0

        def progress(steps: int) -> None:
            nonlocal seen
            seen += steps
            if seen >= after:
                raise Stop

        return progress

    for after in (7, 8, 9):
        path = tmp_path / f"{after}.ckpt"
        with pytest.raises(Stop):
            train(
                [one],
                digits(),
                device=CPU,
                objectives=OBJECTIVES,
                checkpoint=path,
                checkpoint_seconds=0,
                progress=stop(after),
            )
        resumed = train([one], digits(), device=CPU, objectives=OBJECTIVES, checkpoint=path, checkpoint_seconds=0)[0]
        assert torch.equal(
            resumed.logits["test"], train([one], digits(), device=CPU, objectives=OBJECTIVES)[0].logits["test"]
        )
    assert whole.status == "done"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"switch_from": 0.3, "switch_at": 0.5, "objective": "cosine_head:10.0"}, "plain linear head"),
        ({"switch_from": 0.3, "switch_at": 0.5, "optimizer": "timm/lamb"}, "one of the optimizers"),
    ],
)
def test_what_cannot_be_switched_says_so(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        run(trial(**changes))


def test_members_with_other_heads_are_not_stacked_together() -> None:
    from calib_bench.train.fusion import fuse_key

    keys = {
        fuse_key(Trial(**{**trial().model_dump(), "objective": o}), OBJECTIVES)
        for o in ("cross_entropy", "label_smoothing:0.1", "cosine_head:10.0", "cosine_head:5.0", "learned_beta:1.0")
    }
    assert len(keys) == 4
