"""Exact identities of training at an inverse temperature, through the real loops, in float64.

Identities 1 to 4: Agarwala, Pennington, Dauphin, Schoenholz, arXiv 2010.07344.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from calib_bench import models, registry
from calib_bench.core.splits import InputSpec, Splits
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.data.tensors import DeviceCache
from calib_bench.data.text import TextSplit
from calib_bench.train import initialize
from calib_bench.train.optimizer import factor
from calib_bench.train.single_loop import train_single
from calib_bench.train.stacked_loop import train_fused
from tests.train.test_train import CPU, digits, trial

OTHERS = ["cnn_4_6", "wrn_10_1_nonorm", "gru_6", "timm/test_resnet"]
EXACT = {"rtol": 1e-9, "atol": 1e-10}


@cache
def words() -> Splits:
    """Made-up reviews of 3 to 9 words of 20, in 3 classes: a text's class shows in which words it has."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (160,), generator=draw)
    lengths = torch.randint(3, 10, (160,), generator=draw)
    texts = [2 + (6 * y + torch.randint(8, (int(n),), generator=draw)) for y, n in zip(labels, lengths, strict=True)]
    tokens, offsets = DeviceCache(torch.cat(texts).int()), torch.cat((torch.zeros(1), lengths.cumsum(0))).long()
    parts = dict(zip(("train", "selection", "calibration", "test"), torch.arange(160).split(40), strict=True))
    made = {name: TextSplit(tokens, offsets, rows, labels[rows]) for name, rows in parts.items()}
    spec, names = InputSpec("tokens", vocabulary=22), ("a", "b", "c")
    return Splits(**made, spec=spec, classes=3, class_names=names, source="made up", digest="0" * 64, notes={})


def splits_of(model: str) -> Splits:
    return words() if model.startswith("gru") else digits(model)


def exact(**changes: Any) -> Trial:
    """A trial in float64, of few epochs; batches of 20 for the few words there are, of residual nets one epoch."""
    model = changes.get("model", "mlp_16")
    own = {"batch": 20} if model.startswith("gru") else {} if model.startswith(("mlp", "cnn")) else {"epochs": 1}
    return trial(**{"precision": "fp64", "epochs": 4, "lr": 0.05, "warmup": 0.5, **changes, **own})


def train_one(one: Trial, loop: str = "single") -> TrialResult:
    splits = splits_of(one.model)
    objectives = registry.objectives()
    if loop == "single":
        return train_single(one, splits, device=CPU, objectives=objectives)
    return train_fused([one], splits, device=CPU, objectives=objectives)[0]


def assert_scaled(at_beta: TrialResult, beta: float, at_one: TrialResult) -> None:
    """Same beta z everywhere, and somewhere away from where it began."""
    for name, z in at_beta.logits.items():
        torch.testing.assert_close(beta * z, at_one.logits[name], **EXACT)
    before, after = (at_beta.history["selection_log_loss"][row] for row in (0, -1))
    assert abs(after - before) > 1e-4 * before


SMALL = (("mlp_32_16", "single"), ("mlp_32_16", "fused"), ("cnn_4_6", "single"))
CASES = [
    *((model, loop, beta, unit) for model, loop in SMALL for beta in (0.2, 3.0) for unit in ("lr", "lr_rel")),
    *((model, "single", 3.0, "lr") for model in OTHERS[1:]),
]


@pytest.mark.parametrize(("model", "loop", "beta", "unit"), CASES)
def test_training_at_beta_is_a_reparametrized_head(model: str, loop: str, beta: float, unit: str) -> None:
    """Beta equals the head's initial weights times beta and its rate times beta^2, decay divided by beta^2."""
    shared = {"model": model, "weight_decay": 1e-2, "lr_unit": unit}
    at_beta = train_one(exact(beta=beta, **shared), loop)
    at_one = train_one(exact(beta=1.0, head_init=beta, head_lr=beta**2, **shared), loop)
    assert_scaled(at_beta, beta, at_one)
    assert at_beta.metadata["lr"] == pytest.approx(at_one.metadata["lr"], rel=1e-6)
    for column in ("train_loss", "selection_log_loss", "logit_norm"):
        assert at_beta.history[column] == pytest.approx(at_one.history[column], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("loop", ["single", "fused"])
def test_a_pair_has_a_reparametrized_head_too(loop: str) -> None:
    at_beta = train_one(exact(beta=3.0, correlation=-0.5), loop)
    at_one = train_one(exact(beta=1.0, correlation=-0.5, head_init=3.0, head_lr=9.0), loop)
    assert_scaled(at_beta, 3.0, at_one)


@pytest.mark.parametrize("half", ["head_lr", "head_init"])
def test_each_half_of_the_reparametrization_alone_is_not_enough(half: str) -> None:
    at_beta = train_one(exact(beta=3.0)).logits["test"]
    alone = train_one(exact(beta=1.0, **{half: 9.0 if half == "head_lr" else 3.0})).logits["test"]
    assert (3 * at_beta - alone).norm() > 1e-2 * alone.norm()


def homogeneous(change: float, plain: Any) -> Any:
    """`setup.initial_model` with every bias taken away and every weight times `change`."""

    def build(*args: object) -> nn.Module:
        model = plain(*args)
        for module in model.modules():
            if getattr(module, "bias", None) is not None:
                module.register_parameter("bias", None)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(change)
        return model

    return build


@pytest.mark.parametrize("loop", ["single", "fused"])
@pytest.mark.parametrize("model", ["mlp_24_16_nobias", "cnn_4_6"])
@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_training_a_homogeneous_net_at_beta_is_rescaling_it(
    model: str, loop: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without biases or decay, 3 layers: beta equals every initial weight times beta^(1/3), rates times beta^(2/3)."""
    shared = {"model": model, "weight_decay": 0.0, "epochs": 6}
    plain = initialize.initial_model
    monkeypatch.setattr(initialize, "initial_model", homogeneous(1.0, plain))
    at_beta = train_one(exact(beta=beta, lr=0.02, **shared), loop)
    monkeypatch.setattr(initialize, "initial_model", homogeneous(beta ** (1 / 3), plain))
    at_one = train_one(exact(beta=1.0, lr=0.02 * beta ** (2 / 3), **shared), loop)
    assert_scaled(at_beta, beta, at_one)


def unswitched(one: Trial, change: float) -> Tensor:
    """Test logits of a plain loop at the first beta, in which the head's rate alone is multiplied half-way."""
    splits = splits_of(one.model)
    model = initialize.initial_model(one, splits, CPU).train()
    head = {id(p) for p in models.head(model).parameters()}
    groups = [{"params": [p for p in model.parameters() if (id(p) in head) == own]} for own in (False, True)]
    optimizer = torch.optim.SGD(groups, lr=one.lr, momentum=one.momentum)
    per_epoch = splits.train.steps(one.batch)
    for step in range(total := one.epochs * per_epoch):
        batches = splits.train.train_batches(
            seed=one.seed, epoch=step // per_epoch, batch=one.batch, device=CPU, skip=step % per_epoch
        )
        x, y = next(iter(batches))
        rate = one.lr * factor(one.schedule, step, total, per_epoch, one.warmup)
        for group, own in zip(optimizer.param_groups, (1.0, change if step >= total // 2 else 1.0), strict=True):
            group["lr"] = rate * own
        optimizer.zero_grad()
        nn.functional.cross_entropy(one.beta * model(initialize.prepare(x, "fp64")), y).backward()
        optimizer.step()
    z_NK = torch.empty(len(splits.test), splits.classes, dtype=torch.float64)
    model.eval()
    for x, index in splits.test.eval_batches(batch=256, device=CPU):
        z_NK[index] = model(initialize.prepare(x, "fp64")).detach()
    return z_NK


@pytest.mark.parametrize("loop_of", [("mlp_16", "single"), ("mlp_16", "fused"), *((m, "single") for m in OTHERS)])
def test_a_switch_of_beta_is_a_change_of_the_heads_rate(loop_of: tuple[str, str]) -> None:
    """Momentum and all: nothing shows at the switch, and what follows is as if the head's rate were (b2 / b1)^2."""
    model, loop = loop_of
    shared = {"model": model, "weight_decay": 0.0}
    switched = train_one(exact(beta=2.0, switch_from=0.5, switch_at=0.5, **shared), loop)
    expected = unswitched(exact(beta=0.5, **shared), 16.0)
    torch.testing.assert_close(2.0 * switched.logits["test"], 0.5 * expected, **EXACT)
    steady = train_one(exact(beta=0.5, **shared), loop).logits["test"]
    assert (expected - steady).norm() > 1e-4 * steady.norm()


def calibrated(Z: Tensor, fit_on: Tensor, y: Tensor) -> Tensor:
    method = registry.calibrators(["temperature_scaling"])["temperature_scaling"]
    return method.apply(method.fit(fit_on, y), Z)


@pytest.mark.parametrize(("model", "beta"), [("mlp_16", 0.2), ("mlp_16", 3.0), *((model, 3.0) for model in OTHERS)])
def test_after_temperature_scaling_the_training_beta_drops_out(model: str, beta: float) -> None:
    """softmax(z / T*) depends on z alone, no argmax ever changes, and so a rescaled copy has no effect of its own."""
    z = train_one(exact(model=model, beta=beta, epochs=2)).logits
    y = splits_of(model).calibration.labels
    with_beta = calibrated(beta * z["test"], beta * z["calibration"], y)
    without = calibrated(z["test"], z["calibration"], y)
    torch.testing.assert_close(with_beta, without, rtol=1e-8, atol=1e-10)
    assert torch.equal(with_beta.argmax(-1), z["test"].argmax(-1))
