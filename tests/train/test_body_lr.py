"""The body's rate has a factor of its own; at 0 the head alone trains, and the body stays as it is to the bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from calib_bench import models
from calib_bench.core.settings import parse
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import plan
from calib_bench.train.initialize import initial_model
from calib_bench.train.learning_rate import curvature, euler_degree_of
from calib_bench.train.train import train
from tests.train.test_train import CPU, OBJECTIVES, digits, run, trial

KEEPS = {"keep": "weights", "epochs": 1}


@pytest.mark.parametrize("objective", ["cross_entropy", "label_smoothing:0.1", "norm_softmax:1"])
def test_a_body_at_rest_stays_to_the_bit_batch_norm_too(objective: str) -> None:
    """Weight decay, momentum and clipping included."""
    one = trial(model="wrn_10_1", body_lr=0.0, objective=objective, clip=0.5, **KEEPS)
    started = initial_model(one, digits("wrn_10_1"), CPU, OBJECTIVES)
    head = models.head_names(started)
    ended = run(one).weights
    for name, value in started.state_dict().items():
        assert torch.equal(ended[name], value) == (name not in head), name


def test_a_head_alone_is_softmax_regression_on_the_bodys_features() -> None:
    one = trial(body_lr=0.0, schedule="constant", warmup=0.0, precision="fp64", **KEEPS)
    model = initial_model(one, digits(), CPU)
    head = nn.Linear(16, 10).double()
    head.load_state_dict(models.head(model).state_dict())
    optimizer = torch.optim.SGD(head.parameters(), lr=one.lr, momentum=0.9, weight_decay=1e-3)
    for x, y in digits().train.train_batches(seed=0, epoch=0, batch=60, device=CPU):
        loss = F.cross_entropy(one.beta * head(features(model, x.double())), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(run(one).weights["head.weight"], head.weight.detach(), rtol=1e-10, atol=1e-12)


def features(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the head is given."""
    kept: list[torch.Tensor] = []
    hook = models.head(model).register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].detach()))
    model(x)
    hook.remove()
    return kept[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_factor_on_the_body_is_one_over_it_on_the_head_at_a_rate_times_it(optimizer: str) -> None:
    """The head reparametrization's groups, but for its weight decay: the same two rates, set in two ways; in the loop
    of one model, and beside another in a stack."""
    base = {"optimizer": optimizer, "precision": "fp64", "weight_decay": 0.0, "epochs": 2, "clip": 0.5}
    base |= {"momentum": 0.9 if optimizer == "sgd" else 0.0}
    rate = 0.1 if optimizer == "sgd" else 0.01
    slow, fast = trial(body_lr=0.25, lr=rate, **base), trial(head_lr=4.0, lr=rate / 4, **base)
    expected = run(fast).logits["test"]
    torch.testing.assert_close(run(slow).logits["test"], expected, rtol=1e-9, atol=1e-10)
    ordinary = trial(lr=rate, **base)
    stack = train([slow, ordinary], digits(), device=CPU, objectives=OBJECTIVES)
    assert stack[0].metadata["stack"] == 2
    torch.testing.assert_close(stack[0].logits["test"], expected, rtol=1e-8, atol=1e-9)
    assert not torch.allclose(stack[1].logits["test"], expected)


def test_units_of_the_rate_count_the_factor() -> None:
    """lambda_max is that of D^1/2 H D^1/2; a body at rest leaves a net that is linear in its head, of degree 1."""

    def top(**changes: float) -> float:
        one = trial(precision="fp64", **changes)
        return curvature(one, initial_model(one, digits(), CPU), digits(), CPU)[0]

    assert top(body_lr=0.25) == pytest.approx(0.25 * top(head_lr=4.0), rel=1e-6)
    assert top(body_lr=0.0) == pytest.approx(top(body_lr=1e-9), rel=0.02)
    assert euler_degree_of(trial(body_lr=0.0, precision="fp64"), digits(), CPU).mean == pytest.approx(1, abs=1e-6)
    assert euler_degree_of(trial(precision="fp64"), digits(), CPU).mean > 1.5


def test_the_neutral_factor_is_in_no_key() -> None:
    assert "body_lr" not in trial().canonical()
    assert trial(body_lr=0.5).key != trial().key
    planned = plan(resolve(parse(["body_lr=0,1", "lr=0.1", "beta=1", "seed=0"])), lambda one: None)
    assert {one.body_lr for one in planned} == {0.0, 1.0}
    with pytest.raises(SettingsError, match="body_lr=0 leaves batch norm as it is"):
        resolve(parse(["task=cifar10", "model=wrn_10_1", "body_lr=0,0.1", "norm_batch=8"]))
