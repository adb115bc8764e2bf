"""Exact identities of training at an inverse temperature, through the real loops, in float64.

Identities 1 and 2: Agarwala, Pennington, Dauphin, Schoenholz, arXiv 2010.07344.
"""

from __future__ import annotations

import pytest
import torch
from test_train import CPU, digits, run, trial
from torch import Tensor

from calib_bench import discover
from calib_bench.train import setup
from calib_bench.train.fused import train_fused
from calib_bench.train.outcome import Outcome
from calib_bench.trial import Trial


def train_one(one: Trial, loop: str) -> Outcome:
    return run(one) if loop == "single" else train_fused([one], digits(one.model), device=CPU)[0]


@pytest.mark.parametrize(("model", "loop"), [("mlp_32_16", "single"), ("mlp_32_16", "fused"), ("cnn_4_6", "single")])
@pytest.mark.parametrize("beta", [0.2, 3.0])
@pytest.mark.parametrize("unit", ["lr", "lr_rel"])
def test_training_at_beta_is_a_reparametrized_head(model: str, loop: str, beta: float, unit: str) -> None:
    """Beta equals the head's initial weights times beta and its rate times beta^2, decay divided by beta^2."""
    shared = {"model": model, "precision": "fp64", "epochs": 6, "weight_decay": 1e-2, "lr": 0.05, "lr_unit": unit}
    at_beta = train_one(trial(beta=beta, **shared), loop)
    at_one = train_one(trial(beta=1.0, head_init=beta, head_lr=beta**2, **shared), loop)
    for name, z in at_beta.logits.items():
        torch.testing.assert_close(beta * z, at_one.logits[name], rtol=1e-9, atol=1e-10)
    assert at_beta.facts["lr"] == pytest.approx(at_one.facts["lr"], rel=1e-6)
    for column in ("train_loss", "selection_log_loss", "logit_norm"):
        assert at_beta.history[column] == pytest.approx(at_one.history[column], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("half", ["head_lr", "head_init"])
def test_each_half_of_the_reparametrization_alone_is_not_enough(half: str) -> None:
    shared = {"precision": "fp64", "epochs": 4, "lr": 0.05}
    at_beta = run(trial(beta=3.0, **shared)).logits["test"]
    alone = run(trial(beta=1.0, **{half: 9.0 if half == "head_lr" else 3.0}, **shared)).logits["test"]
    assert (3 * at_beta - alone).norm() > 1e-2 * alone.norm()


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_training_a_homogeneous_net_at_beta_is_rescaling_it(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without biases or decay, L layers: beta equals every initial weight times beta^(1/L), rates times beta^(2/L)."""
    shared = {"model": "mlp_24_16_nobias", "precision": "fp64", "epochs": 6, "weight_decay": 0.0}
    at_beta = run(trial(beta=beta, lr=0.02, **shared))
    plain = setup.initial_model

    def rescaled(*args: object) -> torch.nn.Module:
        model = plain(*args)  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(beta ** (1 / 3))
        return model

    monkeypatch.setattr(setup, "initial_model", rescaled)
    at_one = run(trial(beta=1.0, lr=0.02 * beta ** (2 / 3), **shared))
    for name, z in at_beta.logits.items():
        torch.testing.assert_close(beta * z, at_one.logits[name], rtol=1e-9, atol=1e-10)


def calibrated(Z: Tensor, fit_on: Tensor, y: Tensor) -> Tensor:
    method = discover.calibrators(["temperature_scaling"])["temperature_scaling"]
    return method.apply(method.fit(fit_on, y), Z)


@pytest.mark.parametrize("beta", [0.2, 3.0])
def test_after_temperature_scaling_the_training_beta_drops_out(beta: float) -> None:
    """softmax(z / T*) depends on z alone, no argmax ever changes, and so a rescaled copy has no effect of its own."""
    z = run(trial(beta=beta, precision="fp64", epochs=6)).logits
    y = digits().calibration.labels
    with_beta = calibrated(beta * z["test"], beta * z["calibration"], y)
    without = calibrated(z["test"], z["calibration"], y)
    torch.testing.assert_close(with_beta, without, rtol=1e-8, atol=1e-10)
    assert torch.equal(with_beta.argmax(-1), z["test"].argmax(-1))
