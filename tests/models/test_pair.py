"""Correlated initialization: two copies of a body under one head."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench import models
from calib_bench.core.settings import parse
from calib_bench.core.splits import InputSpec
from calib_bench.errors import SettingsError, UserError
from calib_bench.planning.defaults import resolve
from calib_bench.train import initialize
from calib_bench.train.stacked_loop import fuse_key
from calib_bench.train.stacked_model import Packed, StackedModel, StackedPair, stacked
from tests.models.test_models import BUILDABLE, batch, made
from tests.train.test_stacked_loop import assert_close, fuse
from tests.train.test_train import CPU, digits, run, trial

VECTOR = InputSpec("vector", (12,))
CORRELATIONS = (-1.0, -0.9, -0.5, 0.0, 0.7, 1.0)


def pair(name: str, spec: InputSpec, correlation: float, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.paired(models.build(name, spec, 10).double(), correlation).eval()


@pytest.mark.parametrize(("name", "spec"), BUILDABLE)
def test_initial_logits_grow_as_the_root_of_one_plus_c(name: str, spec: InputSpec) -> None:
    x = batch(spec, dtype=torch.float64)
    z = {c: pair(name, spec, c)(x).detach() for c in CORRELATIONS}
    assert not z[-1.0].any()
    assert z[0.0].norm() > 0
    for c in CORRELATIONS:
        torch.testing.assert_close(z[c], math.sqrt(1 + c) * z[0.0])


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.5])
def test_the_heads_have_the_correlation_and_the_scale_of_the_models_own(correlation: float) -> None:
    """Over many seeds; the magnitude at c = -1/2 is that of the model alone."""
    ours, own = [], []
    for seed in range(100):
        ours.append(torch.stack(pair("mlp_16", VECTOR, correlation, seed).head.weight.chunk(2, 1)).flatten(1))
        own.append(made("mlp_16", VECTOR, seed=seed).head.weight.flatten())
    W_2N, own_N = torch.cat(ours, 1).detach(), torch.cat(own).detach()
    assert torch.corrcoef(W_2N)[0, 1].item() == pytest.approx(correlation, abs=0.02)
    for W_N in W_2N:
        assert W_N.square().mean().item() == pytest.approx(own_N.square().mean().item(), rel=0.03)
        standard = W_N / W_N.std()
        assert standard.pow(4).mean().item() == pytest.approx(3, abs=0.15)  # Gaussian: of a uniform it is 1.8


def gradients(model: nn.Module, x: Tensor, y: Tensor, beta: float) -> dict[str, float]:
    model.zero_grad()
    F.cross_entropy(beta * model(x), y).backward()
    return {name: p.grad.square().sum().item() for name, p in model.named_parameters() if p.grad is not None}


def test_each_copys_gradients_keep_their_scale() -> None:
    """Mean squares over seeds at small beta, where the residual is the same for all: those of the model alone."""
    x, y = batch(VECTOR, 32, dtype=torch.float64), torch.arange(32) % 10
    names = ("body.0.weight", "body.0.bias")
    alone = [gradients(made("mlp_16", VECTOR, seed=seed).double(), x, y, 1e-3) for seed in range(60)]
    own = {name: sum(grads[name] for grads in alone) for name in names}
    for correlation in (-1.0, 0.0, 1.0):
        found = [gradients(pair("mlp_16", VECTOR, correlation, seed), x, y, 1e-3) for seed in range(60)]
        for copy in ("first", "second"):
            for name in names:
                assert sum(grads[f"{copy}.{name}"] for grads in found) == pytest.approx(own[name], rel=0.15)


@pytest.mark.parametrize("model", ["mlp_16", "cnn_4", "wrn_10_1"])
def test_arms_of_a_seed_share_their_bodies(model: str) -> None:
    plain = initialize.initial_model(trial(model=model), digits(model), CPU)
    bodies = [name for name, _ in plain.named_parameters() if not name.startswith("head")]
    for correlation in (-1.0, 0.3):
        state = initialize.initial_model(trial(model=model, correlation=correlation), digits(model), CPU).state_dict()
        for name in bodies:
            for copy in ("first", "second"):
                assert torch.equal(state[f"{copy}.{name}"], plain.state_dict()[name])


def test_copies_train_apart_from_zero_logits() -> None:
    one = trial(correlation=-1.0, lr=0.2, epochs=8)
    got = run(one)
    assert got.history["logit_norm"][0] == 0
    assert got.history["selection_log_loss"][0] == pytest.approx(math.log(10))
    assert got.history["selection_log_loss"][-1] < 1
    assert got.metadata["parameters"] == 2 * (64 * 16 + 16) + 2 * 16 * 10 + 10


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("model", ["mlp_16", "cnn_4_6", "wrn_10_1", "timm/test_resnet"])
def test_zero_logits_are_exact_in_every_precision(model: str, precision: str) -> None:
    got = run(trial(model=model, correlation=-1.0, epochs=0, precision=precision))
    assert not got.logits["test"].any()


@pytest.mark.parametrize("name", ["mlp_7_5", "mlp_6_nobias"])
def test_the_written_out_backward_is_the_gradient(name: str) -> None:
    torch.manual_seed(0)
    copies = [models.paired(made(name, VECTOR, 4, seed=seed).double(), 0.3) for seed in range(3)]
    weights, _ = torch.func.stack_module_state(copies)
    params, ours, theirs = Packed(weights), Packed(weights), Packed(weights)
    params.all.normal_()
    x, dz = torch.randn(3, 11, 12).double(), torch.randn(3, 11, 4).double()
    fast, general = stacked(copies[0], params, ours), StackedModel(copies[0], params, theirs)
    assert isinstance(fast, StackedPair)
    torch.testing.assert_close(fast.forward(x), general.forward(x))
    fast.backward(dz)
    general.backward(dz)
    assert ours.all.abs().sum(1).min() > 0
    torch.testing.assert_close(ours.all, theirs.all)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_stacked_loop_agrees_with_the_single_one(optimizer: str) -> None:
    shared = {"optimizer": optimizer, "precision": "fp64", "lr": 0.1 if optimizer == "sgd" else 0.01}
    trials = [
        trial(correlation=-1.0, **shared),
        trial(correlation=0.4, seed=1, beta=0.3, head_lr=2.0, head_init=0.5, **shared),
        trial(correlation=1.0, objective="label_smoothing:0.1", clip=0.0, **shared),
        trial(correlation=-0.5, switch_from=1.0, switch_at=0.5, **shared),
    ]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one))


@pytest.mark.parametrize("model", ["cnn_4_6", "mlp_8"])
def test_other_stacks_agree_too(model: str) -> None:
    """Convolutions, rates in units of the critical one, and another head."""
    shared = {"model": model, "precision": "fp64", "epochs": 2, "momentum": 0.0}
    more = {"lr_unit": "lr_rel", "lr": 0.3} if model == "mlp_8" else {"objective": "learned_beta:2"}
    trials = [trial(correlation=c, seed=seed, **shared, **more) for c in (-0.7, 0.5) for seed in (0, 1)]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one), 1e-9)
    assert len({run(one).metadata["lr"] for one in trials}) == (4 if model == "mlp_8" else 1)


def test_pairs_are_stacked_among_themselves() -> None:
    assert fuse_key(trial(correlation=-1.0)) == fuse_key(trial(correlation=0.5)) not in (None, fuse_key(trial()))


def test_a_head_that_starts_at_zero_has_no_scale() -> None:
    model = made("mlp_8", VECTOR)
    nn.init.zeros_(model.head.weight)
    with pytest.raises(UserError, match="starts at zero"):
        models.paired(model, 0.0)


def test_settings_take_a_grid_of_correlations_and_say_what_is_wrong() -> None:
    settings = resolve(parse(["correlation=-1,0,0.5"]))
    assert parse(settings.words()).correlation == (-1, 0, 0.5)
    assert (settings.spaces or {})["mlp_128_128"]["correlation"] == (-1, 0, 0.5)
    assert (resolve(parse([])).spaces or {})["mlp_128_128"]["correlation"] == (None,)
    with pytest.raises(SettingsError, match=r"correlation=-1\.5 is not valid"):
        parse(["correlation=-1.5"])
    with pytest.raises(SettingsError, match="draws a new head"):
        resolve(parse(["model=timm/test_resnet", "pretrained=true", "correlation=0"]))
